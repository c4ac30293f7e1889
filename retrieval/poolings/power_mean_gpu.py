"""The generalised mean on a GPU: one Triton kernel each way, reading the map once in either memory layout.

x (B, D, H, W) float16, bfloat16 or float32, p (1,) or (D,), mask (B, H, W) bool or None, result (B, D) float32.
"""

# A kernel's arguments are pointers and numbers, which Triton types by itself.
# ruff: noqa: ANN001, ANN201
# pyright: reportArgumentType=false

import torch
import triton
import triton.language as tl
from torch import Tensor


def value(x: Tensor, p: Tensor, eps: float, mask: Tensor | None, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """The generalised mean of each channel and, `with_slope`, its derivative by p."""
    flat = x.flatten(2)
    out, slope = (x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2))
    rows, columns = tile(flat)
    with torch.cuda.device_of(x):
        value_kernel[(x.shape[0], triton.cdiv(x.shape[1], rows))](
            flat, p, real(mask, flat), out, slope, eps, x.shape[1], flat.shape[2], *flat.stride(),
            per_channel=p.numel() > 1, masked=mask is not None, with_slope=with_slope, rows=rows, columns=columns,
        )  # fmt: skip
    return out, slope if with_slope else None


def gradient(x: Tensor, p: Tensor, eps: float, mask: Tensor | None, out: Tensor, grad: Tensor) -> Tensor:
    """d out / dx, times the gradient of `out`; zero where x was clamped or is padding."""
    flat = x.flatten(2)
    dx = torch.empty_like(flat)
    share = grad / (flat.shape[2] if mask is None else mask.flatten(1).sum(1, keepdim=True))
    rows, columns = tile(flat)
    with torch.cuda.device_of(x):
        gradient_kernel[(x.shape[0], triton.cdiv(x.shape[1], rows), triton.cdiv(flat.shape[2], columns))](
            flat, p, real(mask, flat), out, share.contiguous(), dx, eps, x.shape[1], flat.shape[2], *flat.stride(),
            *dx.stride(), per_channel=p.numel() > 1, masked=mask is not None, rows=rows, columns=columns,
        )  # fmt: skip
    return dx.unflatten(2, x.shape[2:])


def tile(x: Tensor) -> tuple[int, int]:
    """Channels and positions that one program holds at once, the longer side where memory is contiguous."""
    if x.stride(1) == 1 and x.stride(2) != 1:
        return 64, 32
    columns = min(1024, triton.next_power_of_2(x.shape[2]))
    return max(1, 2048 // columns), columns


def real(mask: Tensor | None, x: Tensor) -> Tensor:
    """The mask as bytes (B, L); x itself, never read, where there is none."""
    return x if mask is None else mask.flatten(1).contiguous().view(torch.uint8)


@triton.jit
def value_kernel(
    x, p, mask, out, slope, eps, channels, positions, item, channel, position,
    per_channel: tl.constexpr, masked: tl.constexpr, with_slope: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """Sums of r^p and r^p log2 r, r = x / t, over one item's channels; t, the maximum so far, grows on the way
    and the sums are scaled to it, as in an online softmax (Milakov and Gimelshein, 2018)."""
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * rows + tl.arange(0, rows)
    power = tl.load(p + d, mask=d < channels, other=1.0) if per_channel else tl.load(p)
    power = power.to(tl.float32)
    log_top = tl.zeros([rows], tl.float32) + tl.log2(eps + tl.zeros([rows], tl.float32))
    total = tl.zeros([rows], tl.float32)
    weighted = tl.zeros([rows], tl.float32)
    count = tl.zeros([rows], tl.float32)
    for start in range(0, positions, columns):
        i = start + tl.arange(0, columns)
        counts = (d < channels)[:, None] & (i < positions)[None, :]
        if masked:
            counts = counts & (tl.load(mask + b * positions + i, mask=i < positions, other=0) != 0)[None, :]
        v = tl.load(x + b * item + d[:, None] * channel + i[None, :] * position, mask=counts, other=0.0)
        v = v.to(tl.float32)
        logs = tl.log2(tl.where(v < eps, eps, v))  # a NaN stays one
        higher = tl.maximum(log_top, tl.max(tl.where(counts, logs, log_top[:, None]), 1))
        scale = tl.exp2(power * (log_top - higher))
        logs = tl.where(counts, logs - higher[:, None], 0.0)
        powers = tl.where(counts, tl.exp2((power + tl.zeros([rows], tl.float32))[:, None] * logs), 0.0)
        weighted = scale * (weighted + total * (log_top - higher)) + tl.sum(powers * logs, 1)
        total = scale * total + tl.sum(powers, 1)
        count += tl.sum(counts.to(tl.float32), 1)
        log_top = higher
    log_mean = tl.log2(total / count)
    result = tl.exp2(log_top + log_mean / power)
    at = b * channels + d
    tl.store(out + at, result, mask=d < channels)
    if with_slope:
        ln2 = 0.6931471805599453
        tl.store(slope + at, result * ln2 * (weighted / total - log_mean / power) / power, mask=d < channels)


@triton.jit
def gradient_kernel(
    x, p, mask, out, share, dx, eps, channels, positions, item, channel, position, dx_item, dx_channel, dx_position,
    per_channel: tl.constexpr, masked: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """(x / out)^(p - 1) share on one tile of an item's channels and positions."""
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * rows + tl.arange(0, rows)
    i = tl.program_id(2) * columns + tl.arange(0, columns)
    power = tl.load(p + d, mask=d < channels, other=1.0) if per_channel else tl.load(p)
    power = power.to(tl.float32) + tl.zeros([rows], tl.float32)
    inside = (d < channels)[:, None] & (i < positions)[None, :]
    at = b * channels + d
    log_out = tl.log2(tl.load(out + at, mask=d < channels, other=1.0))
    factor = tl.load(share + at, mask=d < channels, other=0.0)
    v = tl.load(x + b * item + d[:, None] * channel + i[None, :] * position, mask=inside, other=0.0)
    v = v.to(tl.float32)
    keep = inside & (v > eps)
    if masked:
        keep = keep & (tl.load(mask + b * positions + i, mask=i < positions, other=0) != 0)[None, :]
    logs = tl.log2(tl.where(v < eps, eps, v)) - log_out[:, None]
    result = tl.where(keep, tl.exp2((power - 1)[:, None] * logs) * factor[:, None], 0.0)
    tl.store(
        dx + b * dx_item + d[:, None] * dx_channel + i[None, :] * dx_position,
        result.to(dx.dtype.element_ty), mask=inside,
    )  # fmt: skip
