"""The mean of the weights over the last steps, which is judged and saved in their place."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from retrieval.errors import InputError


class AveragedWeights(WeightAveraging):
    """An exponential moving average of weights and buffers: from the end of an epoch to the start of the next, and
    after training, the module holds it.

    So held-out landmarks, whatever is saved at an epoch's end and the final evaluation see the average, and training
    goes on from its own weights, which a whole checkpoint has as `current_model_state`. Counts, and tables of indices,
    are not averaged: they are those of the last step.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"callbacks.ema.decay is what a step leaves of the average, in [0, 1), got {decay}")
        super().__init__(avg_fn=lambda average, current, _: moved(average, current, 1 - decay))
        self.inside = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """It comes first, that others find the average at the end of an epoch."""
        super().setup(trainer, pl_module, stage)
        others = [callback for callback in trainer.callbacks if callback is not self]  # pyright: ignore[reportAttributeAccessIssue]
        trainer.callbacks = [self, *others]  # pyright: ignore[reportAttributeAccessIssue]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The module has moved to its device since it was copied."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.inside:
            self.exchange(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.exchange(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.inside:
            self.exchange(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that had no more steps to go has not come to the end of training."""
        if not self.inside:
            self.exchange(pl_module)

    def exchange(self, pl_module: pl.LightningModule) -> None:
        """The average into the module and its own weights out of it, or back."""
        self._swap_models(pl_module)
        self.inside = not self.inside

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """`state_dict` of a checkpoint is the average wherever it lies."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.inside:
            own, average = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = average, own


@torch.no_grad()
def moved(average: Tensor, current: Tensor, share: float) -> Tensor:
    """average + share (current - average), which leaves what does not change as it is; `current` where it counts."""
    return average.lerp(current, share) if average.is_floating_point() else current
