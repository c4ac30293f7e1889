"""The LightningModule, its parameter groups, and fit()."""

import logging
import math
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
from retrieval import evaluation, extraction, losses, vocabulary
from retrieval.benchmarks.folder import SameLandmark
from retrieval.callbacks import HeldOut
from retrieval.config import InputError, build
from retrieval.data.module import FolderData
from retrieval.embedder import Embedder
from retrieval.evaluation import refuse_used
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
    """Trains an Embedder with a loss on (descriptors, labels)."""

    def __init__(
        self,
        embedder: Embedder,
        loss: nn.Module,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        multipliers: Mapping[str, float],
        freeze_batchnorm: bool,
    ) -> None:
        super().__init__()
        self.embedder, self.loss = embedder, loss
        self.optimizer, self.schedule, self.multipliers = optimizer, schedule, multipliers
        embedder.backbone.frozen_statistics = bool(freeze_batchnorm)
        self.train()

    def training_step(self, batch: tuple[Tensor, Tensor, Sequence[str]], index: int) -> Tensor:
        images, labels, paths = batch
        loss = self.loss(self.embedder(images), labels)
        if not torch.isfinite(loss):
            raise NotFinite(f"the loss is {loss.item()} at step {self.global_step}; photos of the batch: {list(paths)}")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(paths))
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
        groups = parameter_groups(self, self.optimizer, self.multipliers)
        optimizer = build(self.optimizer, params=groups)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = build(self.schedule, optimizer=optimizer, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


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
    return "loss" if name.startswith("loss.") else name.split(".")[1]


def fit(cfg: DictConfig) -> list[Row]:
    """Train one model as the config says, evaluate it once; returns the rows that it added to `results.json`.

    Everything that can be refused is refused before the first image is described.
    """
    output_dir = Path(cfg.output_dir)
    quieted()
    refuse(cfg, output_dir)
    extract: Extract = build(cfg.extract)
    pl.seed_everything(int(cfg.seed), workers=True, verbose=False)
    embedder = embedders.from_config(cfg, cfg.data.get("resolution"))
    extraction.check(embedder, extract.resolutions, extract.scales, extract.aspect)
    data: FolderData = build(cfg.data, seed=int(cfg.seed), mean=embedder.backbone.mean, std=embedder.backbone.std)
    data.check(embedder.backbone.multiple, embedder.backbone.fixed_size)
    refuse_crops(embedder, data.resolution)
    benchmarks = evaluation.benchmarks_of(cfg)
    loss = losses.from_config(cfg.loss, data.num_classes, embedder.dim)
    module = Retrieval(
        embedder, loss, plain(cfg.optimizer), plain(cfg.schedule), plain(cfg.lr_multipliers), cfg.freeze_batchnorm
    )
    trainer = trainer_of(cfg, data, extract, output_dir)
    vocabulary.fit(embedder, data.train.photos, data.resolution, int(cfg.seed), extract)
    cfg = embedders.completed(cfg, embedder)
    cfg.trained_on = data.summary
    output_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, output_dir / "config.yaml")

    rows: list[Row] = []
    if cfg.evaluate_untrained:
        before = subject(cfg, untrained=True, selected_by=NOT_TRAINED)
        cache = Path(cfg.cache) / "descriptors"
        rows += evaluation.run(embedder, benchmarks, extract, before, output_dir, cache)
    pl.seed_everything(int(cfg.seed), workers=True, verbose=False)  # whatever was described, or found, before
    trainer.fit(module, data)
    cfg.selected_by = select(trainer, module, data)
    embedders.save(embedder, cfg, output_dir)
    rows += evaluation.run(embedder, benchmarks, extract, subject(cfg, False, cfg.selected_by), output_dir)
    return rows


def refuse(cfg: DictConfig, output_dir: Path) -> None:
    """What can be refused by reading the config alone."""
    refuse_used(output_dir)
    if not isinstance(cfg.seed, int):
        raise InputError(f"seed must be a whole number, got {cfg.seed!r}")
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator={cfg.trainer.accelerator} was asked for, this machine has no GPU; accepted: auto, cpu"
        )
    if cfg.trainer.devices != 1:
        raise InputError(f"trainer.devices must be 1, batches are not yet shared out; got {cfg.trainer.devices}")
    if not isinstance(cfg.trainer.max_epochs, int) or cfg.trainer.max_epochs < 1:
        raise InputError(f"trainer.max_epochs must be a whole number, at least 1, got {cfg.trainer.max_epochs}")
    stand_in = build(cfg.optimizer, params=[nn.Parameter(torch.zeros(1))])
    build(cfg.schedule, optimizer=stand_in, total_steps=10)


def refuse_crops(embedder: Embedder, resolution: int) -> None:
    """Refuse training crops whose map is not the one that the pooling takes, where it takes one alone."""
    wanted, backbone = embedder.map_size, embedder.backbone
    if wanted is None:
        return
    (height, width), name = embedders.square_map(backbone, resolution), type(embedder.pooling).__name__
    if (height, width) != wanted:
        fitting = extraction.square_of(backbone, wanted, "data.resolution={}")
        raise InputError(
            f"{name} takes maps of {wanted[0]} x {wanted[1]} positions only; data.resolution = {resolution} gives "
            f"{height} x {width}; accepted: {fitting}, or pooling.height={height} pooling.width={width}"
        )


def quieted() -> None:
    """Silence what is no news: our output folder is not empty, and Lightning's tips."""
    warnings.filterwarnings("ignore", "Experiment logs directory")
    warnings.filterwarnings("ignore", ".*(LeafSpec|treespec).*")
    warnings.filterwarnings("ignore", ".*(many workers|eval mode at the start).*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)


def trainer_of(cfg: DictConfig, data: FolderData, extract: Extract, output_dir: Path) -> pl.Trainer:
    """The Lightning Trainer with the loggers and callbacks of the config."""
    loggers = [build(one) for one in (cfg.get("logger") or {}).values()]
    callbacks = [build(one) for one in (cfg.get("callbacks") or {}).values()]
    kept: dict[str, Any] = {}
    if data.validation is not None:
        callbacks.insert(0, HeldOut(SameLandmark(data.validation), extract, data.resolution))
        kept = {"monitor": "validation/mAP", "mode": "max"}
    elif any(isinstance(callback, EarlyStopping) for callback in callbacks):
        raise InputError(
            "early stopping looks at held-out landmarks: give data.validation, for example data.validation=3"
        )
    callbacks.append(
        ModelCheckpoint(output_dir / "checkpoints", save_weights_only=True, save_on_train_epoch_end=True, **kept)
    )
    try:
        return build(cfg.trainer, logger=loggers, callbacks=callbacks, default_root_dir=output_dir)
    except MisconfigurationException as error:
        raise InputError(f"trainer: {error}") from error


def select(trainer: pl.Trainer, module: Retrieval, data: FolderData) -> str:
    """Put the selected weights into the module; says what selected them."""
    if data.validation is None:
        return "the last step"
    best = trainer.checkpoint_callback
    assert isinstance(best, ModelCheckpoint)
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"])
    return f"mAP {float(best.best_model_score):.4f} on {len(data.validation.landmarks)} held-out training landmarks"  # pyright: ignore[reportArgumentType]
