"""How far a training is, for people."""

from typing import Any

import lightning.pytorch as pl

from retrieval import stages


class Stages(pl.Callback):
    """Says each epoch as it begins, where no progress bar does; a sign of life in it tells the step and the loss."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.progress_bar_callback is not None:
            return
        steps = int(trainer.estimated_stepping_batches)
        epochs = f" of {trainer.max_epochs}" if trainer.max_epochs else ""

        def progress() -> str:
            loss = trainer.callback_metrics.get("train/loss")
            return f"step {trainer.global_step} of {steps}" + ("" if loss is None else f", loss {float(loss):.4g}")

        epoch = f"epoch {trainer.current_epoch + 1}{epochs}"
        stages.stage(f"training: {epoch}, step {trainer.global_step} of {steps}", progress)
