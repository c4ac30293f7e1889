"""What stops a training that has gone wrong, before it spoils the weights."""

import math
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from retrieval.callbacks.checkpoints import whole, written
from retrieval.callbacks.loggers import due
from retrieval.extraction import NotFinite
from retrieval.poolings import GeM
from retrieval.sharding import full

PATIENCE = 20  # skipped steps in a row: each halves the scale of a float16 loss, so a millionth of it is left


class Guard(pl.Callback):
    """Stops at a loss, a gradient or a p of the pooling that is not finite, or at a p not above 0, before the weights
    are touched: NotFinite names the step, the files of its photos and the last good checkpoint.

    With 16-mixed the scale of the loss is found by gradients that overflow. Such steps are skipped and counted as
    `train/skipped_steps`; PATIENCE of them in a row stop. A p below its bound is put back on it and counted: `p/held`
    says how often so far.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, list[str]]] = []  # losses of this step, and the photos of each
        self.before: list[str] = []  # photos of the step before, which made p what it is
        self.skipped = self.in_a_row = 0
        self.held = torch.zeros(())

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        self.batches.append((loss.detach(), list(pl_module.paths)))

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        batches, self.batches = self.batches, []
        parameters = (q for group in optimizer.param_groups for q in group["params"])
        norm = full(get_total_norm([q.grad for q in parameters if q.grad is not None]))
        least, most = extremes(pl_module)
        numbers = [norm, least, most, *(loss for loss, _ in batches)]
        length, low, high, *losses = torch.stack([one.float() for one in numbers]).tolist()  # the one wait of a step
        self.check_p(trainer, low, high)
        for loss, (_, photos) in zip(losses, batches, strict=True):
            if not math.isfinite(loss):
                stop(trainer, f"the loss is {loss} at step {trainer.global_step}", photos)
        self.before = [path for _, photos in batches for path in photos]
        if math.isfinite(length):
            self.in_a_row = 0
        elif scales_losses(trainer):
            self.skip(trainer)
        elif bad := not_finite(pl_module):  # else their squares alone overflow
            stop(trainer, f"{bad} at step {trainer.global_step}", self.before)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        pooling = pl_module.embedder.pooling
        if bounded := isinstance(pooling, GeM) and pooling.p_min is not None:
            self.held = self.held.to(pooling.p.device) + full(pooling.project())
        if due(trainer):
            said = {"p/held": self.held} if bounded else {}
            said |= {"train/skipped_steps": float(self.skipped)} if scales_losses(trainer) else {}
            pl_module.log_dict(said, batch_size=1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        low, high = extremes(pl_module)
        self.check_p(trainer, float(low), float(high))

    def state_dict(self) -> dict[str, float]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "held": float(self.held)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]
        self.held = torch.tensor(state_dict["held"])

    def check_p(self, trainer: pl.Trainer, low: float, high: float) -> None:
        """Stop at a p that the step before has put out of its range."""
        if not 0 < low <= high < math.inf:
            step = trainer.global_step - 1
            stop(trainer, f"p left (0, inf) at step {step}, min {low:g}, max {high:g}", self.before)

    def skip(self, trainer: pl.Trainer) -> None:
        """Count a step that the scaler leaves out; stop when there is no end of them."""
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.in_a_row == PATIENCE:
            what = f"the gradients were not finite in {PATIENCE} steps in a row, up to step {trainer.global_step}"
            stop(trainer, f"{what}, however small the scale of the loss", self.before)


def extremes(pl_module: Any) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of p; 1 where the pooling has none."""
    p = pl_module.embedder.p
    return torch.aminmax(torch.ones((), device=pl_module.device) if p is None else p)


def scales_losses(trainer: pl.Trainer) -> bool:
    """Whether gradients are those of a scaled loss, so that infinite ones are part of the game."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def not_finite(pl_module: Any) -> str:
    """Which gradients are not finite, in words, the one nearest to the loss by name; "" where all are finite.

    What is wrong in a layer is wrong in all layers below it, so the last one is where it began.
    """
    gradients = {name: q.grad for name, q in pl_module.named_parameters() if q.grad is not None}
    bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    if not bad:
        return ""
    others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    value = "nan" if torch.isnan(gradients[bad[-1]]).any() else "inf"
    return f"the gradient of {bad[-1].removeprefix('embedder.')} is {value}{others}"


def stop(trainer: pl.Trainer, what: str, photos: list[str]) -> NoReturn:
    file = last_good(Path(trainer.default_root_dir) / "checkpoints")
    known = f"the last good checkpoint is {file}" if file else "there is no good checkpoint yet"
    raise NotFinite(f"{what}; photos of the batch: {photos}; {known}")


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint that is whole and sound: what a step spoils shows in the next one, and may be saved."""
    return next((file for file in written(folder) if whole(file) and sound(file)), None)


def sound(file: Path) -> bool:
    """Whether the weights of a checkpoint are finite and its p is above 0."""
    weights = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    finite = all(bool(torch.isfinite(weight).all()) for weight in weights.values())
    return finite and bool((weights.get("embedder.pooling.p", torch.ones(1)) > 0).all())
