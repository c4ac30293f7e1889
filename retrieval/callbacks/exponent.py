"""How GeM's p evolves."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import loggers
from torch import Tensor

from retrieval.callbacks.loggers import due


class PoolingExponent(pl.Callback):
    """Logs GeM's p: `p`, or per channel `p/mean`, `p/min`, `p/max` and its deciles, and to W&B its histogram."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        p = pl_module.embedder.p
        if p is not None and trainer.global_step == 0:
            for logger in trainer.loggers:
                logger.log_metrics(summary(p), step=0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        p = pl_module.embedder.p
        if p is None or not due(trainer):
            return
        for name, value in summary(p).items():
            pl_module.log(name, value, prog_bar=name in ("p", "p/mean"), batch_size=1)
        if p.numel() > 1:
            histogram(trainer, p)


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
