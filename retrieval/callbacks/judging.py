"""What is judged while training: landmarks held out of it, and benchmarks."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from retrieval import evaluation, processes, sharding
from retrieval.benchmarks import Benchmark
from retrieval.benchmarks.folder import SameLandmark
from retrieval.data.snapshot import Snapshot
from retrieval.descriptors import Descriptors
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.results import SAID
from retrieval.search import Exact
from retrieval.together import describe_together


class HeldOut(pl.Callback):
    """Logs `validation/mAP` on landmarks held out of training, before it and after every epoch.

    Of several processes each describes a share of the photos, the first one judges, and all are told the same value.
    """

    def __init__(self, benchmark: SameLandmark, extract: Extract, resolution: int) -> None:
        self.benchmark, self.extract, self.resolution = benchmark, extract, resolution

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0:
            log(trainer, {"validation/mAP": self.value(pl_module)})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        told = {"sync_dist": True, "reduce_fx": "sum"}
        pl_module.log("validation/mAP", self.value(pl_module), prog_bar=True, batch_size=1, **told)

    def value(self, pl_module: Any) -> float:
        """mAP of the model as it is, at one scale, on the first process; 0 on the others, so that the sum is known to
        all."""
        model, photos = sharding.whole(pl_module.embedder), self.benchmark.gallery
        files = Snapshot([photo.path for photo in photos] if self.benchmark.may_skip else ())
        device = str(pl_module.device)
        rows = describe_together(model, photos, self.resolution, self.extract, device, False, files)
        broken = np.isnan(rows).any(1)
        if broken.any():
            self.benchmark = self.benchmark.without([photos[i].path for i in np.flatnonzero(broken)])
            rows = rows[~broken]
        if not processes.first():
            return 0.0
        return self.benchmark.values(self.benchmark.per_query(Exact("cpu").scores(rows, Descriptors([rows]))))["mAP"]


class Evaluate(pl.Callback):
    """Logs how the model fares on the benchmarks, before training and after every `every` epochs.

    The curves are `NAME/METRIC@RESOLUTION`, as in `roxford5k/medium/mAP@1024`: what the terminal shows of a row, from
    descriptors at one scale, without whitening and re-ranking. They select nothing and change no weight. Of several
    processes each describes a share of the photos, and the first one judges.
    """

    def __init__(self, benchmarks: Mapping[str, Benchmark], extract: Extract, every: int = 1) -> None:
        if not isinstance(every, int) or every < 1:
            raise InputError(f"callbacks.evaluate.every must be a whole number of epochs, at least 1, got {every!r}")
        if not benchmarks:
            raise InputError("callbacks=[evaluate] has nothing to judge on: give benchmark=folder, ... or leave it out")
        self.benchmarks, self.extract, self.every = benchmarks, extract, every

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0:
            log(trainer, self.values(pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if (trainer.current_epoch + 1) % self.every == 0:
            log(trainer, self.values(pl_module))

    def values(self, pl_module: Any) -> dict[str, float]:
        """The values of the model as it is by their curves' names, on the first process; none on the others."""
        model, device = sharding.whole(pl_module.embedder), str(pl_module.device)
        return {
            f"{name}/{metric}@{resolution}": value
            for resolution in self.extract.resolutions
            for name, values in evaluation.values_of(model, self.benchmarks, self.extract, resolution, device).items()
            for metric, value in values.items()
            if SAID.search(metric)
        }


def log(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Write values of the model that so many steps have made, and let the other callbacks know them."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step)
