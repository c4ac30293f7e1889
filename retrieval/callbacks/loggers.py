"""Where curves are written, and when."""

import lightning.pytorch as pl
from lightning.pytorch import loggers

from retrieval.config import InputError


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


def due(trainer: pl.Trainer) -> bool:
    """Whether Lightning writes to its loggers after this step, so that what is logged now is seen."""
    every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
    return bool(every) and trainer.global_step % every == 0
