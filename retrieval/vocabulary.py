"""NetVLAD's centroids: k-means over local features of training photos."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from retrieval import extraction, search, stages
from retrieval.data.images import Photo
from retrieval.data.snapshot import Snapshot
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.heads import Whitening
from retrieval.poolings import NetVLAD

PHOTOS, EACH = 500, 100  # 50,000 local features (the authors' code, Relja/netvlad, getClusters.m)


def fit(embedder: Embedder, photos: Sequence[Photo], resolution: int, seed: int, extract: Extract) -> None:
    """Hand the pooling its centroids, if it takes some and has none yet."""
    pooling = embedder.pooling
    if not isinstance(pooling, NetVLAD) or pooling.fitted:
        return
    chosen = np.random.default_rng(seed).permutation(len(photos))[:PHOTOS]
    local = local_features(embedder, [photos[i] for i in sorted(chosen)], resolution, EACH, seed, extract)
    if len(local) < pooling.clusters:
        raise InputError(
            f"netvlad needs at least as many local features as clusters: {len(chosen)} training photos at "
            f"{resolution} px gave {len(local)} for pooling.clusters = {pooling.clusters}; accepted: more photos, a "
            "larger data.resolution or fewer clusters"
        )
    centroids = search.kmeans(local, pooling.clusters, seed)
    pooling.initialise(torch.from_numpy(centroids), torch.from_numpy(local))


@torch.no_grad()
def local_features(
    embedder: Embedder, photos: Sequence[Photo], resolution: int, count: int, seed: int, extract: Extract
) -> NDArray[np.float32]:
    """(N, D): the L2-normalised vectors of up to `count` positions of each photo's map, drawn at random.

    Described as `extraction.describe` does, in float32 at one scale; a map that is not finite raises NotFinite.
    """
    where = extraction.device_of(extract.device)
    files = Snapshot()
    batches = extraction.plan(embedder, photos, resolution, extract, None, files)
    loader = extraction.loaded(embedder, photos, batches, resolution, extract, None, files)
    rng, drawn = np.random.default_rng(seed), []
    training, home = embedder.training, next(embedder.parameters()).device
    embedder.eval().to(where)
    for indices, batch in zip(batches, stages.bar(iterable=loader, desc="local features"), strict=True):
        files.note([photos[i] for i in indices], batch.read)
        features = embedder.backbone(*extraction.on_device(batch, embedder.backbone, where))
        maps = normalize(features.patches.float(), dim=1).flatten(2).mT.cpu().numpy()
        extraction.finite(maps.reshape(len(indices), -1), [photos[i] for i in indices], "the backbone")
        real = np.ones(maps.shape[:2], bool) if features.mask is None else features.mask.flatten(1).cpu().numpy()
        drawn += [one[rng.permutation(np.flatnonzero(kept))[:count]] for one, kept in zip(maps, real, strict=True)]
    embedder.train(training).to(home)
    return np.concatenate(drawn)


def fitted(embedder: Embedder) -> bool:
    """Whether it has all that is found in training photos before training."""
    return getattr(embedder.pooling, "fitted", True) and getattr(embedder.head, "fitted", True)


def refuse_unfitted(embedder: Embedder) -> None:
    """Refuse to judge a pooling whose centroids are random, or a whitening: its number would mean nothing."""
    pooling = embedder.pooling
    if isinstance(embedder.head, Whitening) and not embedder.head.fitted:
        raise InputError(
            "head=whitening is not fitted yet, and random weights would give a number that means nothing; accepted: "
            "run=DIR of a run that train.py made (it fits it to training photos), or head.weights=FILE.safetensors of "
            f"shape (out_dim, {embedder.head.in_features}) for off-the-shelf weights"
        )
    if isinstance(pooling, NetVLAD) and not pooling.fitted:
        raise InputError(
            "netvlad has no centroids yet, and random ones would give a number that means nothing; accepted: "
            "run=DIR of a run that train.py made (it finds them by k-means over training photos), or "
            f"pooling.centroids=FILE.npy of shape {tuple(pooling.centroids.shape)} for off-the-shelf weights"
        )
