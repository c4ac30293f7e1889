"""One small function per formula: how the vectors of a map become one.

x (B, D, H, W), mask (B, H, W) bool or None, result (B, D); computed in at least float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 lose digits in sums and powers (1e-6 cubed is 0 in float16)."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def average(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Global average pooling: mean over the real positions (Babenko and Lempitsky, ICCV 2015, SPoC)."""
    x = at_least_float32(x)
    if mask is None:
        return x.mean((-2, -1))
    real = mask[:, None].to(x.dtype)
    return torch.where(mask[:, None], x, 0).sum((-2, -1)) / real.sum((-2, -1))


def maximum(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Global max pooling over the real positions (Tolias et al., ICLR 2016, MAC)."""
    x = at_least_float32(x)
    return x.amax((-2, -1)) if mask is None else x.masked_fill(~mask[:, None], -torch.inf).amax((-2, -1))


def generalised_mean(x: Tensor, p: Tensor, eps: float = 1e-6, mask: Tensor | None = None) -> Tensor:
    """GeM: (mean max(x, eps)^p)^(1/p), p of shape (1,) or (D,) (Radenovic et al., TPAMI 2019, eq. 3).

    Each channel is divided by its maximum first, which changes nothing but keeps x^p within range
    (1e4^20 overflows float32).
    """
    x = at_least_float32(x).clamp(min=eps)
    p = p.to(x.dtype)
    top = maximum(x, mask).detach()
    powers = (x / top[..., None, None]) ** p[:, None, None]
    return top * average(powers, mask) ** (1 / p)


def strided_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Stride-2 convolution that counts real positions alone; returns the map and its mask, sides halved (rounded up).

    The sum over a window is scaled by (window size / number of real positions in it), as in partial convolutions
    (Liu et al., ECCV 2018, eq. 1), so that borders and padding do not dim the result. x (B, C, H, W),
    weight (C', C/groups, k, k), mask (B, H, W).
    """
    k = weight.shape[-1]
    pad = ((k - 1) // 2, k // 2) * 2
    real = mask[:, None].to(x.dtype)
    count = F.conv2d(F.pad(real, pad), x.new_ones(1, 1, k, k), stride=2)
    x = torch.where(mask[:, None], x, 0)
    x = F.conv2d(F.pad(x, pad), weight, stride=2, groups=groups) * (k * k / count.clamp(min=1))
    return x if bias is None else x + bias[:, None, None], mask[:, ::2, ::2]
