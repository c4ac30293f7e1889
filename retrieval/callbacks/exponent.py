"""How GeM's p evolves."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from retrieval.callbacks.loggers import due, histogram


class PoolingExponent(pl.Callback):
    """Logs GeM's p: `p`, or per channel `p/mean`, `p/min`, `p/max` and its deciles; to W&B and TensorBoard also how it
    is spread over channels, as `p/histogram`."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        p = pl_module.embedder.p
        if p is None:
            return
        if trainer.global_step == 0:
            for logger in trainer.loggers:
                logger.log_metrics(summary(p), step=0)
        if due(trainer):  # also where a run goes on, as what was written of its last step is purged
            histograms(trainer, p)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        p = pl_module.embedder.p
        if p is None or not due(trainer):
            return
        for name, value in summary(p).items():
            pl_module.log(name, value, prog_bar=name in ("p", "p/mean"), batch_size=1)
        histograms(trainer, p)


def summary(p: Tensor) -> dict[str, float]:
    """{'p': value}, or mean, min, max and deciles when there is one per channel."""
    p = p.float().cpu()
    if p.numel() == 1:
        return {"p": float(p)}
    deciles = {f"p/d{i}": float(torch.quantile(p, i / 10)) for i in range(1, 10)}
    return {"p/mean": float(p.mean()), "p/min": float(p.min()), "p/max": float(p.max()), **deciles}


def histograms(trainer: pl.Trainer, p: Tensor) -> None:
    """Write the distribution of p (C,) over channels, at the step where its summary stands; none of a single p."""
    if p.numel() > 1:
        for logger in trainer.loggers:
            histogram(logger, "p/histogram", p.detach().float().cpu(), max(trainer.global_step - 1, 0))
