"""What a command says at once, at each stage and in between; and its help."""

import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import TINY, tiny

from retrieval import counting, explained, first_lines, stages
from retrieval.config import CONFIGS, compose
from retrieval.errors import InputError

ROOT = CONFIGS.parent


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the lines of a command go that has said its first one; a file, so that signs of life are due."""
    out = io.StringIO()
    stages.begin("first", out)
    yield out
    stages.end()


def until_said(stream: io.StringIO, words: str) -> str:
    """The line that holds the words, waited for."""
    until = time.monotonic() + 60
    while words not in stream.getvalue():
        assert time.monotonic() < until, stream.getvalue()
        time.sleep(0.01)
    return next(line for line in stream.getvalue().splitlines() if words in line)


def test_a_training_says_its_model_photos_landmarks_and_folder(photos: Path, tmp_path: Path) -> None:
    said = first_lines.of_training(tiny(photos, tmp_path / "run"))
    assert said == (
        f"train test_resnet + gem (arcface) on 20 photos of 4 landmarks in {photos}, 2 epochs; "
        f"evaluate on folder (20 photos of 4 landmarks in {photos}) at 48 px; write {tmp_path / 'run'}"
    )


def test_an_evaluation_says_which_run_it_is_of(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("names: {pooling: gap, head: none}\nbackbone: {name: resnet18}\n")
    words = [f"run={tmp_path}", "benchmark=folder", f"benchmark.folder.root={photos}", "extract.resolutions=[48,64]"]
    said = first_lines.of_evaluation(compose("eval", words, tmp_path / "out"))
    assert said.startswith(f"evaluate {tmp_path} (resnet18 + gap) on folder (20 photos of 4 landmarks in {photos}) at")
    assert said.endswith(f"48, 64 px; write {tmp_path}")


def test_an_export_says_its_formats_and_where_they_go(tmp_path: Path) -> None:
    said = first_lines.of_export(compose("export", [f"run={tmp_path}", "format=[onnx]"]))
    assert said == f"export {tmp_path} as onnx in float32, check each file; write {tmp_path}/export"


def test_photos_of_folders_are_counted_at_any_depth(photos: Path) -> None:
    assert counting.of_photos([str(photos)]) == f"20 photos of {photos}"


def test_a_list_of_photos_is_not_read_for_the_first_line() -> None:
    assert counting.of_photos(["@all.txt"]) == "the photos of @all.txt"


def test_photos_that_take_long_to_count_are_not_waited_for() -> None:
    assert counting.within(0.01, lambda: [time.sleep(5) or 1]) == []


def test_nothing_is_said_before_a_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    stages.end()
    stages.stage("reading")
    assert capsys.readouterr().out == ""


def test_of_several_processes_the_first_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    out = io.StringIO()
    stages.begin("first", out)
    stages.stage("reading")
    assert out.getvalue() == ""


def test_a_stage_is_said_once(stream: io.StringIO) -> None:
    stages.stage("reading")
    assert stream.getvalue() == "first\nreading\n"


def test_a_sign_of_life_tells_how_far_a_stage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "EVERY", 0.02)
    out = io.StringIO()
    stages.begin("first", out)
    stages.stage("training", lambda: "step 3 of 7")
    assert until_said(out, "step 3 of 7").startswith("training: step 3 of 7, 0 s so far")
    stages.end()


def test_a_sign_of_life_counts_the_photos_of_a_hidden_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "EVERY", 0.02)
    out = io.StringIO()
    stages.begin("first", out)
    with stages.bar(total=10, desc="describing at 48") as bar:
        bar.update(4)
        assert "describing at 48: 4 of 10" in until_said(out, "4 of 10")
    stages.end()


@pytest.fixture(scope="module")
def refused(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A training that is refused once it has begun, piped; its folder is the last word of `args`."""
    places = [f"data.root={photos}", f"benchmark.folder.root={photos}"]
    words = [*TINY, *places, "sampler.landmarks=900", f"output_dir={tmp_path_factory.mktemp('out') / 'new' / 'run'}"]
    return subprocess.run(
        [sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_piped_training_says_what_it_does_and_its_stages(refused: subprocess.CompletedProcess[str]) -> None:
    first, *others = refused.stdout.splitlines()
    assert first.startswith("train test_resnet + gem (arcface) on 20 photos of 4 landmarks in ")
    assert [line for line in others if " so far" not in line] == [
        "reading the photos to train on",
    ]


def test_a_refused_training_prints_its_error_and_nothing_else(refused: subprocess.CompletedProcess[str]) -> None:
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stderr.startswith("error: sampler.landmarks")


def test_a_refused_training_leaves_no_folder_behind(refused: subprocess.CompletedProcess[str]) -> None:
    folder = Path(refused.args[-1].removeprefix("output_dir="))
    assert not folder.parent.exists() and folder.parent.parent.exists()


@pytest.mark.parametrize("script", ["train", "eval", "export"])
def test_the_help_of_a_script_has_each_of_its_keys_with_its_comment(script: str) -> None:
    said = " ".join(explained.page(CONFIGS, script, []).split())
    for key in explained.keys((CONFIGS / f"{script}.yaml").read_text()):
        assert f" {key.name}={' '.join(key.value.split())} {' '.join(key.comment.split())}" in said


def test_the_help_explains_the_choice_that_is_asked_for() -> None:
    said = explained.page(CONFIGS, "train", ["pooling=mixvpr", "--help"])
    assert "pooling.channels=1024" in said and "pooling.p=3.0" not in said


def test_the_help_of_one_that_takes_over_another_has_the_keys_of_both() -> None:
    said = explained.page(CONFIGS, "train", ["trainer=ddp"])
    assert "trainer.strategy=ddp" in said and "trainer.max_epochs=3" in said and "trainer.strategy=auto" not in said


def test_the_help_names_the_choices_near_to_one_that_there_is_not() -> None:
    with pytest.raises(InputError, match="unknown pooling 'gme': did you mean gem"):
        explained.page(CONFIGS, "train", ["pooling=gme"])


GROUPS = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent.name not in ("experiment", "hydra")]


@pytest.mark.parametrize(
    "path",
    [*GROUPS, *(CONFIGS / f"{script}.yaml" for script in ("train", "eval", "export"))],
    ids=lambda path: path.relative_to(CONFIGS).with_suffix("").as_posix(),
)
def test_every_key_has_a_comment(path: Path) -> None:
    assert [key.name for key in explained.keys(path.read_text()) if not key.comment] == []


def test_the_help_imports_neither_torch_nor_hydra() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']; from retrieval import config; config.main('train')(print)(); "
        "sys.exit(bool({'torch', 'hydra'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode == 0
    )


def test_the_embedder_imports_nothing_of_training_and_search() -> None:
    others = ("lightning", "hydra", "faiss", "pytorch_metric_learning", "matplotlib", "scipy")
    code = f"import sys, retrieval.embedder; sys.exit(', '.join(set({others}) & set(sys.modules)) or 0)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_reader_that_is_gone_ends_a_command_quietly() -> None:
    code = "from retrieval.terminal import say\nwhile True: say('line')"
    started = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None and started.stderr is not None
    started.stdout.readline()
    started.stdout.close()
    assert started.stderr.read() == ""
    assert started.wait() == 128 + signal.SIGPIPE
