"""What a config describes of a training: the LightningModule, the photos, the Trainer; and what is refused."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from retrieval import embedder as embedders
from retrieval import evaluation, extraction, frozen, launch, losses, processes, sharding, stages, vocabulary
from retrieval.backbones import refuse_unknown
from retrieval.benchmarks import Benchmark
from retrieval.benchmarks.folder import SameLandmark
from retrieval.callbacks import Bar, Clock, FirstAndLast, Guard, HeldOut, Preemption, Stages, progress
from retrieval.callbacks.checkpoints import Latest, WholeFiles
from retrieval.callbacks.mining import Mining
from retrieval.config import build
from retrieval.data.batching import TupleBatches
from retrieval.data.loading import TrainingBatch
from retrieval.data.module import LandmarkData, refuse_sizes
from retrieval.embedder import Embedder
from retrieval.errors import InputError, flag
from retrieval.extraction import Extract
from retrieval.method import Method
from retrieval.optimization import hold_p, parameter_groups, steps_of
from retrieval.pieces import embedded, refuse_pieces
from retrieval.subjects import NOT_TRAINED, plain, subject

# they would change which batches an epoch has, and the loader would not know its place
NOT_TAKEN = ("limit_train_batches", "overfit_batches", "fast_dev_run", "reload_dataloaders_every_n_epochs")


class Retrieval(pl.LightningModule):
    """Trains an Embedder with an objective on (descriptors, labels).

    cfg: the whole config, of which `optimizer`, `schedule`, `lr_multipliers`, `layer_decay`, `freeze_batchnorm`,
    `freeze_p` and `pieces` are read. `paths`: the photos of the last batch; `trained_on`: how many there were.
    """

    def __init__(self, embedder: Embedder, objective: nn.Module, cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.embedder, self.objective, self.cfg = embedder, objective, cfg
        self.paths: list[str] = []
        self.trained_on = 0
        embedder.backbone.frozen_statistics = bool(cfg["freeze_batchnorm"])
        embedder.backbone.freeze_unused()
        if cfg["lr_multipliers"]["backbone"] == 0:
            frozen.freeze(embedder.backbone, Path(cfg["cache"]) / "features")
        self.train()

    def training_step(self, batch: TrainingBatch, index: int) -> Tensor:
        self.paths = batch.paths
        self.trained_on += len(batch.paths)
        descriptors = embedded(self.embedder, batch.pixels, batch.order, self.cfg["pieces"])
        loss = self.objective(descriptors, batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.paths))
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.current_epoch < self.cfg["freeze_p"]:
            hold_p(self.embedder)

    def groups(self) -> list[dict[str, Any]]:
        """The groups of parameters of the optimizer."""
        return parameter_groups(self, self.cfg["optimizer"], self.cfg["lr_multipliers"], self.cfg["layer_decay"])

    def configure_optimizers(self) -> Any:
        optimizer = build(self.cfg["optimizer"], params=self.groups())
        batches = len(self.trainer.datamodule.batches)  # pyright: ignore[reportAttributeAccessIssue]
        steps, each = steps_of(batches, self.trainer)
        scheduler = build(self.cfg["schedule"], optimizer=optimizer, total_steps=steps, steps_per_epoch=each)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Sharded(Retrieval):
    """The same, of whose weights each process has a share."""

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        sharding.shard(self.embedder, self.objective, self.device_mesh["data_parallel"])


@dataclass
class Parts:
    """The objects that a config describes."""

    extract: Extract
    data: LandmarkData
    benchmarks: Mapping[str, Benchmark]
    method: Method
    module: Retrieval
    trainer: pl.Trainer
    clock: Clock

    @classmethod
    def of(cls, cfg: DictConfig) -> "Parts":
        """Everything that can be refused before a photo is described is refused here."""
        extract: Extract = build(cfg.extract)
        pl.seed_everything(int(cfg.seed), workers=True, verbose=False)
        stages.stage("reading the photos to train on")
        how = {"sampler": plain(cfg.sampler), "seed": int(cfg.seed), "cache": cfg.cache}
        data: LandmarkData = build(cfg.data, **how)
        stages.stage(f"there are {data.summary}; loading {cfg.backbone.name}")
        embedder = embedders.from_config(cfg, cfg.data.get("resolution"))
        extraction.check(embedder, extract.resolutions, extract.scales, extract.aspect)
        backbone = embedder.backbone
        if looks_ahead(cfg, embedder) and not cfg.data.get("verify"):
            stages.stage("decoding the photos to train on, as some may be skipped and all are described")
            data = build(cfg.data, **how, verify=True)
        data.augment = replace(data.augment, multiple=backbone.multiple)
        refuse_sizes(data.augment, data.resolutions, backbone)
        refuse_crops(embedder, data)
        refuse_stream(embedder, data, cfg)
        benchmarks, method = evaluation.benchmarks_of(cfg), evaluation.method_of(cfg, {}, extract)
        method.check([embedder], benchmarks, len(extract.resolutions))
        unit = data.sampler.tuple_size if data.sampler else None
        objective = losses.from_config(cfg, data.num_classes, embedder.dim, unit)
        kind = Sharded if cfg.trainer.get("strategy") == "fully_sharded" else Retrieval
        module = kind(embedder, objective, plain(cfg))
        module.groups()  # refuses what it cannot order
        refuse_pieces(embedder, cfg.pieces, cfg.checkpointing)
        if cfg.checkpointing:
            backbone.checkpoint_activations()
        if cfg.compile:
            backbone.compile_training()
        clock = Clock()
        trainer = trainer_of(cfg, data, extract, benchmarks, clock)
        return cls(extract, data, benchmarks, method, module, trainer, clock)

    def judge(self, cfg: DictConfig, untrained: bool, kept: Path | None) -> None:
        """Write the rows of the model as it is."""
        about = subject(cfg, untrained, NOT_TRAINED if untrained else cfg.selected_by)
        model, output_dir = self.module.embedder, Path(cfg.output_dir)
        if processes.first():
            progress.say(output_dir, "judging", {})
        evaluation.run_each([model], self.benchmarks, self.extract, [about], output_dir, kept, self.method)


def looks_ahead(cfg: DictConfig, embedder: Embedder) -> bool:
    """Whether training photos that may be skipped are described before or between epochs, so that all must be verified:
    to be mined, for what is fitted to them, or by a frozen backbone."""
    described = cfg.names.sampler == "tuples" or cfg.lr_multipliers.backbone == 0 or not vocabulary.fitted(embedder)
    return described and cfg.data.get("on_unreadable") == "skip"


def refuse(cfg: DictConfig) -> None:
    """What can be refused by reading the config alone."""
    if not isinstance(cfg.seed, int):
        raise InputError(f"seed must be a whole number, got {cfg.seed!r}")
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator={cfg.trainer.accelerator} was asked for, this machine has no GPU; accepted: auto, cpu"
        )
    if not OmegaConf.is_missing(cfg.backbone, "name"):
        refuse_unknown(cfg.backbone.name)
    if not isinstance(cfg.trainer.max_epochs, int) or cfg.trainer.max_epochs < 1:
        raise InputError(f"trainer.max_epochs must be a whole number, at least 1, got {cfg.trainer.max_epochs}")
    if given := [key for key in NOT_TAKEN if key in cfg.trainer]:
        raise InputError(
            f"an epoch is all batches of the sampler, got trainer.{given[0]}; accepted: trainer.max_steps=N"
        )
    for key, least in (("checkpoint_steps", 1), ("freeze_p", 0)):
        if type(cfg[key]) is not int or cfg[key] < least:
            raise InputError(f"{key} must be a whole number, at least {least}, got {cfg[key]!r}")
    for key, value in cfg.lr_multipliers.items():
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise InputError(f"lr_multipliers.{key} must be a number, at least 0, got {value!r}")
    for key in ("checkpointing", "compile", "freeze_batchnorm", "evaluate_untrained"):
        flag(key, cfg[key])
    if cfg.lr_multipliers.backbone == 0 and not cfg.freeze_batchnorm:
        raise InputError(
            "lr_multipliers.backbone=0 freezes the backbone, and freeze_batchnorm=false would change its statistics; "
            "accepted: freeze_batchnorm=true, or lr_multipliers.backbone above 0"
        )
    if cfg.trainer.get("strategy") == "fully_sharded" and "ema" in (cfg.get("callbacks") or ()):
        raise InputError("callbacks=ema averages whole weights, and trainer=fsdp leaves a process a share: give one")
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


def refuse_stream(embedder: Embedder, data: LandmarkData, cfg: DictConfig) -> None:
    """Refuse what a stream cannot have: batches of a sampler, and photos to look at before training."""
    if data.sampler is None and cfg.sampler.get("_target_") is not None:
        raise InputError(f"a stream draws its batches itself, got sampler={cfg.names.sampler}; accepted: sampler=none")
    if not data.train.photos and not vocabulary.fitted(embedder):
        raise InputError(
            "netvlad's centroids and a whitening layer are found in training photos, which a stream has no files of; "
            "accepted: pooling.centroids=FILE, head.weights=FILE"
        )


def trainer_of(
    cfg: DictConfig, data: LandmarkData, extract: Extract, benchmarks: Mapping[str, Benchmark], clock: Clock
) -> pl.Trainer:
    """The Lightning Trainer with the loggers and callbacks of the config; metrics.csv is written in any case."""
    output_dir = Path(cfg.output_dir)
    writers = [build(one) for one in (cfg.get("logger") or {}).values()]
    if not any(isinstance(one, CSVLogger) for one in writers):
        writers.append(CSVLogger(output_dir, name="", version=""))
    given = {"benchmarks": benchmarks, "extract": extract}
    callbacks = [build(one, **given) for one in (cfg.get("callbacks") or {}).values()]
    if isinstance(data.sampler, TupleBatches):
        callbacks.append(Mining(data, extract))
    folder = output_dir / "checkpoints"
    if data.validation is not None:
        callbacks.insert(0, HeldOut(SameLandmark(data.validation), extract, data.resolution))
        best = ModelCheckpoint(
            folder,
            "best",
            "validation/mAP",
            mode="max",
            save_weights_only=True,
            save_on_train_epoch_end=True,
            enable_version_counter=False,  # written over as a whole, so that there is one at any time
        )
        callbacks.append(best)
    elif any(isinstance(callback, EarlyStopping) for callback in callbacks):
        raise InputError(
            "early stopping looks at held-out landmarks: give data.validation, for example data.validation=3"
        )
    first = [clock, FirstAndLast(), Stages(), Guard()]
    callbacks = [*first, *callbacks, Latest(folder, cfg.checkpoint_steps), Preemption()]
    bar = bool(cfg.trainer.get("enable_progress_bar")) and sys.stdout.isatty()
    if bar and not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(Bar())
    parts = {"logger": writers, "callbacks": callbacks, "plugins": [WholeFiles()], "default_root_dir": output_dir}
    parts["enable_progress_bar"] = bar
    try:
        return build(cfg.trainer, **parts, **launch.layout(cfg.trainer))
    except MisconfigurationException as error:
        raise InputError(f"trainer: {error}") from error
