"""How long the steps of a training take."""

import time
from typing import Any

import lightning.pytorch as pl


class Stopwatch(pl.Callback):
    """Ends a training after `steps` steps of the optimizer, or after `seconds`, but then not before three steps.

    marks: by the clock, in seconds, the start of the training and the end of each step, which has all its batches and
    the wait for them.
    """

    def __init__(self, steps: int, seconds: float) -> None:
        self.steps, self.seconds = steps, seconds
        self.marks: list[float] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.marks = [time.perf_counter()]
        trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None  # it ends before these

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step < len(self.marks):  # this batch is a part of a step
            return
        self.marks.append(time.perf_counter())
        late = self.marks[-1] - self.marks[0] > self.seconds
        trainer.should_stop = len(self.marks) > (3 if late else self.steps)
