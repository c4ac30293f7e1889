"""A training that is told to stop finishes its batch, keeps its state, and ends."""

import os
import signal
import time
from typing import Any, NoReturn

import lightning.pytorch as pl

from retrieval import processes
from retrieval.callbacks.checkpoints import Latest, written
from retrieval.stopping import SIGNALS, Stopped

AGAIN = 1.0  # seconds: a terminal and the process that has started this one tell it of one Ctrl-C at nearly one time


class Preemption(pl.Callback):
    """Ends the run by Stopped after the batch in which any process gets one of SIGNALS, its state kept by Latest; and
    at Ctrl-C, which pressed again ends it at once, by KeyboardInterrupt.

    Told during the last batch of an epoch, it ends when the epoch is judged and kept. Between epochs, where photos are
    described for longer than a grace period lasts, it ends at once: what was kept after the epoch is all there is to
    keep. Comes after the other callbacks, so that they are done with the batch.
    """

    def __init__(self) -> None:
        self.told, self.in_epoch, self.process = 0, False, 0
        self.heard = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the place of the Trainer's own handlers, which talk to the other processes whatever those do, and put
        a SLURM job back into the queue themselves; the Trainer puts back what was there before."""
        self.process = os.getpid()
        for each in (*SIGNALS, signal.SIGINT):
            signal.signal(each, lambda number, frame: self.hear(number, trainer))

    def hear(self, number: int, trainer: pl.Trainer) -> None:
        if os.getpid() != self.process:  # a loader's worker, which inherits this
            return
        again = number == self.told == signal.SIGINT and time.monotonic() - self.heard > AGAIN
        self.told, self.heard = number, time.monotonic()
        if again or not self.in_epoch:
            stop(trainer, number)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if told := processes.largest(self.told):
            stop(trainer, told)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if told := processes.largest(self.told):
            stop(trainer, told)

    def on_train_batch_start(self, *_: Any) -> None:
        self.in_epoch = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():  # gradients are no part of the state
            return
        self.in_epoch = not trainer.is_last_batch
        if self.in_epoch and (told := processes.largest(self.told)):
            latest_of(trainer).save(trainer)
            stop(trainer, told)


def latest_of(trainer: pl.Trainer) -> Latest:
    return next(one for one in trainer.callbacks if isinstance(one, Latest))  # pyright: ignore[reportAttributeAccessIssue]


def stop(trainer: pl.Trainer, number: int) -> NoReturn:
    """Raise Stopped, which says where to go on, or for SIGINT KeyboardInterrupt."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    kept = next(iter(written(latest_of(trainer).folder)), "no checkpoint yet")
    name, step = signal.Signals(number).name, trainer.global_step
    raise Stopped(f"stopped by {name} at step {step}; {kept}; run again with resume=auto")
