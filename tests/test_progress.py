"""progress.json: how far a run is, as others read it."""

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from small_runs import columns, tiny

from retrieval import training
from retrieval.callbacks import Progress, progress
from retrieval.parts import Parts
from retrieval.subjects import subject

BOTH = ["callbacks=[default,evaluate]", "data.validation=2"]


def held(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "progress.json").read_text())


class Noted(pl.Callback):
    """The file as it is after each step."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.callbacks.sort(key=lambda one: one is self)  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append(held(self.folder))


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("progress") / "run"
    training.fit(tiny(photos, out, *BOTH))
    return out


def noted(photos: Path, out: Path, *words: str, checkpoint: Path | None = None) -> list[dict[str, Any]]:
    """What the file said after each step."""
    parts = Parts.of(tiny(photos, out, *words))
    parts.trainer.callbacks.append(watch := Noted(out))  # pyright: ignore[reportAttributeAccessIssue]
    training.train(parts, checkpoint, 0, out)
    return watch.seen


def test_what_is_judged_stands_at_the_last_step(trained: Path) -> None:
    said = held(trained)
    assert said["phase"] == "judging" and said["step"] == said["steps"] == len(columns(trained)["train/loss"])


def test_the_values_are_the_last_ones_logged(trained: Path) -> None:
    values, curves = held(trained)["values"], columns(trained)
    assert values.keys() >= {"train/loss", "p", "validation/mAP", "folder/mAP@48"}
    assert values == {name: pytest.approx(curves[name][-1]) for name in values}


def test_its_times_are_those_of_this_training(trained: Path) -> None:
    said = held(trained)
    assert 0 <= said["time"] - said["started"] < 600 and abs(time.time() - said["time"]) < 600


def test_it_is_written_at_the_start_and_then_once_a_second_at_most(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 1e6)
    assert {said["step"] for said in noted(photos, tmp_path / "run")} == {0}
    assert held(tmp_path / "run")["step"] == held(tmp_path / "run")["steps"] > 0


def test_what_is_judged_before_training_is_said_with_the_first_step(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    first = noted(photos, tmp_path / "run", *BOTH)[0]
    assert first["values"].keys() >= {"train/loss", "validation/mAP", "folder/mAP@48"}


def test_a_run_that_goes_on_says_its_true_step(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    out = tmp_path / "run"
    steps = noted(photos, out, "checkpoint_steps=9")
    after = noted(photos, out, "checkpoint_steps=9", checkpoint=out / "checkpoints" / "last-00000009.ckpt")
    assert [said["step"] for said in after] == [said["step"] for said in steps][9:] == [10]
    assert {(said["first_step"], said["steps"]) for said in after} == {(9, 10)}


def test_the_phase_after_training_keeps_what_training_said(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text((trained / "progress.json").read_text())
    progress.say(tmp_path, "judging", {"folder/mAP@320": 0.5, "seconds": 3.0})
    before, after = held(trained), held(tmp_path)
    assert after["phase"] == "judging" and after["values"] == before["values"] | {"folder/mAP@320": 0.5}
    assert (after["step"], after["steps"]) == (before["step"], before["steps"])


def test_a_phase_before_training_needs_no_file(tmp_path: Path) -> None:
    progress.say(tmp_path / "run", "judging", {})
    assert (held(tmp_path / "run")["step"], held(tmp_path / "run")["steps"]) == (0, 0)


@pytest.mark.parametrize("left", ["", "[1]", '{"step": 3'])
def test_a_broken_file_is_written_anew(tmp_path: Path, left: str) -> None:
    (tmp_path / "progress.json").write_text(left)
    progress.say(tmp_path, "judging", {})
    assert held(tmp_path)["phase"] == "judging"


def test_where_it_cannot_be_written_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the folder's place")
    progress.say(tmp_path / "run", "judging", {})


def test_it_decides_no_weights(photos: Path, tmp_path: Path) -> None:
    with_it, without = (tiny(photos, tmp_path, f"callbacks={one}") for one in ("[default]", "[exponent,waiting]"))
    assert subject(with_it, False, "").settings == subject(without, False, "").settings
    assert "progress" in with_it.callbacks and Progress.__name__ in with_it.callbacks.progress._target_
