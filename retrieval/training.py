"""The LightningModule, and fit()."""

import json
import logging
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from retrieval import embedder as embedders
from retrieval import evaluation, extraction, losses, processes, resume, vocabulary
from retrieval.benchmarks import Benchmark
from retrieval.benchmarks.folder import SameLandmark
from retrieval.callbacks import HeldOut
from retrieval.callbacks.checkpoints import Latest, WholeFiles, continue_curves, newest, written
from retrieval.callbacks.mining import Mining
from retrieval.config import InputError, build
from retrieval.data import images
from retrieval.data.batching import TupleBatches
from retrieval.data.loading import TrainingBatch
from retrieval.data.module import LandmarkData
from retrieval.embedder import Embedder
from retrieval.extraction import Extract, NotFinite
from retrieval.poolings import GeM
from retrieval.results import Row
from retrieval.subjects import NOT_TRAINED, plain, subject


class WarmupCosine(LambdaLR):
    """Linear warm-up over the first `warmup` share of the steps, then half a cosine to zero."""

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.1) -> None:
        if not 0 <= warmup < 1:
            raise InputError(f"schedule.warmup is a share of the steps, in [0, 1), got {warmup}")
        first = max(1, round(warmup * total_steps))
        super().__init__(optimizer, lambda step: warmup_cosine(step, first, total_steps))


def warmup_cosine(step: int, first: int, total: int) -> float:
    """Factor of the learning rate: (step + 1) / first, then (1 + cos(pi t)) / 2."""
    if step < first:
        return (step + 1) / first
    return (1 + math.cos(math.pi * min(1.0, (step - first) / max(1, total - first)))) / 2


class Retrieval(pl.LightningModule):
    """Trains an Embedder with an objective on (descriptors, labels).

    cfg: the whole config, of which `optimizer`, `schedule`, `lr_multipliers`, `layer_decay`, `freeze_batchnorm`,
    `freeze_p` and `pieces` are read. `paths`: the photos of the last batch.
    """

    def __init__(self, embedder: Embedder, objective: nn.Module, cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.embedder, self.objective, self.cfg = embedder, objective, cfg
        self.paths: list[str] = []
        embedder.backbone.frozen_statistics = bool(cfg["freeze_batchnorm"])
        self.train()

    def training_step(self, batch: TrainingBatch, index: int) -> Tensor:
        self.paths = batch.paths
        descriptors = embedded(self.embedder, batch.pixels, batch.order, self.cfg["pieces"])
        loss = self.objective(descriptors, batch.labels)
        if not torch.isfinite(loss):
            raise NotFinite(
                f"the loss is {loss.item()} at step {self.global_step}; photos of the batch: {list(batch.paths)}"
            )
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.paths))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if isinstance(self.embedder.pooling, GeM):
            self.embedder.pooling.project()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        p = self.embedder.p
        if p is not None and not (torch.isfinite(p).all() and (p > 0).all()):
            raise NotFinite(f"p left (0, inf) at step {self.global_step}: min {float(p.min())}, max {float(p.max())}")

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self, self.cfg["optimizer"], self.cfg["lr_multipliers"])
        optimizer = build(self.cfg["optimizer"], params=groups)
        # not the Trainer's own estimate, which opens the loader before it knows where a killed run stopped
        each = math.ceil(len(self.trainer.datamodule.batches) / self.trainer.accumulate_grad_batches)  # pyright: ignore[reportAttributeAccessIssue]
        steps = each * int(self.trainer.max_epochs or 1)
        steps = steps if self.trainer.max_steps < 0 else min(steps, self.trainer.max_steps)
        scheduler = build(self.cfg["schedule"], optimizer=optimizer, total_steps=steps, steps_per_epoch=each)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def embedded(embedder: Embedder, pixels: Sequence[Tensor], order: Tensor, pieces: int | None) -> Tensor:
    """Descriptors (B, d) of the photos of a batch, in its order."""
    mean, std = embedder.backbone.mean, embedder.backbone.std
    rows = torch.cat([embedder(images.normalised(part, mean, std)) for part in pixels])
    return rows[torch.argsort(order)]


def parameter_groups(
    module: Retrieval, optimizer: Mapping[str, Any], multipliers: Mapping[str, float]
) -> list[dict[str, Any]]:
    """p (own multiplier, no weight decay: decay drags it to 0), pooling, head, loss and backbone; norms, biases and
    other vectors of one dimension are not decayed."""
    named = [(part_of(name), parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    groups = []
    for part in dict.fromkeys(part for part, _ in named):
        for decayed in (True, False):
            members = [q for owner, q in named if owner == part and (q.ndim > 1 and part != "p") == decayed]
            if members:
                decay = {} if decayed else {"weight_decay": 0.0}
                rate = float(optimizer["lr"]) * float(multipliers[part])
                groups.append(
                    {"name": f"{part}{'' if decayed else ' undecayed'}", "params": members, "lr": rate, **decay}
                )
    return groups


def part_of(name: str) -> str:
    """Whose learning rate a parameter has: p, pooling, head, backbone or loss."""
    if name == "embedder.pooling.p":
        return "p"
    return "loss" if name.startswith("objective.") else name.split(".")[1]


def fit(cfg: DictConfig) -> list[Row]:
    """Train one model as the config says, evaluate it once; returns the rows of `results.json`.

    Everything that can be refused is refused before the first image is described. Called in each of several processes,
    which train one model together; the first one judges and writes. With `resume=auto` a run that was killed goes on
    from its last checkpoint, and one that is finished is left as it is.
    """
    output_dir = Path(cfg.output_dir)
    quieted()
    refuse(cfg)
    goes_on = resume.begun(cfg, output_dir)
    if goes_on and (rows := resume.finished(cfg, output_dir)):
        return rows
    extract: Extract = build(cfg.extract)
    pl.seed_everything(int(cfg.seed), workers=True, verbose=False)
    embedder = embedders.from_config(cfg, cfg.data.get("resolution"))
    extraction.check(embedder, extract.resolutions, extract.scales, extract.aspect)
    multiple = embedder.backbone.multiple
    data: LandmarkData = build(cfg.data, sampler=plain(cfg.sampler), seed=int(cfg.seed), multiple=multiple)
    data.check(multiple, embedder.backbone.fixed_size)
    refuse_crops(embedder, data)
    benchmarks, method = evaluation.benchmarks_of(cfg), evaluation.method_of(cfg, {}, extract)
    method.check([embedder], benchmarks, len(extract.resolutions))
    objective = losses.from_config(cfg, data.num_classes, embedder.dim, data.sampler.tuple_size)
    module = Retrieval(embedder, objective, plain(cfg))
    trainer = trainer_of(cfg, data, extract, benchmarks, output_dir)
    trainer.strategy.setup_environment()  # from here on the processes wait for each other
    vocabulary.fit(embedder, data.train.photos, data.resolution, int(cfg.seed), extract)
    cfg = embedders.completed(cfg, embedder)
    cfg.trained_on = data.summary
    checkpoint = newest(output_dir / "checkpoints") if goes_on else None
    if processes.first():
        resume.clear(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, output_dir / "config.yaml")
    if cfg.evaluate_untrained:
        before = subject(cfg, untrained=True, selected_by=NOT_TRAINED)
        cache = Path(cfg.cache) / "descriptors"
        evaluation.run_each([embedder], benchmarks, extract, [before], output_dir, cache, method)
    train(trainer, module, data, checkpoint, int(cfg.seed), output_dir)
    cfg.selected_by = select(trainer, module, data)
    if processes.first():
        embedders.save(embedder, cfg, output_dir)
    after = subject(cfg, False, cfg.selected_by)
    shared = output_dir / "descriptors" if processes.world_size() > 1 else None
    evaluation.run_each([embedder], benchmarks, extract, [after], output_dir, shared, method)
    trainer.strategy.barrier()
    if processes.first():
        for path in written(output_dir / "checkpoints"):  # there is nothing left to go on with
            path.unlink()
        shutil.rmtree(output_dir / "descriptors", ignore_errors=True)
    return json.loads((output_dir / "results.json").read_text())


def train(
    trainer: pl.Trainer, module: Retrieval, data: LandmarkData, checkpoint: Path | None, seed: int, output_dir: Path
) -> None:
    """Run the Trainer from the checkpoint on, or from the start."""
    if checkpoint is not None and processes.first():
        continue_curves(trainer.loggers, output_dir, checkpoint)
    pl.seed_everything(seed + processes.rank(), workers=True, verbose=False)  # whatever was drawn before
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)


def refuse(cfg: DictConfig) -> None:
    """What can be refused by reading the config alone."""
    if not isinstance(cfg.seed, int):
        raise InputError(f"seed must be a whole number, got {cfg.seed!r}")
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator={cfg.trainer.accelerator} was asked for, this machine has no GPU; accepted: auto, cpu"
        )
    if not isinstance(cfg.trainer.max_epochs, int) or cfg.trainer.max_epochs < 1:
        raise InputError(f"trainer.max_epochs must be a whole number, at least 1, got {cfg.trainer.max_epochs}")
    for key, least in (("checkpoint_steps", 1), ("pieces", 1), ("freeze_p", 0), ("memory", 0)):
        if cfg[key] is not None and not (isinstance(cfg[key], int) and cfg[key] >= least):
            raise InputError(f"{key} must be a whole number, at least {least}, got {cfg[key]!r}")
    stand_in = build(cfg.optimizer, params=[nn.Parameter(torch.zeros(1))])
    build(cfg.schedule, optimizer=stand_in, total_steps=10, steps_per_epoch=5)


def refuse_crops(embedder: Embedder, data: LandmarkData) -> None:
    """Refuse training photos whose map is not the one that the pooling takes, where it takes one alone."""
    wanted, backbone, name = embedder.map_size, embedder.backbone, type(embedder.pooling).__name__
    if wanted is None:
        return
    if data.augment.aspect == "native":
        raise InputError(f"{name} takes maps of one size only, so square photos: give data.aspect=square")
    for resolution in data.resolutions:
        if (found := embedders.square_map(backbone, resolution)) != wanted:
            fitting = extraction.square_of(backbone, wanted, "data.resolution={}")
            raise InputError(
                f"{name} takes maps of {wanted[0]} x {wanted[1]} positions only; data.resolution = {resolution} gives "
                f"{found[0]} x {found[1]}; accepted: {fitting}, or pooling.height={found[0]} pooling.width={found[1]}"
            )


def quieted() -> None:
    """Silence what is no news: our output folder is not empty, and Lightning's tips."""
    warnings.filterwarnings("ignore", "(Experiment logs|Checkpoint) directory")
    warnings.filterwarnings("ignore", ".*(LeafSpec|treespec).*")
    warnings.filterwarnings("ignore", ".*(many workers|eval mode at the start).*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)


def trainer_of(
    cfg: DictConfig, data: LandmarkData, extract: Extract, benchmarks: Mapping[str, Benchmark], output_dir: Path
) -> pl.Trainer:
    """The Lightning Trainer with the loggers and callbacks of the config."""
    loggers = [build(one) for one in (cfg.get("logger") or {}).values()]
    given = {"benchmarks": benchmarks, "extract": extract}
    callbacks = [build(one, **given) for one in (cfg.get("callbacks") or {}).values()]
    if isinstance(data.sampler, TupleBatches):
        callbacks.append(Mining(data, extract))
    folder = output_dir / "checkpoints"
    if data.validation is not None:
        callbacks.insert(0, HeldOut(SameLandmark(data.validation), extract, data.resolution))
        best = ModelCheckpoint(
            folder, "best", "validation/mAP", mode="max", save_weights_only=True, save_on_train_epoch_end=True
        )
        callbacks.append(best)
    elif any(isinstance(callback, EarlyStopping) for callback in callbacks):
        raise InputError(
            "early stopping looks at held-out landmarks: give data.validation, for example data.validation=3"
        )
    callbacks.append(Latest(folder, cfg.checkpoint_steps))
    parts = {"logger": loggers, "callbacks": callbacks, "plugins": [WholeFiles()], "default_root_dir": output_dir}
    try:
        return build(cfg.trainer, **parts)
    except MisconfigurationException as error:
        raise InputError(f"trainer: {error}") from error


def select(trainer: pl.Trainer, module: Retrieval, data: LandmarkData) -> str:
    """Put the selected weights into the module; says what selected them."""
    if data.validation is None:
        return "the last step"
    best = trainer.checkpoint_callback
    assert isinstance(best, ModelCheckpoint)
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"])
    return f"mAP {float(best.best_model_score):.4f} on {len(data.validation.landmarks)} held-out training landmarks"  # pyright: ignore[reportArgumentType]
