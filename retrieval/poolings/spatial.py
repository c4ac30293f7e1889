"""Poolings that read the map of patches; each is `forward(Features) -> (B, out_dim)` for any H x W."""

import torch
from torch import Tensor, nn

from retrieval.config import InputError
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


class GeM(nn.Module):
    """Generalised mean with learnable `p`, (1,) or one per channel (D,): p = 1 is GAP, p -> inf is max."""

    def __init__(self, dim: int, p: float = 3.0, per_channel: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        if not float(p) > 0:
            raise InputError(f"GeM needs p > 0 (1 is the average, large p the maximum), got p = {p}")
        if not float(eps) > 0:
            raise InputError(f"GeM needs eps > 0, the least value an activation is raised to, got eps = {eps}")
        self.dim = self.out_dim = dim
        self.eps = float(eps)
        self.p = nn.Parameter(torch.full((dim if per_channel else 1,), float(p)))

    def forward(self, features: Features) -> Tensor:
        return F.generalised_mean(features.patches, self.p, self.eps, features.mask)


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
        if levels < 1:
            raise InputError(f"rmac needs at least one level of regions, got levels = {levels}")
        self.dim = self.out_dim = dim
        self.levels = int(levels)

    def forward(self, features: Features) -> Tensor:
        x = F.at_least_float32(features.patches)
        if features.mask is None:
            return F.regional_maximum(x, self.levels)
        sides = zip(features.mask.any(2).sum(1).tolist(), features.mask.any(1).sum(1).tolist(), strict=True)
        items = [F.regional_maximum(x[i : i + 1, :, :h, :w], self.levels) for i, (h, w) in enumerate(sides)]
        return torch.cat(items)


class StridedConv(nn.Module):
    """`depth` learned stride-2 convolutions, then the average of what is left: any H x W gives (B, dim).

    Each layer starts as the average of its window per channel, so that untrained it is a pooling. Between layers
    stands a PReLU whose slope starts at 1, the identity, because a purely linear stack could only ever be a linear
    map of GAP. `depthwise` convolves each channel alone; `bottleneck` adds to the windows' average a k x k
    convolution over that many channels, between 1 x 1 convolutions of which the last starts at zero.
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
        x = F.at_least_float32(features.patches)
        mask = features.mask if features.mask is not None else x.new_ones(x[:, 0].shape, dtype=torch.bool)
        with torch.autocast(x.device.type, enabled=False):
            for i, layer in enumerate(self.layers):
                x, mask = layer(self.activations[i - 1](x) if i else x, mask)
        return F.average(x, None if features.mask is None else mask)


class Window(nn.Module):
    """One stride-2 convolution, full (groups = 1) or depthwise (groups = dim), that starts as its window's average."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        weight = torch.zeros(dim, dim // groups, kernel, kernel)
        weight[torch.arange(dim), torch.arange(dim) % (dim // groups)] = 1 / kernel**2
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
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

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        learned, _ = self.convolve(self.reduce(x).relu(), mask)
        averaged, halved = self.average(x, mask)
        return averaged + self.expand(learned), halved
