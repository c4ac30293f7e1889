"""The generalised mean as one autograd function that recomputes instead of storing.

The textbook formula keeps three copies of the map for its backward pass and spends most of its time in pow. Here the
map is walked through in blocks that stay in the processor's cache, a power is 2^(p log2 r), and all that is kept for
the backward pass besides the map are two numbers a channel. On a GPU the same formulas are one kernel each way, see
power_mean_gpu.py.

x (B, D, H, W) in either memory layout, p (1,) or (D,), mask (B, H, W) bool or None, result (B, D).
"""

import functools
import math
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**18  # elements of a block for each thread: measured best of 2^15 to 2^20 at (32, 2048, 32, 32)


class PowerMean(torch.autograd.Function):
    """apply(x, p, eps, mask) -> (mean max(x, eps)^p)^(1/p), (B, D), in at least float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor, eps: float, mask: Tensor | None) -> Tensor:
        gpu = kernels() if x.is_cuda and x.dtype != torch.float64 else None
        value = gpu.value if gpu else blockwise_value
        out, slope = value(x, p, eps, mask, ctx.needs_input_grad[1])
        ctx.save_for_backward(x, p, mask, out, slope)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, p, mask, out, slope = ctx.saved_tensors
        gpu = kernels() if x.is_cuda and x.dtype != torch.float64 else None
        gradient = gpu.gradient if gpu else blockwise_gradient
        dx = gradient(x, p, ctx.eps, mask, out, grad) if ctx.needs_input_grad[0] else None
        dp = None if slope is None else (grad * slope).sum_to_size(1, p.shape[0])[0].to(p.dtype)
        return dx, dp, None, None


@functools.cache
def kernels() -> ModuleType | None:
    """power_mean_gpu, once it has compiled and run on this machine; else None, and the map is taken in blocks."""
    try:
        from retrieval.poolings import power_mean_gpu

        one = torch.ones(1, 1, 1, 1, device="cuda")
        power_mean_gpu.value(one, one[0, 0, 0], 1e-6, None, False)
    except Exception as error:  # Triton or the C compiler that it calls may be absent, the GPU unknown to it
        warnings.warn(f"GeM runs without its fused GPU kernels, which do not work here: {error}", stacklevel=2)
        return None
    return power_mean_gpu


def blockwise_value(
    x: Tensor, p: Tensor, eps: float, mask: Tensor | None, with_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """The generalised mean of each channel and, `with_slope`, its derivative by p.

    With r = x / t and t = max x, which keeps r^p within range (1e4^20 overflows float32): out = t (mean r^p)^(1/p),
    d out / dp = out (mean(r^p ln r) / mean(r^p) - ln(mean r^p) / p) / p.
    """
    x = x.flatten(2)
    top, total, weighted = (x.new_empty(*x.shape[:2], 1, dtype=p.dtype) for _ in range(3))
    buffers = scratch(x, p.dtype)
    for at, real, power in blocks(x, p, mask):
        r, powers = (buffer[: len(total[at]), : total[at].shape[1]] for buffer in buffers)
        widened(x[at].to(p.dtype), eps, real, r)
        torch.amax(r, -1, keepdim=True, out=top[at])
        r.div_(top[at]).log2_()
        torch.mul(r, power, out=powers).exp2_()
        if real is not None:
            powers.mul_(real)
        torch.sum(powers, -1, keepdim=True, out=total[at])
        if with_slope:
            torch.sum(r.mul_(powers), -1, keepdim=True, out=weighted[at])
    mean = (total / counted(x, mask))[..., 0]
    out = top[..., 0] * mean ** (1 / p)
    slope = out * (math.log(2) * (weighted / total)[..., 0] - mean.log() / p) / p if with_slope else None
    return out, slope


def blockwise_gradient(x: Tensor, p: Tensor, eps: float, mask: Tensor | None, out: Tensor, grad: Tensor) -> Tensor:
    """d out / dx = (x / out)^(p - 1) / n, times the gradient of `out`; zero where x was clamped or is padding."""
    flat = x.flatten(2)
    dx = torch.empty_like(flat)
    share, centre = grad[..., None] / counted(flat, mask), out[..., None]
    for at, real, power in blocks(flat, p, mask):
        block = flat[at].to(p.dtype)
        r = dx[at] if dx.dtype == p.dtype else torch.empty_like(block)
        widened(block, eps, real, r)
        r.div_(centre[at]).log2_().mul_(power - 1).exp2_().mul_(share[at])
        if real is not None:
            r.mul_(real)
        # one vectorised pass in place of a comparison and a fill, which together take as long as all the rest
        torch.ops.aten.threshold_backward.grad_input(r, block, eps, grad_input=r)
        if r.dtype != dx.dtype:
            dx[at] = r
    return dx.unflatten(2, x.shape[2:])


def blocks(x: Tensor, p: Tensor, mask: Tensor | None) -> Iterator[tuple[tuple[slice, slice], Tensor | None, Tensor]]:
    """Over x (B, D, L): which items and channels, which positions are real (b, 1, L), and their p (d, 1)."""
    items, channels = block_shape(x)
    mask = None if mask is None else mask.flatten(1)[:, None]
    power = p.expand(x.shape[1])[:, None]
    for i in range(0, x.shape[0], items):
        for c in range(0, x.shape[1], channels):
            at = slice(i, i + items), slice(c, c + channels)
            yield at, None if mask is None else mask[at[0]], power[at[1]]


def block_shape(x: Tensor) -> tuple[int, int]:
    """Items and channels of one block of x (B, D, L): whole items where they are small."""
    size = BLOCK * torch.get_num_threads() if x.device.type == "cpu" else 2**24
    channels = min(x.shape[1], max(1, size // x.shape[2]))
    return min(x.shape[0], max(1, size // (x.shape[1] * x.shape[2]))), channels


def scratch(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Room for two blocks of x (B, D, L), laid out as it is."""
    items, channels = block_shape(x)
    if x.stride(1) == 1:
        return x.new_empty(2, items, x.shape[2], channels, dtype=dtype).mT.unbind()
    return x.new_empty(2, items, channels, x.shape[2], dtype=dtype).unbind()


def widened(block: Tensor, eps: float, real: Tensor | None, out: Tensor) -> None:
    """Put max(block, eps) into `out`; eps at padding, whatever stands there."""
    if real is not None:
        torch.where(real, block, out.new_tensor(eps), out=out).clamp_(min=eps)
    else:
        torch.clamp(block, min=eps, out=out)


def counted(x: Tensor, mask: Tensor | None) -> Tensor | int:
    """How many positions of x (B, D, L) are real: a number, or (B, 1, 1)."""
    return x.shape[2] if mask is None else mask.flatten(1).sum(1)[:, None, None]
