"""What every curve has: a value at its first step and at its last."""

from typing import Any

import lightning.pytorch as pl


class FirstAndLast(pl.Callback):
    """Logs the first step of a training and the last step of each epoch, whatever `log_every_n_steps` is.

    Comes before the callbacks that ask `loggers.due`.
    """

    def __init__(self) -> None:
        self.every = 1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        ends = trainer.global_step == 0 or trainer.is_last_batch or trainer.global_step + 1 == trainer.max_steps
        trainer.log_every_n_steps = 1 if ends else self.every  # pyright: ignore[reportAttributeAccessIssue]

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        trainer.log_every_n_steps = self.every  # pyright: ignore[reportAttributeAccessIssue]
