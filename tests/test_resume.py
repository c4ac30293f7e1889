"""A run that is killed, and goes on: the same weights, the same curves, nothing done twice."""

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load, load_file

from retrieval import config, store, training
from retrieval.callbacks import Clock
from retrieval.callbacks.checkpoints import Latest, newest, random_state, restore, whole
from retrieval.errors import InputError

ROOT = Path(__file__).parent.parent
WORDS = [
    "backbone=timm",
    "backbone.name=test_resnet",
    "backbone.kwargs.drop_path_rate=0.3",
    "data=folder",
    "data.resolutions=[32,64]",
    "data.workers=1",
    "data.validation=2",
    "benchmark=folder",
    "extract.resolutions=[48]",
    "extract.workers=0",
    "trainer.max_epochs=3",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "logger=csv",
    "optimizer.lr=1e-3",
    "checkpoint_steps=1",
    "resume=auto",
]
LANDMARKS = ["sampler.landmarks=2", "sampler.photos=2"]


def words(photos: Path, out: Path, *more: str, tuples: bool = False) -> list[str]:
    places = [f"data.root={photos}", f"benchmark.folder.root={photos}", f"cache={out.parent}/cache"]
    drawn = ["sampler=tuples", "sampler.negatives=2", "sampler.tuples=4"] if tuples else LANDMARKS
    return [*WORDS, *drawn, *places, *more]


def configured(photos: Path, out: Path, *more: str, tuples: bool = False) -> DictConfig:
    return config.compose("train", words(photos, out, *more, tuples=tuples), out)


def killed(photos: Path, out: Path, step: int, *more: str, tuples: bool = False) -> None:
    """Kill a run by train.py as soon as it has kept this step."""
    given = words(photos, out, *more, f"output_dir={out}", tuples=tuples)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "train.py", *given], cwd=ROOT, env=environment, start_new_session=True)
    file = out / "checkpoints" / f"last-{step:08}.ckpt"
    while process.poll() is None and not file.is_file():
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    with (folder / "metrics.csv").open() as lines:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(lines) if row[name]]


@pytest.fixture(scope="module")
def whole_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed: three epochs of three steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    training.fit(configured(photos, out))
    return out


@pytest.fixture(scope="module")
def gone_on(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed in the middle of its second epoch and called again."""
    out = tmp_path_factory.mktemp("killed") / "run"
    killed(photos, out, 5)
    training.fit(configured(photos, out))
    return out


def test_a_run_killed_within_an_epoch_ends_with_the_same_weights_bit_for_bit(whole_run: Path, gone_on: Path) -> None:
    expected, found = (load_file(run / "model.safetensors") for run in (whole_run, gone_on))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("name", ["train/loss", "p", "validation/mAP"])
def test_its_curves_are_those_of_the_run_never_killed(whole_run: Path, gone_on: Path, name: str) -> None:
    assert curve(gone_on, name) == curve(whole_run, name)


def test_its_rows_are_those_of_the_run_never_killed(whole_run: Path, gone_on: Path) -> None:
    expected, found = (json.loads((run / "results.json").read_text()) for run in (whole_run, gone_on))
    assert [row["metrics"] for row in found] == [row["metrics"] for row in expected]


def test_a_finished_run_is_left_as_it_is(whole_run: Path, photos: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole_run.rglob("*") if path.is_file()}
    rows = training.fit(configured(photos, whole_run))
    assert {path: path.stat().st_mtime_ns for path in whole_run.rglob("*") if path.is_file()} == before
    assert rows == json.loads((whole_run / "results.json").read_text())


def test_a_finished_run_keeps_no_checkpoint_to_go_on_from(whole_run: Path) -> None:
    assert not list(whole_run.rglob("last-*.ckpt"))


def test_another_config_is_refused_and_the_difference_named(whole_run: Path, photos: Path) -> None:
    with pytest.raises(InputError, match=r"has optimizer\.lr = 0\.001, this call has 0\.01"):
        training.fit(configured(photos, whole_run, "optimizer.lr=0.01"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.resolutions=null"], r"has data\.resolutions = \[32, 64\], this call has None"),
        (
            ["callbacks=[exponent,progress]"],
            r"has callbacks\.waiting\._target_ = retrieval\.callbacks\.Waiting, this call has absent",
        ),
    ],
)
def test_what_this_call_leaves_out_is_a_difference_too(
    whole_run: Path, photos: Path, words: list[str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        training.fit(configured(photos, whole_run, *words))


def test_a_moved_run_with_held_out_landmarks_is_refused(whole_run: Path, photos: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(whole_run, tmp_path / "moved"))
    with pytest.raises(InputError, match=r"has output_dir = .*whole.*, this call has .*moved"):
        training.fit(configured(photos, moved))


def test_resume_takes_auto_alone(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resume must be auto, or null to begin anew, got 'always'"):
        training.fit(configured(photos, tmp_path / "run", "resume=always"))


def test_a_run_killed_while_it_is_judged_is_judged_again(whole_run: Path, photos: Path, tmp_path: Path) -> None:
    """Its training is over, its last row is missing."""
    out = tmp_path / "run"
    training.fit(configured(photos, out, "trainer.max_epochs=1"))
    expected = json.loads((out / "results.json").read_text())
    (out / "results.json").write_text(json.dumps(expected[:1]))
    training.fit(configured(photos, out, "trainer.max_epochs=1"))
    found = json.loads((out / "results.json").read_text())
    assert [row["metrics"] for row in found] == [row["metrics"] for row in expected]


def test_a_call_that_has_only_to_judge_adds_no_training_seconds() -> None:
    clock = Clock()
    clock.load_state_dict({"seconds": 7.0})
    assert clock.state_dict() == {"seconds": 7.0}


def test_a_run_on_tuples_goes_on_within_an_epoch_with_the_tuples_that_it_had(photos: Path, tmp_path: Path) -> None:
    given = ["data.validation=0", "loss=tuple_contrastive", "trainer.max_epochs=2", "evaluate_untrained=false"]
    runs = tmp_path / "whole", tmp_path / "killed"
    training.fit(configured(photos, runs[0], *given, tuples=True))
    killed(photos, runs[1], 7, *given, tuples=True)
    training.fit(configured(photos, runs[1], *given, tuples=True))
    expected, found = (load_file(run / "model.safetensors") for run in runs)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert curve(runs[1], "mining/hardest") == curve(runs[0], "mining/hardest")


def noted(monkeypatch: pytest.MonkeyPatch, out: Path) -> list[Path]:
    """Copies of a run's folder as they will be after each time that its state is kept, where a kill may leave it."""
    copies: list[Path] = []
    save = Latest.save

    def saving(self: Latest, trainer: Any) -> Path:
        path = save(self, trainer)
        copies.append(Path(shutil.copytree(out, out.parent / f"{len(copies)}")))
        return path

    monkeypatch.setattr(Latest, "save", saving)
    return copies


EARLY = ["callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=1", "optimizer.lr=1e-12"]


@pytest.mark.parametrize(
    "more",
    [
        ["trainer.max_epochs=2", "callbacks=[default,ema,evaluate]", "callbacks.ema.decay=0.5"],
        ["trainer.max_epochs=2", "data.validation=0", "callbacks=[default,ema]", "loss=contrastive", "memory=9"],
        ["trainer.max_epochs=2", "data.validation=0", "trainer.accumulate_grad_batches=2", "freeze_p=1"],
        ["trainer.max_steps=5", "checkpoint_steps=2", "trainer.log_every_n_steps=2"],
        ["trainer.max_epochs=4", *EARLY],
    ],
    ids=["judged average", "last average", "accumulated", "steps", "stopped early"],
)
def test_a_run_goes_on_alike_from_every_state_that_it_kept(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    out, given = tmp_path / "run", ["data.workers=0", "evaluate_untrained=false", *more]
    with monkeypatch.context() as patch:
        copies = noted(patch, out)
        training.fit(configured(photos, out, *given))
    expected, drawn = load((out / "model.safetensors").read_bytes()), every_curve(out)
    assert len(copies) > 2
    for copy in copies:
        shutil.rmtree(out)
        copy.rename(out)
        training.fit(configured(photos, out, *given))
        found = load((out / "model.safetensors").read_bytes())
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert every_curve(out) == drawn


def every_curve(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All but those of time."""
    names = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    return {name: curve(folder, name) for name in sorted(names) if name not in ("epoch", "step", "train/waiting")}


def written(folder: Path, *steps: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"last-{step:08}.ckpt" for step in steps]
    for path in paths:
        torch.save({"step": torch.arange(1000)}, path)
    return paths


def test_the_newest_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    first, second, third = written(tmp_path, 9, 10, 11)
    third.write_bytes(third.read_bytes()[:-500])
    with pytest.warns(UserWarning, match=r"last-00000011\.ckpt is broken and passed over"):
        assert newest(tmp_path) == second and whole(first)


def test_a_checkpoint_with_one_changed_byte_is_not_whole(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 1)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000).numpy().tobytes()) + 4000] ^= 1
    path.write_bytes(content)
    assert not whole(path)


def test_a_folder_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert newest(tmp_path) is None


def test_generators_are_put_back(tmp_path: Path) -> None:
    state = random_state()
    drawn = torch.rand(3)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    restore(torch.load(buffer, weights_only=True))
    assert torch.equal(torch.rand(3), drawn)


def test_a_full_disk_costs_a_warning_and_no_earlier_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the fourth step, and has room again after it."""
    kept = store.replace

    def full(path: Path, write: Any) -> None:
        if path.name == "last-00000004.ckpt":
            raise OSError(errno.ENOSPC, "No space left on device")
        kept(path, write)

    monkeypatch.setattr(store, "replace", full)
    with pytest.warns(UserWarning, match=r"no checkpoint last-00000004\.ckpt, the last good one is .*last-00000003"):
        training.fit(configured(photos, tmp_path / "run", "data.workers=0", "data.validation=0"))
    assert (tmp_path / "run" / "model.safetensors").is_file()
