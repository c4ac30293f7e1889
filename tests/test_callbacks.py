"""What is logged, judged and guarded while training."""

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from small_runs import TINY, columns, tiny
from torch import Tensor
from torch.utils.data import DataLoader

from retrieval import config, training
from retrieval.backbones import TimmBackbone
from retrieval.benchmarks.folder import Folder
from retrieval.callbacks import Evaluate, Guard, Waiting, waiting
from retrieval.callbacks.guard import PATIENCE, last_good
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract, NotFinite
from retrieval.poolings import GeM
from retrieval.subjects import subject


class Steps(pl.LightningModule):
    """Steps of a real Embedder down a loss that `spoilt` turns at each step from (loss, p, step) into another."""

    def __init__(self, spoilt: Callable[[Tensor, Tensor, int], Tensor], p_min: float | None = None) -> None:
        super().__init__()
        backbone = TimmBackbone("test_resnet", pretrained=False)
        self.embedder = Embedder(backbone, GeM(backbone.dim, p_min=p_min), torch.nn.Identity())
        self.spoilt, self.paths = spoilt, [""]

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.paths = [f"{index}.jpg"]
        return self.spoilt(self.embedder(batch).sum(), self.embedder.pooling.p.sum(), index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trained(module: Steps, out: Path, steps: int = 4, **kwargs: Any) -> dict[str, list[float]]:
    """The curves of a few steps under the guard."""
    callbacks = [Guard(), *kwargs.pop("callbacks", [])]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=CSVLogger(out, "", ""), callbacks=callbacks, default_root_dir=out,
        log_every_n_steps=1, **quiet, **kwargs,
    )  # fmt: skip
    photos: Any = [torch.rand(3, 32, 32) for _ in range(2 * steps)]
    trainer.fit(module, DataLoader(photos, batch_size=2))
    return columns(out) if (out / "metrics.csv").is_file() else {}


def infinite(loss: Tensor, p: Tensor) -> Tensor:
    """The same loss, whose gradient in p is infinite."""
    return loss + (p - p.detach()).sqrt()


def test_a_loss_that_is_not_finite_is_named_with_step_and_photos(tmp_path: Path) -> None:
    with pytest.raises(
        NotFinite, match=r"the loss is nan at step 2; photos of the batch: \['2\.jpg'\]; there is no good"
    ):
        trained(Steps(lambda loss, p, step: loss * (math.nan if step == 2 else 1)), tmp_path)


def test_the_photos_named_are_those_of_the_batch_that_failed_where_several_make_a_step(tmp_path: Path) -> None:
    module = Steps(lambda loss, p, step: loss * (math.inf if step == 0 else 1))
    with pytest.raises(NotFinite, match=r"the loss is -?inf at step 0; photos of the batch: \['0\.jpg'\]"):
        trained(module, tmp_path, accumulate_grad_batches=2)


def test_a_gradient_that_is_not_finite_is_named_by_its_parameter(tmp_path: Path) -> None:
    with pytest.raises(
        NotFinite, match=r"the gradient of pooling\.p is inf at step 1; photos of the batch: \['1\.jpg'\]"
    ):
        trained(Steps(lambda loss, p, step: infinite(loss, p) if step == 1 else loss), tmp_path)


def test_the_layer_named_is_the_one_in_which_the_gradient_went_wrong(tmp_path: Path) -> None:
    module = Steps(lambda loss, p, step: loss)
    names = [name for name, _ in module.embedder.backbone.named_parameters()]
    middle = names[len(names) // 2]
    module.get_parameter(f"embedder.backbone.{middle}").register_hook(lambda gradient: gradient * math.nan)
    module.get_parameter(f"embedder.backbone.{names[0]}").register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NotFinite, match=rf"the gradient of backbone\.{middle} is nan \(and 1 more\) at step 0"):
        trained(module, tmp_path)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_the_bad_step_leaves_the_weights_as_they_were(tmp_path: Path, bad: str) -> None:
    spoilt = (lambda loss, p, step: loss * math.nan) if bad == "loss" else (lambda loss, p, step: infinite(loss, p))
    module = Steps(spoilt)
    before = copy.deepcopy(dict(module.named_parameters()))
    with pytest.raises(NotFinite):
        trained(module, tmp_path)
    assert all(torch.equal(before[name], parameter) for name, parameter in module.named_parameters())


class SpoilP(pl.Callback):
    """Puts p out of its range after a step, as an optimizer might."""

    def __init__(self, p: float, after: int) -> None:
        self.p, self.after = p, after

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, index: int) -> None:
        if index == self.after:
            pl_module.embedder.pooling.p.data.fill_(self.p)


@pytest.mark.parametrize("p", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("after", [1, 3])
def test_a_p_that_leaves_its_range_is_laid_to_the_step_that_moved_it(tmp_path: Path, p: float, after: int) -> None:
    rule = rf"p left \(0, inf\) at step {after}, min {p:g}, max {p:g}; photos of the batch: \['{after}\.jpg'\]"
    with pytest.raises(NotFinite, match=rule):
        trained(Steps(lambda loss, p, step: loss), tmp_path, callbacks=[SpoilP(p, after)])


def test_a_p_below_its_bound_is_put_back_and_counted(tmp_path: Path) -> None:
    module = Steps(lambda loss, p, step: p, p_min=2.995)
    assert trained(module, tmp_path)["p/held"] == [1, 2, 3, 4] and module.embedder.pooling.p.item() == pytest.approx(
        2.995
    )


def test_a_p_without_a_bound_has_no_count(tmp_path: Path) -> None:
    assert "p/held" not in trained(Steps(lambda loss, p, step: loss), tmp_path, callbacks=[Waiting()])


def float16() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))


def test_a_step_whose_gradients_overflow_in_float16_is_skipped_and_counted(tmp_path: Path) -> None:
    module = Steps(lambda loss, p, step: infinite(loss, p) if step in (1, 2) else loss)
    curves = trained(module, tmp_path, plugins=[float16()])
    assert curves["train/skipped_steps"] == [0, 1, 2, 2]
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_steps_that_overflow_without_end_stop(tmp_path: Path) -> None:
    rule = f"not finite in {PATIENCE} steps in a row, up to step {PATIENCE - 1}"
    with pytest.raises(NotFinite, match=rule):
        trained(Steps(lambda loss, p, step: infinite(loss, p)), tmp_path, steps=30, plugins=[float16()])


def saved(folder: Path, step: int, **weights: float) -> Path:
    folder.mkdir(exist_ok=True)
    state = {key.replace("_", "."): torch.tensor([value]) for key, value in weights.items()}
    torch.save({"state_dict": state}, folder / f"last-{step:08}.ckpt")
    return folder / f"last-{step:08}.ckpt"


def test_the_last_good_checkpoint_is_the_newest_that_is_whole_and_sound(tmp_path: Path) -> None:
    saved(tmp_path, 1, layer=1.0)
    wanted = saved(tmp_path, 2, layer=2.0, embedder_pooling_p=3.0)
    saved(tmp_path, 3, layer=math.inf)
    saved(tmp_path, 4, layer=1.0, embedder_pooling_p=-1.0)
    (tmp_path / "last-00000005.ckpt").write_bytes(wanted.read_bytes()[:200])
    assert last_good(tmp_path) == wanted


def test_the_last_good_checkpoint_is_named(tmp_path: Path) -> None:
    file = saved(tmp_path / "checkpoints", 7, layer=1.0)
    with pytest.raises(NotFinite, match=f"the last good checkpoint is {file}"):
        trained(Steps(lambda loss, p, step: loss * math.nan), tmp_path)


def timed(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> Waiting:
    """What Waiting counts when its clock shows these times: an epoch's start, then start and end of each step."""
    clock = iter([time for i, time in enumerate(seconds) for _ in range(2 if i and i % 2 == 0 else 1)])
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: next(clock))
    watch, trainer = Waiting(), pl.Trainer(logger=False, enable_checkpointing=False, log_every_n_steps=0)
    watch.on_train_epoch_start(trainer, None)
    for _ in seconds[1::2]:
        watch.on_train_batch_start()
        watch.on_train_batch_end(trainer, None)
    return watch


def test_what_a_step_waits_is_its_share_and_the_first_batch_is_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = timed(monkeypatch, 0, 50, 60, 61, 70, 72, 80)
    assert (watch.starting, watch.waited, watch.total) == (50, 3, 20)


def test_what_was_waited_is_said_with_advice_where_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    much, little = timed(monkeypatch, 0, 5, 6, 8, 10), timed(monkeypatch, 0, 5, 6, 6, 10)
    assert much.summary(2) == (
        "waited for data 50% of 4 s; 5.0 s for the first batches of 1 epochs; "
        "more processes that decode may help: data.workers is 2"
    )
    assert little.summary(2) == "waited for data 0% of 4 s; 5.0 s for the first batches of 1 epochs"


def test_a_run_that_goes_on_within_an_epoch_waits_from_the_start_of_its_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([100, 105, 106, 106])
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: next(clock))
    watch, trainer = Waiting(), pl.Trainer(logger=False, enable_checkpointing=False, log_every_n_steps=0)
    watch.on_train_start(trainer, None)
    watch.on_train_batch_start()
    watch.on_train_batch_end(trainer, None)
    assert watch.starting == 5


def test_waiting_comes_after_all_other_callbacks(tmp_path: Path) -> None:
    watch = Waiting()
    trainer: Any = pl.Trainer(logger=False, callbacks=[watch, Guard()], default_root_dir=tmp_path)
    watch.setup(trainer, None, "fit")
    assert trainer.callbacks[-1] is watch and trainer.callbacks.count(watch) == 1


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run that was judged on a benchmark while it trained."""
    out = tmp_path_factory.mktemp("run") / "gem"
    words = ["callbacks=[default,evaluate]", "data.validation=2", "backbone.kwargs.drop_path_rate=0.3"]
    training.fit(tiny(photos, out, *words, "extract.resolutions=[48,64]"))
    return out


def test_benchmarks_are_judged_before_training_and_after_every_epoch(run: Path) -> None:
    curves = columns(run)
    assert len(curves["folder/mAP@48"]) == len(curves["folder/mAP@64"]) == 3


def test_the_last_value_of_a_curve_is_that_of_the_result(photos: Path, tmp_path: Path) -> None:
    training.fit(tiny(photos, tmp_path / "run", "callbacks=[default,evaluate]"))
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())
    assert columns(tmp_path / "run")["folder/mAP@48"][-1] == pytest.approx(row["metrics"]["mAP"], abs=1e-9)


def test_benchmarks_are_judged_after_every_second_epoch_where_asked(photos: Path, tmp_path: Path) -> None:
    words = ["callbacks=[default,evaluate]", "callbacks.evaluate.every=2", "trainer.max_epochs=3"]
    training.fit(tiny(photos, tmp_path / "run", *words))
    assert len(columns(tmp_path / "run")["folder/mAP@48"]) == 2


def test_judging_a_benchmark_while_training_changes_no_weight(run: Path, photos: Path, tmp_path: Path) -> None:
    words = ["data.validation=2", "backbone.kwargs.drop_path_rate=0.3", "extract.resolutions=[48,64]"]
    training.fit(tiny(photos, tmp_path / "run", *words))
    alone, judged = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", run))
    assert all(torch.equal(alone[key], judged[key]) for key in alone)


def test_judging_a_benchmark_while_training_changes_no_settings(photos: Path, tmp_path: Path) -> None:
    chosen = ["[default,early_stopping]", "[default,early_stopping,evaluate]", "[early_stopping]"]
    configs = [tiny(photos, tmp_path, f"callbacks={words}") for words in chosen]
    assert len({subject(cfg, False, "").settings for cfg in configs}) == 1


def test_two_processes_know_the_values_of_one(run: Path, photos: Path, tmp_path: Path) -> None:
    words = ["data.validation=2", "backbone.kwargs.drop_path_rate=0.3", "extract.resolutions=[48,64]"]
    words += ["callbacks=[default,evaluate,early_stopping]", "trainer.devices=2", "++trainer.strategy=ddp"]
    places = [f"data.root={photos}", f"benchmark.folder.root={photos}", f"output_dir={tmp_path / 'run'}"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    done = subprocess.run(
        [*launch, *TINY, *places, *words], cwd=config.CONFIGS.parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, two = columns(run), columns(tmp_path / "run")
    for name in ("validation/mAP", "folder/mAP@48", "folder/mAP@64"):
        assert len(two[name]) == 3 and two[name][0] == pytest.approx(one[name][0], abs=1e-6)


@pytest.mark.parametrize("every", [0, 1.5, "all"])
def test_an_interval_that_is_no_number_of_epochs_is_refused(photos: Path, every: Any) -> None:
    benchmarks: Any = {"folder": Folder(str(photos))}
    with pytest.raises(InputError, match=r"callbacks\.evaluate\.every must be a whole number of epochs"):
        Evaluate(benchmarks, Extract(), every)


def test_a_run_with_nothing_to_judge_on_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to judge on"):
        Evaluate({}, Extract())


def test_every_training_says_how_long_it_waited(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training.fit(tiny(photos, tmp_path / "run"))
    assert "waited for data" in capsys.readouterr().out
    assert all(0 <= share <= 1 for share in columns(tmp_path / "run")["train/waiting"])
