"""One small function per formula: how the vectors of a map become one.

x (B, D, H, W), mask (B, H, W) bool or None, result (B, D); computed in at least float32.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval.errors import InputError
from retrieval.poolings.power_mean import PowerMean


def at_least_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 lose digits in sums and powers (1e-6 cubed is 0 in float16)."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def average(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Global average pooling: mean over the real positions (Babenko and Lempitsky, ICCV 2015, SPoC)."""
    x = without_padding(x, mask)
    return x.mean((-2, -1)) if mask is None else x.sum((-2, -1)) / mask.sum((-2, -1))[:, None]


def maximum(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Global max pooling over the real positions (Tolias et al., ICLR 2016, MAC)."""
    x = at_least_float32(x)
    return x.amax((-2, -1)) if mask is None else x.masked_fill(~mask[:, None], -torch.inf).amax((-2, -1))


def generalised_mean(x: Tensor, p: Tensor, eps: float = 1e-6, mask: Tensor | None = None) -> Tensor:
    """GeM: (mean max(x, eps)^p)^(1/p), p of shape (1,) or (D,) (Radenovic et al., TPAMI 2019, eq. 3)."""
    p = p.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    if torch.compiler.is_compiling():  # an export or a compiler sees the formula, and fuses it by itself
        return scaled_power_mean(x, p, eps, mask)
    return PowerMean.apply(x, p, eps, mask)


def scaled_power_mean(x: Tensor, p: Tensor, eps: float, mask: Tensor | None = None) -> Tensor:
    """The formula of GeM, each channel divided by its maximum first, which changes nothing but keeps x^p within range
    (1e4^20 overflows float32)."""
    x = at_least_float32(x).clamp(min=eps)
    top = maximum(x, mask).detach()
    powers = (x / top[..., None, None]) ** p[:, None, None]
    return top * average(powers, mask) ** (1 / p)


def shifted_mean(x: Tensor, p: Tensor, eps: float = 1e-6, mask: Tensor | None = None) -> Tensor:
    """GeM of x - min x, plus min x: p = 1 is the average and p -> inf the maximum whatever the signs."""
    low = -maximum(-x, mask)
    return generalised_mean(without_padding(x, mask) - low[..., None, None], p, eps, mask) + low


def softplus_mean(x: Tensor, p: Tensor, eps: float = 1e-6, mask: Tensor | None = None) -> Tensor:
    """GeM of ln(1 + e^x), which is positive: what lies far below 0 fades, what lies far above stays as it is."""
    return generalised_mean(F.softplus(without_padding(x, mask)), p, eps, mask)


def signed_mean(x: Tensor, p: Tensor, eps: float = 1e-6, mask: Tensor | None = None) -> Tensor:
    """(mean sign(x) |x|^p), its root taken with its sign: p = 1 is the average, p -> inf the value furthest from 0.

    r = x / max |x| keeps the power within range. The root m |m|^(1/p - 1) has no slope at m = 0, so |m| is
    sqrt(m^2 + eps^2) there.
    """
    x = without_padding(x, mask)
    p = p.to(x.dtype)
    top = x.abs().amax((-2, -1)).clamp(min=eps).detach()
    r = x / top[..., None, None]
    m = average(r * r.abs().clamp(min=eps) ** (p[:, None, None] - 1), mask)
    return top * m * (m * m + eps * eps) ** ((1 / p - 1) / 2)


def without_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """x in at least float32, 0 where the mask is False, whatever stands there."""
    x = at_least_float32(x)
    return x if mask is None else torch.where(mask[:, None], x, 0)


def local_average(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Mean of each kernel x kernel window: (B, D, (H - k) / s + 1, (W - k) / s + 1), rounded down."""
    return F.avg_pool2d(x, kernel, stride)


def local_maximum(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Maximum of each kernel x kernel window: (B, D, (H - k) / s + 1, (W - k) / s + 1), rounded down."""
    return F.max_pool2d(x, kernel, stride)


def windows(length: int | Tensor, size: int, positions: Tensor) -> Tensor:
    """Which positions (L,) each of `size` adaptive windows over `length` covers, bool (..., size, L).

    Window i goes from floor(i n / size) to ceil((i + 1) n / size), so that windows overlap where n is no multiple of
    their number (torch.nn.AdaptiveAvgPool2d). length: n, or one for each item, (B, 1, 1).
    """
    i = torch.arange(size, device=positions.device)[:, None]
    first, end = i * length // size, ((i + 1) * length + size - 1) // size
    return (positions >= first) & (positions < end)


def grid(x: Tensor, size: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows (1 or B, size, H) and columns (1 or B, size, W) of a size x size grid over the real rectangle, as bools."""
    rows, columns = (torch.arange(x.shape[i], device=x.device) for i in (-2, -1))
    if mask is None:
        return windows(x.shape[-2], size, rows)[None], windows(x.shape[-1], size, columns)[None]
    height, width = (mask.any(i).sum(1)[:, None, None] for i in (2, 1))
    return windows(height, size, rows), windows(width, size, columns)


def adaptive_average(x: Tensor, size: int, mask: Tensor | None = None) -> Tensor:
    """Adaptive average pooling to (B, D, size, size), by PyTorch's own or, where that knows no mask or exports at one
    size alone, as products with averaging matrices.

    A mask is that of a rectangle in the upper left; its grid is that of the item alone.
    """
    if mask is None and not torch.compiler.is_compiling():
        return F.adaptive_avg_pool2d(at_least_float32(x), size)
    x = without_padding(x, mask)
    rows, columns = (side.to(x.dtype) / side.sum(-1, keepdim=True) for side in grid(x, size, mask))
    with torch.autocast(x.device.type, enabled=False):
        return rows[:, None] @ x @ columns[:, None].mT


def adaptive_maximum(x: Tensor, size: int, mask: Tensor | None = None) -> Tensor:
    """Adaptive max pooling to (B, D, size, size), with the grid of `adaptive_average`."""
    x = at_least_float32(x)
    if mask is None and not torch.compiler.is_compiling():
        return F.adaptive_max_pool2d(x, size)
    rows, columns = grid(x, size, mask)
    x = torch.stack([x.masked_fill(~rows[:, None, i, :, None], -torch.inf).amax(-2) for i in range(size)], -2)
    return torch.stack([x.masked_fill(~columns[:, None, i, None], -torch.inf).amax(-1) for i in range(size)], -1)


def strided_convolution(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None = None, groups: int = 1) -> Tensor:
    """Stride-2 convolution that counts real positions alone; sides are halved, rounded up, as by mask[:, ::2, ::2].

    The sum over a window is scaled by (window size / number of real positions in it), as in partial convolutions
    (Liu et al., ECCV 2018, eq. 1), so that borders and padding do not dim the result. x (B, C, H, W),
    weight (C', C/groups, k, k), mask (B, H, W).
    """
    k = weight.shape[-1]
    pad = ((k - 1) // 2, k // 2) * 2
    real = x.new_ones(1, 1, *x.shape[-2:]) if mask is None else mask[:, None].to(x.dtype)
    count = F.conv2d(F.pad(real, pad), x.new_ones(1, 1, k, k), stride=2)
    total = F.conv2d(F.pad(without_padding(x, mask), pad), weight, stride=2, groups=groups)
    return total * (k * k / count.clamp(min=1)) + bias[:, None, None]


def log_sum_exp(x: Tensor, sharpness: float = 10.0, mask: Tensor | None = None) -> Tensor:
    """(1/r) log mean exp(r x), between the average (r -> 0) and the maximum (r -> inf) (Pinheiro and Collobert, CVPR
    2015, eq. 4)."""
    x = at_least_float32(x)
    x = x if mask is None else x.masked_fill(~mask[:, None], -torch.inf)
    top = x.amax((-2, -1)).detach()
    return top + average((sharpness * (x - top[..., None, None])).exp(), mask).log() / sharpness


def regions(height: int, width: int, levels: int = 3) -> list[tuple[int, int, int]]:
    """(top, left, side) of R-MAC's squares (Tolias et al., ICLR 2016, section 3.2).

    At level l their side is 2 min(H, W) / (l + 1), and l stand along the shorter side; along the longer as many more
    as bring the overlap of neighbours at the first level nearest to 0.4.
    """
    if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):
        raise InputError(
            "regions depend on the map's height and width: a regional pooling (rmac, regional_gem) exports at one "
            "fixed size of image, with the batch alone dynamic"
        )
    short, long = min(height, width), max(height, width)
    extra = min(range(1, 7), key=lambda n: abs(1 - (long - short) / n / short - 0.4)) if long > short else 0
    squares = []
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        rows, columns = (level + extra * (sides == long and long > short) for sides in (height, width))
        tops, lefts = places(height, side, rows), places(width, side, columns)
        squares += [(top, left, side) for top in tops for left in lefts]
    return squares


def places(length: int, side: int, count: int) -> list[int]:
    """Starts of `count` windows spread evenly over a length, first at its start, last at its end."""
    return [int(i * (length - side) / max(1, count - 1)) for i in range(count)]


def regional_maximum(x: Tensor, levels: int) -> Tensor:
    """R-MAC: the maxima over the map and its regions, each L2-normalised, summed (Tolias et al., ICLR 2016).

    Regions that stand in one band of rows share the maximum over those rows. A map whose channels are last in memory
    is read with its channels last: 20 times as fast as by its other shape.
    """
    last = x.stride(1) == 1
    rows, axis = (x.permute(0, 2, 3, 1), 1) if last else (x, 2)
    squares = regions(x.shape[2], x.shape[3], levels)
    bands = {band: rows.narrow(axis, *band).amax(axis) for band in {(top, side) for top, _, side in squares}}
    maxima = [bands[top, side].narrow(axis, left, side).amax(axis) for top, left, side in squares]
    return sum_of_directions([maximum(x), *maxima])


def regional_mean(x: Tensor, levels: int, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """The map and its regions, each pooled to (B, D) and L2-normalised, summed; regions of one size pool together."""
    squares = regions(x.shape[2], x.shape[3], levels)
    vectors = [pool(x)]
    for side in {side for *_, side in squares}:
        alike = [x[:, :, top : top + side, left : left + side] for top, left, own in squares if own == side]
        vectors += pool(torch.cat(alike)).unflatten(0, (len(alike), -1)).unbind()
    return sum_of_directions(vectors)


def sum_of_directions(vectors: Sequence[Tensor]) -> Tensor:
    """Sum of vectors (B, D), each brought to unit length."""
    return torch.stack([F.normalize(vector, dim=1) for vector in vectors]).sum(0)


def attention(tokens: Tensor, queries: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q . h / sqrt(d)) weighted sum of tokens (B, T, D) for each query (K, D): (B, K, D); masked tokens, mask
    (B, T), weigh exactly 0 (Vaswani et al., NeurIPS 2017, eq. 1)."""
    tokens = at_least_float32(tokens)
    tokens = tokens if mask is None else torch.where(mask[..., None], tokens, 0)
    with torch.autocast(tokens.device.type, enabled=False):
        scores = queries.to(tokens.dtype) @ tokens.mT / tokens.shape[-1] ** 0.5
        scores = scores if mask is None else scores.masked_fill(~mask[:, None], -torch.inf)
        return scores.softmax(-1) @ tokens


def gated(tokens: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """sum g_t h_t / sum g_t with g_t = sigmoid(w . h_t + b), tokens (B, T, D), weight (D,), bias (1,): (B, D)."""
    tokens = at_least_float32(tokens)
    tokens = tokens if mask is None else torch.where(mask[..., None], tokens, 0)
    with torch.autocast(tokens.device.type, enabled=False):
        gates = torch.sigmoid(tokens @ weight.to(tokens.dtype) + bias.to(tokens.dtype))
        gates = gates if mask is None else torch.where(mask, gates, 0)
        return (gates[:, None] @ tokens)[:, 0] / gates.sum(1, keepdim=True)


def last_token(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """The last real token of each item, wherever it stands: (B, D)."""
    tokens = at_least_float32(tokens)
    if mask is None:
        return tokens[:, -1]
    places = torch.arange(tokens.shape[1], device=tokens.device)
    last = torch.where(mask, places, -1).amax(1)
    return tokens.gather(1, last[:, None, None].expand(-1, 1, tokens.shape[2]))[:, 0]
