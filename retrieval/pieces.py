"""A batch of photos of several shapes -> descriptors, all at once or a few photos at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from retrieval.data import tensors
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.features import Features


def embedded(
    embedder: Embedder, pixels: Sequence[Tensor | Features], order: Tensor, pieces: int | None = None
) -> Tensor:
    """Descriptors (B, d) in the batch's order.

    pixels: (b, 3, H, W) uint8 tensors, each of one shape, or what the backbone gives for them; order (B,): the place in
    the batch of each of their photos in turn. With `pieces` at most that many photos pass the network at a time and
    only what they give is kept; the backward pass computes each piece once more, so that the memory is that of one
    piece and the gradient that of the whole batch.
    """
    if pieces is None:
        rows = [described(embedder, photos) for photos in pixels]
    else:
        rows = [
            checkpoint(described, embedder, photos, use_reentrant=False)
            for of_one_shape in pixels
            for photos in of_one_shape.split(pieces)
        ]
    together = torch.cat(rows)
    return torch.empty_like(together).index_copy(0, order, together)


def described(embedder: Embedder, pixels: Tensor | Features) -> Tensor:
    """(b, 3, H, W) uint8, or features -> (b, d); a piece keeps its bytes alone, a quarter of what the network takes."""
    if isinstance(pixels, Features):
        return embedder.describe(pixels)
    return embedder(tensors.normalised(pixels, embedder.backbone.mean, embedder.backbone.std))


def refuse_pieces(embedder: Embedder, pieces: int | None, checkpointing: bool = False) -> None:
    """Refuse a number of photos that is none, and BatchNorm that learns from batches: a piece has other statistics
    than its batch, and what is computed twice is counted twice."""
    if pieces is not None and (not isinstance(pieces, int) or isinstance(pieces, bool) or pieces < 1):
        raise InputError(f"pieces must be a number of photos, at least 1, or null for the whole batch; got {pieces!r}")
    if (pieces is not None or checkpointing) and learns_statistics(embedder):
        key = f"pieces={pieces}" if pieces is not None else "checkpointing=true"
        raise InputError(
            f"{key} needs BatchNorm that keeps its statistics: it would learn those of parts of a batch, or count a "
            f"batch twice; accepted: freeze_batchnorm=true, a backbone without BatchNorm ('{embedder.backbone.name}' "
            "has it), or neither pieces nor checkpointing"
        )


def learns_statistics(embedder: Embedder) -> bool:
    """Whether a BatchNorm changes its statistics in training."""
    frozen = set(embedder.backbone.modules()) if embedder.backbone.frozen_statistics else set()
    batchnorms = (m for m in embedder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(module not in frozen and module.track_running_stats for module in batchnorms)
