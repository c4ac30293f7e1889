"""What a step of training lowers: a loss of the descriptors of all processes, with its miner and its memory."""

import torch
from omegaconf import DictConfig
from pytorch_metric_learning.losses import BaseMetricLossFunction, CrossBatchMemory
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor, nn

from retrieval.config import build
from retrieval.errors import InputError
from retrieval.losses.memory import Memory
from retrieval.losses.ranking import AveragePrecisionLoss
from retrieval.losses.tuples import TupleLoss
from retrieval.processes import gathered


class Objective(nn.Module):
    """A scalar from this process's descriptors (b, d) and labels (b,): the loss of the batch of all processes.

    Each process computes the whole, in at least float32, so that DDP's mean gives the gradient of one process with the
    whole batch. With a `unit`, the loss takes each `unit` descriptors as one tuple.
    """

    def __init__(self, loss: nn.Module, miner: BaseMiner | None, memory: Memory | None, unit: int | None) -> None:
        super().__init__()
        self.loss, self.miner, self.memory, self.unit = loss, miner, memory, unit

    def forward(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(descriptors.device.type, enabled=False):
            wide = descriptors.to(torch.promote_types(descriptors.dtype, torch.float32))
            return self._of_all(gathered(wide), gathered(labels))

    def _of_all(self, x: Tensor, labels: Tensor) -> Tensor:
        if self.unit is not None:
            return self.loss(x.unflatten(0, (-1, self.unit)))
        loss = self._within(x, labels)
        if self.memory is None:
            return loss
        if self.memory.filled:
            loss = loss + self._against(x, labels, *self.memory.held())
        if self.training:
            self.memory.add(x, labels)
        return loss

    def _within(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.loss(x, labels) if self.miner is None else self.loss(x, labels, self.miner(x, labels))

    def _against(self, x: Tensor, labels: Tensor, others: Tensor, their_labels: Tensor) -> Tensor:
        """The same loss between the batch and descriptors of earlier ones, as XBM's authors add it (weight 1)."""
        others = others.to(x.dtype)
        if isinstance(self.loss, AveragePrecisionLoss):
            return self.loss(x @ others.T, labels[:, None] == their_labels)
        mined = None if self.miner is None else self.miner(x, labels, others, their_labels)
        return self.loss(x, labels, mined, others, their_labels)


def from_config(cfg: DictConfig, num_classes: int, dim: int, unit: int | None) -> Objective:
    """The objective of a training config (its keys loss, miner, memory).

    Classifying losses learn vectors of `dim` values for `num_classes` labels. `unit`: photos of a tuple, None where the
    sampler's units are no tuples. InputError where loss, miner, memory and tuples do not go together.
    """
    loss = build(cfg.loss, num_classes=num_classes, embedding_size=dim)
    miner = None if cfg.miner.get("_target_") is None else build(cfg.miner)
    refuse(loss, miner, cfg.memory, unit)
    memory = Memory(cfg.memory, dim) if cfg.memory else None
    return Objective(loss, miner, memory, unit if isinstance(loss, TupleLoss) else None)


def refuse(loss: nn.Module, miner: BaseMiner | None, memory: int, unit: int | None) -> None:
    """Refuse what does not go together."""
    name = type(loss).__name__
    if isinstance(loss, TupleLoss) and (unit is None or unit < 3):
        got = "a sampler that draws no tuples" if unit is None else f"tuples of {unit} photos"
        raise InputError(
            f"{name} takes tuples of a query, a positive and at least one negative, got {got}; "
            "accepted: sampler=tuples with sampler.negatives of 1 or more"
        )
    if miner is not None and not isinstance(loss, BaseMetricLossFunction):
        raise InputError(
            f"{name} takes no pairs or triplets to choose among, got the miner {type(miner).__name__}; "
            "accepted: miner=none"
        )
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 0:
        raise InputError(f"memory must be a whole number of descriptors, 0 for none, got {memory!r}")
    if memory and not compares(loss):
        raise InputError(
            f"{name} does not compare descriptors with those of earlier batches, got memory={memory}; accepted: "
            "memory=0, or a loss of pairs, triplets or rankings"
        )


def compares(loss: nn.Module) -> bool:
    """Whether a loss is between a batch and others, which losses of tuples and of learned class vectors are not."""
    known = {"AveragePrecisionLoss", *CrossBatchMemory.supported_losses()}
    return any(base.__name__ in known for base in type(loss).__mro__)
