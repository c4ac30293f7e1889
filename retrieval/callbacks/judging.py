"""What is judged while training: landmarks held out of it."""

from typing import Any

import lightning.pytorch as pl

from retrieval import extraction
from retrieval.benchmarks.folder import SameLandmark
from retrieval.extraction import Extract


class HeldOut(pl.Callback):
    """Logs `validation/mAP` on landmarks held out of training, before it and after every epoch."""

    def __init__(self, benchmark: SameLandmark, extract: Extract, resolution: int) -> None:
        self.benchmark, self.extract, self.resolution = benchmark, extract, resolution

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step:  # a run that goes on has it
            return
        value = self.value(pl_module)
        for logger in trainer.loggers:
            logger.log_metrics({"validation/mAP": value}, step=0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.log("validation/mAP", self.value(pl_module), prog_bar=True, batch_size=1)

    def value(self, pl_module: Any) -> float:
        """mAP of the model as it is."""
        rows = extraction.describe(
            pl_module.embedder,
            self.benchmark.gallery,
            self.resolution,
            aspect=self.extract.aspect,
            batch_size=self.extract.batch_size,
            workers=self.extract.workers,
            device=str(pl_module.device),
        )
        return self.benchmark.judge(rows @ rows.T)["mAP"]
