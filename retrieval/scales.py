"""One descriptor of a photo described at several scales.

S scales, B photos, d the descriptor's length; vectors (S, B, d) as `Embedder.project` gives them, before their L2.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.backbones import TimmBackbone
from retrieval.data import images, tensors
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.features import Features
from retrieval.poolings import GeM


def multi_scale(
    embedders: Sequence[Embedder],
    batch: Tensor,
    scales: Sequence[float],
    aggregate: str = "paper",
    sizes: Tensor | None = None,
) -> list[Tensor]:
    """(B, d) unit vectors of each embedder; the embedders share a backbone and so its map of each scale.

    batch (B, 3, H, W), normalised. sizes (B, 2): height and width of each photo in it, where it is padded; None where
    it is not. At one scale every aggregate is that scale's unit vector.
    """
    return aggregated(embedders, at_scales(embedders[0].backbone, batch, scales, sizes), aggregate)


def at_scales(
    backbone: TimmBackbone, batch: Tensor, scales: Sequence[float], sizes: Tensor | None = None
) -> Iterator[Features]:
    """The features of a batch at each scale, computed when they are asked for; see `multi_scale`."""
    for scale in scales:
        yield backbone(*rescaled(batch, scale, backbone.multiple, sizes))


def aggregated(embedders: Sequence[Embedder], features: Iterable[Features], aggregate: str = "paper") -> list[Tensor]:
    """(B, d) unit vectors of each embedder, from the features at each scale."""
    join = aggregation(aggregate)
    at_scales = [[embedder.project(one) for embedder in embedders] for one in features]
    if len(at_scales) == 1:
        return [F.normalize(vectors, dim=-1) for vectors in at_scales[0]]
    each = zip(embedders, zip(*at_scales, strict=True), strict=True)
    return [join(torch.stack(vectors), embedder) for embedder, vectors in each]


def paper(vectors: Tensor, embedder: Embedder) -> Tensor:
    """The `power_mean` of m, the learned p of a plain GeM network, else 1, and then this is `cvnet`."""
    return power_mean(vectors, exponent(embedder))


def power_mean(vectors: Tensor, m: float) -> Tensor:
    """(mean_s v_s^m)^(1/m) of unit v_s, then L2 (Radenovic et al., TPAMI 2019, section 4.3)."""
    unit = F.normalize(vectors, dim=-1)
    return F.normalize(unit.mean(0) if m == 1 else unit.clamp(min=0).pow(m).mean(0).pow(1 / m), dim=-1)


def cvnet(vectors: Tensor, embedder: Embedder) -> Tensor:
    """Mean of the unit vectors, then L2 (Cao et al., ECCV 2020, DELG; Lee et al., CVPR 2022, CVNet)."""
    return F.normalize(F.normalize(vectors, dim=-1).mean(0), dim=-1)


def mean(vectors: Tensor, embedder: Embedder) -> Tensor:
    """Mean of the head's outputs as they are, then L2: a scale counts by its length. Without a head these have length
    1, and this is `cvnet`."""
    return F.normalize(vectors.mean(0), dim=-1)


def maximum(vectors: Tensor, embedder: Embedder) -> Tensor:
    """Largest value of each dimension among the unit vectors, then L2 (Shao et al., ICCV 2023, SuperGlobal: Scale-GeM
    with p at infinity)."""
    return F.normalize(F.normalize(vectors, dim=-1).amax(0), dim=-1)


AGGREGATES: dict[str, Callable[[Tensor, Embedder], Tensor]] = {
    "paper": paper,
    "cvnet": cvnet,
    "mean": mean,
    "max": maximum,
}


def aggregation(name: str) -> Callable[[Tensor, Embedder], Tensor]:
    """The function of a name; another name is refused."""
    if name not in AGGREGATES:
        raise InputError(f"extract.aggregate must be one of {', '.join(AGGREGATES)}, got {name!r}")
    return AGGREGATES[name]


def exponent(embedder: Embedder) -> float:
    """p of a plain GeM network with one p, which gives no negative values, else 1: a projected descriptor has some."""
    pooling, plain = embedder.pooling, isinstance(embedder.head, nn.Identity)
    if type(pooling) is GeM and plain and pooling.p.numel() == 1 and pooling.negative in ("clamp", "softplus"):
        return pooling.p.item()
    return 1.0


def rescaled(batch: Tensor, scale: float, multiple: int, sizes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The photos resized bilinearly by a factor, and their sizes; each photo of a padded batch alone, then padded
    again, so that it is what it would be without the others."""
    if scale == 1:
        return batch, sizes
    if sizes is None:
        return resized(batch, scale, multiple), None
    real = zip(batch.unbind(), sizes.tolist(), strict=True)
    photos, small = tensors.padded([resized(photo[None, :, :h, :w], scale, multiple)[0] for photo, (h, w) in real])
    return photos, None if small is None else small.to(batch.device)


def resized(batch: Tensor, scale: float, multiple: int) -> Tensor:
    """(B, 3, H, W) resized bilinearly, align_corners=False; sides rounded down, or to the nearest multiple where that
    is above 1, or a side would have no pixel left: each keeps one at least."""
    if multiple == 1 and min(batch.shape[-2:]) * scale >= 1:
        return F.interpolate(batch, scale_factor=scale, mode="bilinear", align_corners=False)
    height, width = (images.nearest(round(side * scale), multiple) for side in batch.shape[-2:])
    return F.interpolate(batch, size=(height, width), mode="bilinear", align_corners=False)
