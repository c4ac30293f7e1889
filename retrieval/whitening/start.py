"""A whitening layer before it is trained: fitted to descriptors of training photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from retrieval.data.images import Photo
from retrieval.embedder import Embedder
from retrieval.extraction import Extract, device_of
from retrieval.heads import Whitening
from retrieval.together import describe_together
from retrieval.whitening.fit import Indices, checked_indices
from retrieval.whitening.methods import PCA, Learned


def initialise(
    embedder: Embedder,
    photos: Sequence[Photo],
    queries: ArrayLike,
    positives: ArrayLike,
    resolution: int,
    extract: Extract,
) -> None:
    """Fit the head, if it is a whitening that is not, as its `start` says: weight P, bias -P m, to be trained further.

    queries, positives: (Q,) indices of `photos` that show one landmark, of training photos. The photos of these pairs
    alone are described, at one scale, by what comes before the head.
    """
    head = embedder.head
    if not isinstance(head, Whitening) or head.fitted:
        return
    pairs = TrainingPairs.of(photos, queries, positives, resolution)
    size = head.out_features
    method = Learned(size) if head.start == "learned" else PCA(size, head.shrinkage)
    method.check(head.in_features, pairs)
    before = Embedder(embedder.backbone, embedder.pooling, nn.Identity()).train(embedder.training)
    rows = describe_together(before, pairs.photos, resolution, extract, str(device_of(extract.device)))
    found = method.fit(rows, pairs)
    head.copy_(found.weight.detach(), found.bias.detach())
    head.label = found.label


@dataclass
class TrainingPairs:
    """Pairs among photos that are trained on, and those of the photos that they name."""

    name: str
    photos: list[Photo]
    queries: Indices
    positives: Indices

    @classmethod
    def of(cls, photos: Sequence[Photo], queries: ArrayLike, positives: ArrayLike, resolution: int) -> Self:
        left, right = (
            checked_indices(name, side, len(photos)) for name, side in (("queries", queries), ("positives", positives))
        )
        used, rows = np.unique(np.concatenate([left, right]), return_inverse=True)
        name = f"{len(left)} pairs of {len(used)} training photos at {resolution} px"
        return cls(name, [photos[i] for i in used], rows[: len(left)], rows[len(left) :])
