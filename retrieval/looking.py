"""Where a model looked: the share of each position of a map in the similarity of two photos.

The similarity is the dot product of two unit descriptors. Where a descriptor is homogeneous of degree one in the map x
(once lengths are constants), Euler's theorem gives sum_i x_i . d(similarity)/dx_i = similarity: gradient times input
leaves nothing out. What other poolings, biases and class tokens add belongs to no position: the shares sum to less or
more than the similarity, and the difference is theirs.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from retrieval import extraction
from retrieval.benchmarks import Benchmark
from retrieval.data.images import Photo
from retrieval.embedder import Embedder
from retrieval.extraction import Extract
from retrieval.features import Features
from retrieval.heads import Whitening
from retrieval.results import Row, shown
from retrieval.tops import Tops

FIRST = 3  # photos of a ranking that are looked at
DIGITS = 5
CONSTANT = {torch.linalg.vector_norm, torch.sigmoid, torch.Tensor.softmax}  # lengths, gates, weights of attention


class Shares(NamedTuple):
    """query (H, W) and photo (H', W'): what each position adds to the similarity."""

    query: Tensor
    photo: Tensor
    similarity: float


class Held(TorchFunctionMode):
    """Within it lengths, gates and the weights of attention are constants for autograd; every value stays the same.

    Else the gradient would vanish along the map (a unit vector does not change when all of it grows), and would count
    what a position takes from others by drawing attention.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.normalize:
            return _normalize(*args, **kwargs or {})
        result = func(*args, **kwargs or {})
        return result.detach() if func in CONSTANT else result


def _normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return x / torch.linalg.vector_norm(x.detach(), p, dim, keepdim=True).clamp(min=eps)


def shares(describe: Callable[[Features], Tensor], query: Features, photo: Features) -> Shares:
    """Of the similarity of two photos, (1, D, H, W) each; describe: Features -> (1, d) unit vectors.

    Each map has its shares with the other photo's descriptor held constant.
    """
    with torch.enable_grad(), Held():
        maps = [_leaf(features) for features in (query, photo)]
        asked, found = (describe(features)[0] for features in maps)
        of_query, of_photo = _share(asked @ found.detach(), maps[0]), _share(found @ asked.detach(), maps[1])
    return Shares(of_query, of_photo, float(asked.detach() @ found.detach()))


def _leaf(features: Features) -> Features:
    patches, prefix = (tensor.detach().clone().requires_grad_() for tensor in (features.patches, features.prefix))
    return Features(patches, prefix, features.mask)


def _share(similarity: Tensor, features: Features) -> Tensor:
    if not similarity.requires_grad:  # a pooling of one's own that cannot be differentiated: nothing is known of it
        return torch.zeros_like(features.patches[0, 0])
    both = [features.patches, features.prefix]  # with the prefix there is something to differentiate by, map or not
    gradient = torch.autograd.grad(similarity, both, allow_unused=True, materialize_grads=True)[0]
    return (gradient * features.patches.detach()).sum(1)[0]


def look(
    entries: Sequence[Row],
    model: Embedder,
    benchmark: Benchmark,
    tops: Tops,
    resolution: int,
    extract: Extract,
    whitening: Whitening | None = None,
) -> None:
    """Write `looked` into the first photos of each entry of `results.rankings`: the shares of the positions of both
    photos, as rows of numbers, and the similarity that they are shares of.

    In float32 and at scale 1 alone, whatever `extract` says; through the whitening where there is one.
    """
    described = partial(_described, model, whitening)
    asked = shown(benchmark)
    found = [[benchmark.gallery[i] for i in tops.images[q, :FIRST] if i >= 0] for q in asked]
    photos = [photo for q, of_query in zip(asked, found, strict=True) for photo in (benchmark.queries[q], *of_query)]
    with closing(_features(model, photos, resolution, extract)) as seen:
        for entry, of_query in zip(entries, found, strict=True):
            query = next(seen)
            for item in entry["top"][: len(of_query)]:
                item["looked"] = _written(shares(described, query, next(seen)))


def _described(model: Embedder, whitening: Whitening | None, features: Features) -> Tensor:
    rows = model.describe(features)
    return whitening(rows.to(whitening.weight.device)) if whitening else rows


@torch.no_grad()
def _features(
    model: Embedder, photos: Sequence[Photo], resolution: int, extract: Extract
) -> Generator[Features, None, None]:
    """The map of each photo, in turn; until it is closed, the model is in evaluation mode and on its device."""
    device, alone = extraction.device_of(extract.device), [[i] for i in range(len(photos))]
    training, home = model.training, next(model.parameters()).device
    model.eval().to(device)
    try:
        for batch in extraction.loaded(model, photos, alone, resolution, replace(extract, workers=0)):
            yield model.backbone(extraction.on_device(batch, model.backbone, device)[0])
    finally:
        model.train(training).to(home)


def _written(looked: Shares) -> Row:
    maps = {"query": looked.query, "photo": looked.photo}
    rows = {name: values.double().cpu().numpy().round(DIGITS).tolist() for name, values in maps.items()}
    return {**rows, "similarity": round(looked.similarity, DIGITS)}
