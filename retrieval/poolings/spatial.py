"""Poolings that read the map of patches; each is `forward(Features) -> (B, out_dim)` for any H x W."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import InputError
from retrieval.features import Features
from retrieval.poolings import functional as F


class GlobalAverage(nn.Module):
    """GAP, SPoC: the mean over positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.out_dim = dim

    def forward(self, features: Features) -> Tensor:
        return F.average(features.patches, features.mask)


class GlobalMax(nn.Module):
    """MAC: the maximum over positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.out_dim = dim

    def forward(self, features: Features) -> Tensor:
        return F.maximum(features.patches, features.mask)


NEGATIVE = {
    "clamp": F.generalised_mean,
    "shift": F.shifted_mean,
    "softplus": F.softplus_mean,
    "signed": F.signed_mean,
}


class GeM(nn.Module):
    """Generalised mean with learnable `p`, (1,) or one per channel (D,): p = 1 is GAP, p -> inf is max.

    `learned` = False keeps p where it starts, `p_min` is the least it may become. A power needs values above 0, and
    only networks that end in a ReLU give those; `negative` says what happens to the rest:
    - clamp: max(x, eps), as in the paper. On a ViT or a ConvNeXt it throws half of the activations away; a warning
      says so once, by the first batch, where it is more than half.
    - shift: the map less its own minimum in that channel, which is added back. Keeps p = 1 the average.
    - softplus: ln(1 + e^x). Smooth, keeps the order of activations; the result is never negative.
    - signed: sign(x) |x|^p, the root with its sign. Strong negative activations count as much as positive ones.
    """

    def __init__(
        self,
        dim: int,
        p: float = 3.0,
        per_channel: bool = False,
        learned: bool = True,
        p_min: float | None = None,
        eps: float = 1e-6,
        negative: str = "clamp",
    ) -> None:
        super().__init__()
        if not 0 < float(p) < math.inf:
            raise InputError(f"GeM needs a finite p > 0 (1 is the average, large p the maximum), got p = {p}")
        if p_min is not None and not 0 < float(p_min) <= float(p):
            raise InputError(f"GeM needs 0 < p_min <= p = {p}, the least that p may become, got p_min = {p_min}")
        if not float(eps) > 0:
            raise InputError(f"GeM needs eps > 0, the least value an activation is raised to, got eps = {eps}")
        if negative not in NEGATIVE:
            raise InputError(f"GeM's negative must be {' or '.join(NEGATIVE)}, got {negative!r}")
        self.dim = self.out_dim = dim
        self.p_min = None if p_min is None else float(p_min)
        self.eps, self.negative = float(eps), negative
        self.unseen = negative == "clamp"
        self.p = nn.Parameter(torch.full((dim if per_channel else 1,), float(p)), requires_grad=bool(learned))

    def forward(self, features: Features) -> Tensor:
        return self.pooled(features.patches, features.mask)

    def pooled(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, D, H, W), mask (B, H, W) -> (B, D)."""
        if self.unseen and not torch.compiler.is_compiling():
            self.unseen = False
            warn_of_clamping(x, mask)
        # clamp would give no gradient on the bound itself, and p could never leave it
        p = self.p if self.p_min is None else torch.where(self.p >= self.p_min, self.p, self.p_min)
        return NEGATIVE[self.negative](x, p, self.eps, mask)

    @torch.no_grad()
    def project(self) -> Tensor:
        """Put p back on its bound, after a step of the optimizer; returns how many values were below it, ()."""
        least = -math.inf if self.p_min is None else self.p_min
        held = (self.p < least).sum()
        self.p.clamp_(min=least)
        return held


def warn_of_clamping(x: Tensor, mask: Tensor | None) -> None:
    """Warn where more than half of the activations are below 0."""
    share = F.average((x < 0).to(torch.float32), mask).mean().item()
    if share > 0.5:
        warnings.warn(
            f"GeM clamps {share:.0%} of this backbone's activations, those below 0, to eps: pooling.negative=shift, "
            "softplus or signed keeps them, and pooling.negative=clamp is right after a ReLU",
            stacklevel=3,
        )


class LogSumExp(nn.Module):
    """A smooth maximum: (1/r) log mean exp(r x), r = `sharpness`; the average at r -> 0, the maximum at r -> inf."""

    def __init__(self, dim: int, sharpness: float = 10.0) -> None:
        super().__init__()
        if not float(sharpness) > 0:
            raise InputError(f"log_sum_exp needs sharpness > 0, got {sharpness}")
        self.dim = self.out_dim = dim
        self.sharpness = float(sharpness)

    def forward(self, features: Features) -> Tensor:
        return F.log_sum_exp(features.patches, self.sharpness, features.mask)


class RMAC(nn.Module):
    """Sum of the L2-normalised maxima over square regions at `levels` sizes, and over the whole map.

    A padded map is cut to its real rectangle first: its regions are those of the item alone.
    """

    def __init__(self, dim: int, levels: int = 3) -> None:
        super().__init__()
        self.dim = self.out_dim = dim
        self.levels = checked_levels(levels)

    def forward(self, features: Features) -> Tensor:
        return over_rectangles(features, lambda x: F.regional_maximum(x, self.levels))


class RegionalGeM(GeM):
    """R-MAC with GeM in place of the maximum; the regions share one p, and take GeM's other settings."""

    def __init__(self, dim: int, levels: int = 3, **gem: Any) -> None:
        super().__init__(dim, **gem)
        self.levels = checked_levels(levels)

    def forward(self, features: Features) -> Tensor:
        return over_rectangles(features, lambda x: F.regional_mean(x, self.levels, self.pooled))


def checked_levels(levels: int) -> int:
    if levels < 1:
        raise InputError(f"a regional pooling needs at least one level of regions, got levels = {levels}")
    return int(levels)


def over_rectangles(features: Features, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """`pool` of the maps in at least float32; of each item's real rectangle alone where there is padding."""
    x, mask = F.at_least_float32(features.patches), features.mask
    if mask is None:
        return pool(x)
    sides = zip(mask.any(2).sum(1).tolist(), mask.any(1).sum(1).tolist(), strict=True)
    return torch.cat([pool(x[i : i + 1, :, :h, :w]) for i, (h, w) in enumerate(sides)])


class SpatialPyramid(nn.Module):
    """Grids of `sizes` cells a side over the whole map, each cell averaged (or its maximum taken), concatenated.

    out_dim = D * (1 + 4 + 9) for sizes 1, 2, 3; where things stand in the picture is kept (Lazebnik et al., CVPR
    2006; He et al., TPAMI 2015).
    """

    def __init__(self, dim: int, sizes: Sequence[int] = (1, 2, 3), reduce: str = "average") -> None:
        super().__init__()
        if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise InputError(f"spatial_pyramid.sizes must be a list of whole numbers from 1 on, got {sizes}")
        if reduce not in ("average", "max"):
            raise InputError(f"spatial_pyramid.reduce must be average or max, got {reduce!r}")
        self.dim, self.out_dim = dim, dim * sum(size * size for size in sizes)
        self.sizes = tuple(sizes)
        self.cells = F.adaptive_average if reduce == "average" else F.adaptive_maximum

    def forward(self, features: Features) -> Tensor:
        return torch.cat([self.cells(features.patches, size, features.mask).flatten(1) for size in self.sizes], 1)


class StridedConv(nn.Module):
    """`depth` learned stride-2 convolutions, then the average of what is left: any H x W gives (B, dim).

    Each layer starts as the average of its window per channel, so that untrained it is a pooling. Between layers
    stands a PReLU whose slope starts at 1, the identity, because a purely linear stack could only ever be a linear
    map of GAP. `depthwise` convolves each channel alone; `bottleneck` adds to the windows' average a k x k
    convolution over that many channels, between 1 x 1 convolutions of which the last starts at zero. Exported by
    torch.export it takes maps of more than 2^depth positions a side: a map of one position is a case of its own there.
    """

    def __init__(
        self, dim: int, kernel: int = 3, depth: int = 2, depthwise: bool = False, bottleneck: int | None = None
    ) -> None:
        super().__init__()
        if kernel < 2 or depth < 1:
            raise InputError(f"strided_conv needs kernel >= 2 and depth >= 1, got kernel = {kernel}, depth = {depth}")
        if bottleneck is not None and (depthwise or not 0 < bottleneck < dim):
            raise InputError(
                f"strided_conv takes a bottleneck of 1 to {dim - 1} channels and without depthwise, "
                f"got bottleneck = {bottleneck}, depthwise = {depthwise}"
            )
        self.dim = self.out_dim = dim
        make = Bottleneck if bottleneck else Window
        self.layers = nn.ModuleList(make(dim, kernel, bottleneck or (dim if depthwise else 1)) for _ in range(depth))
        self.activations = nn.ModuleList(nn.PReLU(dim, init=1.0) for _ in range(depth - 1))

    def forward(self, features: Features) -> Tensor:
        x, mask = F.at_least_float32(features.patches), features.mask
        with torch.autocast(x.device.type, enabled=False):
            for i, layer in enumerate(self.layers):
                x = layer(self.activations[i - 1](x) if i else x, mask)
                mask = None if mask is None else mask[:, ::2, ::2]
        return F.average(x, mask)


class Window(nn.Module):
    """One stride-2 convolution, full (groups = 1) or depthwise (groups = dim), that starts as its window's average."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        weight = torch.zeros(dim, dim // groups, kernel, kernel)
        weight[torch.arange(dim), torch.arange(dim) % (dim // groups)] = 1 / kernel**2
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return F.strided_convolution(x, self.weight, self.bias, mask, self.groups)


class Bottleneck(nn.Module):
    """The window's average plus a learned convolution over few channels, which starts at zero."""

    def __init__(self, dim: int, kernel: int, channels: int) -> None:
        super().__init__()
        self.average = Window(dim, kernel, dim)
        self.reduce = nn.Conv2d(dim, channels, 1)
        self.convolve = Window(channels, kernel, 1)
        self.expand = nn.Conv2d(channels, dim, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.average(x, mask) + self.expand(self.convolve(self.reduce(x).relu(), mask))
