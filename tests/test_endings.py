"""How a command ends before it is done, and that it leaves nothing behind that it should not."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from small_runs import tiny

from retrieval import endings, training
from retrieval.callbacks.checkpoints import written
from retrieval.config import CONFIGS
from retrieval.errors import InputError
from retrieval.parts import Parts


@pytest.fixture(autouse=True)
def _interrupts() -> Any:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_by_130_with_a_line_that_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, endings.without_traceback(lambda: "the same command goes on"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: the same command goes on\n"


def test_what_is_printed_without_care_ends_quietly_too_where_nobody_reads_it() -> None:
    code = "from retrieval import endings\nwith endings.without_traceback(str):\n    while True: print('line')"
    started = subprocess.Popen(
        [sys.executable, "-c", code], cwd=CONFIGS.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None and started.stderr is not None
    started.stdout.readline()
    started.stdout.close()
    assert (started.stderr.read(), started.wait()) == ("", 128 + signal.SIGPIPE)


def test_a_broken_pipe_to_another_process_is_no_reader_that_is_gone() -> None:
    with pytest.raises(BrokenPipeError), endings.without_traceback(str):
        raise BrokenPipeError("of a worker")


class Pressed(pl.Callback):
    """Ctrl-C within the third step."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_training_that_is_interrupted_finishes_its_step_and_keeps_it(photos: Path, tmp_path: Path) -> None:
    parts = Parts.of(tiny(photos, tmp_path / "run"))
    parts.trainer.callbacks.append(Pressed())  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(KeyboardInterrupt):
        training.train(parts, None, 0, tmp_path / "run")
    assert [path.name for path in written(tmp_path / "run" / "checkpoints")] == ["last-00000003.ckpt"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_folder_that_is_a_file_or_below_one_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"output_dir {tmp_path}/{place} is no folder .*: {tmp_path}/file is a file"):
        endings.refuse_unwritable(tmp_path / place)


def test_an_output_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(InputError, match="output_dir /proc/x/y is no folder that can be written to"):
        endings.refuse_unwritable("/proc/x/y")


def test_an_output_folder_that_is_tried_is_not_left_behind(tmp_path: Path) -> None:
    endings.refuse_unwritable(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_existed_stays(tmp_path: Path) -> None:
    endings.refuse_unwritable(tmp_path)
    endings.expect(tmp_path)
    (tmp_path / ".hydra").mkdir()
    endings.leave_nothing()
    assert [path.name for path in tmp_path.iterdir()] == [".hydra"]


@pytest.mark.parametrize(
    ("file", "content", "stays"), [("train.log", "", False), ("train.log", "x", True), ("results.json", "", True)]
)
def test_a_new_folder_goes_unless_it_holds_more_than_hydra_wrote(
    tmp_path: Path, file: str, content: str, stays: bool
) -> None:
    folder = tmp_path / "runs" / "new"
    endings.expect(folder)
    (folder / ".hydra").mkdir(parents=True)
    (folder / file).write_text(content)
    endings.leave_nothing()
    assert folder.parent.exists() == stays


def test_a_warning_is_one_line_and_none_of_a_library(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = endings.show_warning
        warnings.warn_explicit("a loss\nis odd", UserWarning, str(tmp_path / "retrieval" / "parts.py"), 1)
        for library in ("lightning", "torch"):
            place = f"/lib/site-packages/{library}/x.py"
            warnings.warn_explicit("a tip", UserWarning, place, 1)
    assert capsys.readouterr().err == "warning: a loss\\nis odd\n"
