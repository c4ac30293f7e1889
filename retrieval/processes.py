"""Several processes that train or judge one model: which one this is, and what they hold together."""

import multiprocessing
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from retrieval.errors import InputError
from retrieval.ranks import in_shell as in_shell
from retrieval.ranks import told
from retrieval.ranks import under_srun as under_srun

T = TypeVar("T")


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if joined() else told("RANK", "SLURM_PROCID", 0)


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if joined() else told("WORLD_SIZE", "SLURM_NTASKS", 1)


def local_rank() -> int:
    """Number of this process among those of this machine, from 0: its GPU."""
    return told("LOCAL_RANK", "SLURM_LOCALID", 0)


def local_size() -> int:
    """How many processes there are on this machine, and on each other one."""
    return told("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", 1)


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
    gathering: Any = _Gathering.apply
    return gathering(x)


class _Gathering(torch.autograd.Function):
    """The rows of all processes; each hands back the gradient of its own rows, summed over what all made of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        each = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(each, x.contiguous())
        return torch.cat(each)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.chunk(world_size())[rank()]


def shared(value: T) -> T:
    """The first process's value, on every process."""
    if not joined():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def wait() -> None:
    """Go on when every process has come here."""
    if joined():
        dist.barrier()


def largest(value: int) -> int:
    """The largest of the processes' values, on every process."""
    if not joined():
        return value
    each = torch.tensor(value)  # of the CPU: no process has to wait for its GPU
    dist.all_reduce(each, dist.ReduceOp.MAX)
    return int(each)


def start_usual_children() -> None:
    """Start the processes of this one as Python does by default.

    joblib leaves its own start method in the processes that it runs, and no other class of process can be started by
    it: not the workers of a `DataLoader`, nor those of `torch.multiprocessing`.
    """
    usual = multiprocessing.get_all_start_methods()
    if multiprocessing.get_start_method() not in usual:
        multiprocessing.set_start_method(usual[0], force=True)
