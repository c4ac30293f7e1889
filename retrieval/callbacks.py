"""What is logged while training: how p evolves, mAP on held-out landmarks."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import loggers
from torch import Tensor

from retrieval import extraction
from retrieval.benchmarks.folder import SameLandmark
from retrieval.config import InputError
from retrieval.extraction import Extract


class WandbLogger(loggers.WandbLogger):
    """Lightning's logger for Weights & Biases; mode 'offline' never touches the network."""

    def __init__(self, mode: str = "offline", project: str = "retrieval", save_dir: str = ".") -> None:
        if mode not in ("offline", "online", "disabled"):
            raise InputError(f"logger.wandb.mode must be offline, online or disabled, got {mode!r}")
        super().__init__(project=project, save_dir=save_dir, mode=mode)

    def finalize(self, status: str) -> None:
        """Ends the W&B run: the next job of a sweep, in the same process, would go on with it."""
        super().finalize(status)
        self.experiment.finish(exit_code=int(status != "success"))


class PoolingExponent(pl.Callback):
    """Logs GeM's p: `p`, or per channel `p/mean`, `p/min`, `p/max` and its deciles, and to W&B its histogram."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        p = pl_module.embedder.p
        if p is not None:
            for logger in trainer.loggers:
                logger.log_metrics(summary(p), step=0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        p = pl_module.embedder.p
        if p is None:
            return
        for name, value in summary(p).items():
            pl_module.log(name, value, prog_bar=name in ("p", "p/mean"), batch_size=1)
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if p.numel() > 1 and trainer.global_step % every == 0:
            histogram(trainer, p)


class HeldOut(pl.Callback):
    """Logs `validation/mAP` on landmarks held out of training, before it and after every epoch."""

    def __init__(self, benchmark: SameLandmark, extract: Extract, resolution: int) -> None:
        self.benchmark, self.extract, self.resolution = benchmark, extract, resolution

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
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


def summary(p: Tensor) -> dict[str, float]:
    """{'p': value}, or mean, min, max and deciles when there is one per channel."""
    p = p.float().cpu()
    if p.numel() == 1:
        return {"p": float(p)}
    deciles = {f"p/d{i}": float(torch.quantile(p, i / 10)) for i in range(1, 10)}
    return {"p/mean": float(p.mean()), "p/min": float(p.min()), "p/max": float(p.max()), **deciles}


def histogram(trainer: pl.Trainer, p: Tensor) -> None:
    """Send the distribution of p over channels to W&B, which `log` cannot."""
    for logger in trainer.loggers:
        if isinstance(logger, loggers.WandbLogger):
            import wandb

            logger.experiment.log(
                {"p/histogram": wandb.Histogram(p.tolist()), "trainer/global_step": trainer.global_step}
            )
