"""Whether photos come as fast as the network takes them."""

import time
from typing import Any

import lightning.pytorch as pl

from retrieval import processes
from retrieval.callbacks.loggers import due
from retrieval.terminal import say

MUCH = 0.1  # of the time, from which on the line at the end says what to do


class Waiting(pl.Callback):
    """Logs `train/waiting`, the share of the time since it was last logged in which a step waited for its batch, and
    says at the end of training what that was over all steps.

    A step lasts from the end of the one before to its own; it waits until its batch is on the device. The first batch
    of an epoch also waits for worker processes and mining, so those are counted apart. Times are this process's.
    """

    def __init__(self) -> None:
        self.epochs, self.starting = 0, 0.0  # seconds
        self.waited = self.total = 0.0  # seconds, over all steps but the first of each epoch
        self.logged = 0.0, 0.0  # what these were when the share was last logged
        self.fresh, self.ended, self.began = True, 0.0, 0.0

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Come last, so that the work of the other callbacks between two steps is no waiting."""
        trainer.callbacks = [*(other for other in trainer.callbacks if other is not self), self]  # pyright: ignore

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Within an epoch that goes on there is no start of it."""
        self.ended = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.fresh, self.ended = True, time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        now, waited = time.perf_counter(), self.began - self.ended
        if self.fresh:
            self.fresh, self.epochs, self.starting = False, self.epochs + 1, self.starting + waited
        else:
            self.waited, self.total = self.waited + waited, self.total + now - self.ended
        if due(trainer) and self.total > self.logged[1]:
            share = (self.waited - self.logged[0]) / (self.total - self.logged[1])
            pl_module.log("train/waiting", share, batch_size=1)
            self.logged = self.waited, self.total
        self.ended = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if processes.first() and self.total:
            say(self.summary(trainer.train_dataloader.num_workers))  # pyright: ignore

    def summary(self, workers: int) -> str:
        """How long was waited, in words, and what helps where it was long."""
        share = self.waited / self.total
        said = (
            f"waited for data {share:.0%} of {self.total:.0f} s; "
            f"{self.starting:.1f} s for the first batches of {self.epochs} epochs"
        )
        return said if share <= MUCH else f"{said}; more processes that decode may help: data.workers is {workers}"
