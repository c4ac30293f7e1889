"""Several processes that train or judge one model: which one this is, and what they hold together."""

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from retrieval.config import InputError

T = TypeVar("T")
RANKS = ("RANK", "SLURM_PROCID")  # torchrun's, srun's
SIZES = ("WORLD_SIZE", "SLURM_NTASKS")


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if joined() else _told(RANKS, 0)


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if joined() else _told(SIZES, 1)


def first() -> bool:
    """Whether this is the process that judges, prints and writes."""
    return rank() == 0


def joined() -> bool:
    """Whether the processes can talk to each other yet."""
    return dist.is_available() and dist.is_initialized()


def part(items: Sequence[T], what: str) -> Sequence[T]:
    """This process's share, a contiguous one as large as any other's; InputError where `what` cannot be shared so."""
    size = world_size()
    if len(items) % size:
        raise InputError(f"{what} must be a multiple of the {size} processes that share it, got {len(items)}")
    each = len(items) // size
    return items[rank() * each : (rank() + 1) * each]


def gathered(x: Tensor) -> Tensor:
    """The x (b, ...) of every process, in their order, as one (B, ...); all must have the same shape.

    A loss of the whole gives each process B / b times its share of the gradient, which DDP's mean over the processes
    makes the gradient of one process with the whole batch.
    """
    if not joined() or world_size() == 1:
        return x
    if not x.requires_grad:
        each = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(each, x.contiguous())
        return torch.cat(each)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x))


def _told(names: Sequence[str], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), otherwise)
