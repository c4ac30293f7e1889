"""Who learns how fast and when: schedules of the learning rate, groups of parameters, and a p that waits."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from retrieval.backbones import TimmBackbone
from retrieval.embedder import Embedder
from retrieval.errors import InputError

BACKBONE = "embedder.backbone."


def steps_of(batches: int, trainer: Any) -> tuple[int, int]:
    """Steps of the optimizer in a whole training of so many batches an epoch by a Lightning Trainer, and in an epoch.

    Not the Trainer's own estimate, which opens the loader before it knows where a killed run stopped.
    """
    each = math.ceil(batches / trainer.accumulate_grad_batches)
    steps = each * int(trainer.max_epochs or 1)
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps), each


class WarmupCosine(LambdaLR):
    """Linear warm-up over the first `warmup` share of the steps, then half a cosine to zero."""

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.1) -> None:
        if not 0 <= warmup < 1:
            raise InputError(f"schedule.warmup is a share of the steps, in [0, 1), got {warmup}")
        first = max(1, round(warmup * total_steps))
        super().__init__(optimizer, lambda step: warmup_cosine(step, first, total_steps))


def warmup_cosine(step: int, first: int, total: int) -> float:
    """Factor of the learning rate: (step + 1) / first, then (1 + cos(pi t)) / 2."""
    if step < first:
        return (step + 1) / first
    return (1 + math.cos(math.pi * min(1.0, (step - first) / max(1, total - first)))) / 2


class Exponential(LambdaLR):
    """Times exp(-rate) after each epoch (Radenovic et al., TPAMI 2019: rate 0.01)."""

    def __init__(self, optimizer: Optimizer, steps_per_epoch: int, rate: float = 0.01) -> None:
        if not 0 <= rate < math.inf:
            raise InputError(f"schedule.rate is how fast the learning rate falls, at least 0, got {rate}")
        if steps_per_epoch < 1:
            raise InputError(f"an epoch must have at least 1 step of the optimizer, got {steps_per_epoch}")
        super().__init__(optimizer, lambda step: exponential(step // steps_per_epoch, rate))


def exponential(epoch: int, rate: float) -> float:
    """Factor of the learning rate in an epoch, from 0: exp(-rate epoch)."""
    return math.exp(-rate * epoch)


def parameter_groups(
    module: nn.Module, optimizer: Mapping[str, Any], multipliers: Mapping[str, float], layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """What learns at one rate: p, pooling, head, loss and backbone, each at the optimizer's `lr` times its multiplier.

    module: what trains `module.embedder`; each of its trainable parameters is in one group, and there must be one. The
    backbone's layer that lies n layers below the top one learns at layer_decay^n of its rate (Clark et al., ICLR 2020;
    Bao et al., BEiT, ICLR 2022). Groups for which the optimizer's weight decay is not right state their own, 0: see
    `decayed`.
    """
    if type(layer_decay) not in (int, float) or not 0 < layer_decay <= 1:
        raise InputError(
            f"layer_decay must be what each layer's rate is of the one above it, in (0, 1], got {layer_decay!r}"
        )
    backbone = module.get_submodule(BACKBONE.rstrip("."))
    assert isinstance(backbone, TimmBackbone)
    depths = backbone.depths() if layer_decay < 1 and backbone.frozen is None else {}
    spared = backbone.undecayed()
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            part, depth = part_of(name), depths.get(name.removeprefix(BACKBONE), 0)
            own = {} if decayed(name, parameter, spared) else {"weight_decay": 0.0}
            title = f"{part}{f' {depth} below the top' if depth else ''}{' undecayed' if own else ''}"
            rate = float(optimizer["lr"]) * float(multipliers[part]) * layer_decay**depth
            groups.setdefault(title, {"name": title, "params": [], "lr": rate, **own})["params"].append(parameter)
    if not groups:
        raise InputError(
            "nothing is left to train: the backbone is frozen (lr_multipliers.backbone=0), and pooling, head and loss "
            "have no weights; accepted: lr_multipliers.backbone above 0, or a pooling, head or loss that learns"
        )
    return list(groups.values())


def decayed(name: str, parameter: Tensor, spared: set[str]) -> bool:
    """Whether weight decay applies: not to norms, biases and other vectors, to what timm spares, and to p, which it
    would drag to 0."""
    alone = parameter.ndim <= 1 or name.endswith(".bias")
    return not (alone or part_of(name) == "p" or name.removeprefix(BACKBONE) in spared)


def part_of(name: str) -> str:
    """Whose learning rate a parameter has: p, pooling, head, backbone or loss."""
    if name == "embedder.pooling.p":
        return "p"
    return name.split(".")[1] if name.startswith("embedder.") else "loss"


def hold_p(embedder: Embedder) -> None:
    """Leave p out of the coming step of the optimizer: no step, no weight decay, no share in the norm that is clipped.

    To be called between the backward pass and clipping. The optimizer keeps nothing of p as long as this is called
    before each of its steps. p goes on asking for a gradient, as processes that share gradients agree on who does.
    """
    p = getattr(embedder.pooling, "p", None)
    if isinstance(p, nn.Parameter):
        p.grad = None
