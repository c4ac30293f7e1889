"""Weights in shares: each process keeps a part of every one, and has the whole only while it is used (FSDP)."""

import copy
from collections.abc import Iterator

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from retrieval import processes
from retrieval.embedder import Embedder


class FullySharded(ModelParallelStrategy):
    """`trainer.strategy=fully_sharded`: shares of `fully_shard` on all processes, and checkpoints of the whole."""

    def __init__(self) -> None:
        super().__init__(processes.world_size(), 1, save_distributed_checkpoint=False)


StrategyRegistry.register("fully_sharded", FullySharded)


def shard(embedder: Embedder, objective: nn.Module, mesh: DeviceMesh) -> None:
    """Leave each process its share of the weights, which are gathered block by block; see `whole` for the rest."""
    plain = copy.deepcopy(embedder)
    embedder.to(memory_format=torch.contiguous_format)  # shares are cut from no other
    for part in (*blocks(embedder), embedder, *([objective] if list(objective.parameters()) else [])):
        fully_shard(part, mesh=mesh)
    embedder.__dict__["plain"] = plain  # no part of it, for all that look through its parts


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network, which follow each other and are of one kind: those of a ViT, of each stage of a CNN."""
    parts = list(module.children())
    alike = isinstance(module, (nn.Sequential, nn.ModuleList)) and len({type(part) for part in parts}) == 1
    for part in parts:
        if alike and list(part.children()):
            yield part
        else:
            yield from blocks(part)


def whole(embedder: Embedder) -> Embedder:
    """The embedder, or a copy with all weights of one that lies in shares; called by every process at once."""
    if not isinstance(embedder, FSDPModule):
        return embedder
    plain: Embedder = embedder.__dict__["plain"]
    plain.load_state_dict(get_model_state_dict(embedder, options=StateDictOptions(full_state_dict=True)))
    return plain.to(next(embedder.parameters()).device).train(embedder.training)


def full(x: Tensor) -> Tensor:
    """The tensor of which each process has a share; called by every process at once."""
    return x.full_tensor() if isinstance(x, DTensor) else x
