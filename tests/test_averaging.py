"""With averaged weights it is the average that is judged, saved and evaluated, and training goes on from its own."""

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from small_runs import columns, tiny
from torch import Tensor

from retrieval import embedder, parts, training
from retrieval.benchmarks.folder import SameLandmark
from retrieval.callbacks import AveragedWeights, HeldOut
from retrieval.callbacks.averaging import moved
from retrieval.config import build
from retrieval.data.folder import read
from retrieval.errors import InputError
from retrieval.extraction import describe

EMA = ["callbacks=[default,ema]", "callbacks.ema.decay=0.5"]


class Spy(AveragedWeights):
    """Notes the module's own weights after each step, and what the module holds at the end of each epoch."""

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(decay)
        self.own: list[dict[str, Tensor]] = []
        self.held: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *rest)
        self.own.append(copy.deepcopy(pl_module.state_dict()))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.held.append(copy.deepcopy(pl_module.state_dict()))


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> list[Spy]:
    """The callbacks of runs that begin hereafter, newest last."""
    made: list[Spy] = []
    monkeypatch.setattr(parts, "build", lambda cfg, **runtime: noted(made, cfg, runtime))
    return made


def noted(made: list[Spy], cfg: Any, runtime: dict[str, Any]) -> Any:
    if not str(cfg.get("_target_")).endswith("AveragedWeights"):
        return build(cfg, **runtime)
    made.append(Spy(cfg["decay"]))
    return made[-1]


def averaged(own: list[dict[str, Tensor]], name: str, decay: float = 0.5) -> Tensor:
    average = own[0][name].double()
    for state in own[1:]:
        average = decay * average + (1 - decay) * state[name].double()
    return average


def test_the_run_keeps_the_average_of_every_steps_weights(photos: Path, tmp_path: Path, spies: list[Spy]) -> None:
    training.fit(tiny(photos, tmp_path / "run", *EMA, "freeze_batchnorm=false"))
    saved = load_file(tmp_path / "run" / "model.safetensors")
    for name in ("backbone.model.conv1.0.weight", "backbone.model.conv1.1.running_mean", "pooling.p"):
        assert torch.allclose(saved[name].double(), averaged(spies[0].own, f"embedder.{name}"), atol=1e-6)
        assert not torch.allclose(saved[name], spies[0].own[-1][f"embedder.{name}"], atol=1e-6)


def test_training_steps_are_those_without_an_average(photos: Path, tmp_path: Path) -> None:
    for name, words in (("with", EMA), ("without", [])):
        training.fit(tiny(photos, tmp_path / name, *words, "data.validation=2"))
    assert columns(tmp_path / "with")["train/loss"] == columns(tmp_path / "without")["train/loss"]


def test_held_out_landmarks_and_the_evaluation_judge_the_average(
    photos: Path, tmp_path: Path, spies: list[Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[dict[str, Tensor]] = []
    value = HeldOut.value

    def noting(self: HeldOut, pl_module: Any) -> float:
        judged.append(copy.deepcopy(pl_module.state_dict()))
        return value(self, pl_module)

    monkeypatch.setattr(HeldOut, "value", noting)
    rows = training.fit(tiny(photos, tmp_path / "run", *EMA, "data.validation=2"))
    (spy,) = spies
    name = "embedder.backbone.model.conv1.0.weight"
    steps = len(spy.own) // 2
    for state, own in zip(judged[1:], (spy.own[:steps], spy.own), strict=True):  # the first is before training
        assert torch.allclose(state[name].double(), averaged(own, name), atol=1e-6)
    vectors = describe(embedder.load(tmp_path / "run"), [photo.path for photo in read(photos).photos], 48)
    assert SameLandmark(read(photos)).judge(vectors @ vectors.T)["mAP"] == pytest.approx(rows[-1]["metrics"]["mAP"])


@pytest.mark.parametrize("weights_only", [True, False])
def test_what_is_saved_at_the_end_of_an_epoch_is_the_average(
    photos: Path, tmp_path: Path, spies: list[Spy], weights_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Saving(ModelCheckpoint):
        def __init__(self, *given: Any, **keys: Any) -> None:
            super().__init__(*given, **{**keys, "save_weights_only": weights_only})

    monkeypatch.setattr(parts, "ModelCheckpoint", Saving)
    training.fit(tiny(photos, tmp_path / "run", *EMA, "trainer.max_epochs=1", "data.validation=2"))
    (file,) = (tmp_path / "run" / "checkpoints").glob("*.ckpt")
    state, name = torch.load(file, weights_only=True), "embedder.backbone.model.conv1.0.weight"
    assert torch.allclose(state["state_dict"][name].double(), averaged(spies[0].own, name), atol=1e-6)
    if not weights_only:
        assert torch.equal(state["current_model_state"][name], spies[0].own[-1][name])


class Small(pl.LightningModule):
    """One layer, with a count and a table of indices, that learns random vectors."""

    count: Tensor
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("table", torch.arange(1000))

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.count += 1
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def trained(folder: Path, epochs: int, average: AveragedWeights, start: Path | None = None) -> Small:
    torch.manual_seed(0)
    module, data = Small(), torch.randn(4, 5, 3)
    quiet = {"enable_progress_bar": False, "logger": False, "enable_model_summary": False, "accelerator": "cpu"}
    saving = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True)
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[average, saving], **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(list(data)), ckpt_path=start)  # pyright: ignore[reportArgumentType]
    return module


def test_a_run_that_goes_on_ends_where_it_would_have(tmp_path: Path) -> None:
    whole, first, second = Spy(0.9), Spy(0.9), Spy(0.9)
    expected = trained(tmp_path / "whole", 4, whole).state_dict()
    trained(tmp_path / "first", 2, first)
    found = trained(tmp_path / "second", 4, second, tmp_path / "first" / "last.ckpt").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(torch.equal(second.own[-1][name], whole.own[-1][name]) for name in expected)


def test_a_count_and_a_table_are_those_of_the_last_step(tmp_path: Path) -> None:
    module = trained(tmp_path, 3, AveragedWeights(0.999))
    assert module.count == 12 and torch.equal(module.table, torch.arange(1000))


@given(value=st.floats(-1e6, 1e6, width=32), decay=st.floats(0, 1, exclude_max=True))
def test_what_does_not_change_is_its_own_average(value: float, decay: float) -> None:
    x = torch.tensor([value])
    assert torch.equal(moved(x, x.clone(), 1 - decay), x)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(InputError, match=rf"callbacks\.ema\.decay .* in \[0, 1\), got {decay}"):
        AveragedWeights(decay)
