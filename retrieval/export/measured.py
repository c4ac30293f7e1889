"""What a file gives on photos: the values of benchmarks, and the time that a photo takes."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval import stages
from retrieval.benchmarks import Benchmark
from retrieval.data import images
from retrieval.data.images import Photo
from retrieval.descriptors import Descriptors, Rows
from retrieval.evaluation import judged
from retrieval.method import Method
from retrieval.results import certainty
from retrieval.spec import Spec

Pixels = NDArray[np.uint8]  # (B, 3, H, W)
Describe = Callable[[Pixels], Rows]  # (B, d) unit rows
BATCH = 4  # photos
TIMED = 15  # photos one after the other


def values(describe: Describe, spec: Spec, benchmarks: Mapping[str, Benchmark], title: str) -> list[dict[str, Any]]:
    """What each benchmark says of the descriptors, by exact search: its name, `metrics` and their `intervals`."""
    photos = list(dict.fromkeys(p for one in benchmarks.values() for p in (*one.gallery, *one.queries)))
    vectors = Descriptors([rows(describe, spec, photos, title)]) if photos else None
    place, found = {photo: i for i, photo in enumerate(photos)}, []
    for name, benchmark in benchmarks.items():
        assert vectors is not None
        queries, gallery = ([place[photo] for photo in side] for side in (benchmark.queries, benchmark.gallery))
        per_query, _ = judged(benchmark, vectors.take(queries), vectors.subset(gallery), Method())
        metrics = benchmark.values(per_query)
        known = certainty(metrics, per_query, benchmark.landmarks)
        found.append({"benchmark": name, "metrics": metrics, "intervals": known["intervals"]})
    return found


def rows(describe: Describe, spec: Spec, photos: Sequence[Photo], title: str) -> Rows:
    """Descriptors (N, d) of photos at the file's resolution, in their order; photos of one shape share a batch."""
    sizes = sizes_of(spec, photos)
    batches = images.by_shape(sizes, spec.batch or BATCH)
    each = np.empty((len(photos), spec.dim), dtype=np.float32)
    with ThreadPoolExecutor() as pool, stages.bar(total=len(photos), desc=title) as bar:
        for batch in batches:
            pixels = list(pool.map(lambda i: decoded(photos[i], sizes[i]), batch))
            each[batch] = describe(np.stack(pixels))
            bar.update(len(batch))
    return each


def sizes_of(spec: Spec, photos: Sequence[Photo]) -> list[images.Size]:
    """Width and height at which each photo is described."""
    if spec.size is not None:
        return [(spec.size[1], spec.size[0])] * len(photos)
    return images.target_sizes(photos, spec.resolution, spec.multiple)


def decoded(photo: Photo, size: images.Size) -> Pixels:
    """(3, H, W) of a photo."""
    return np.asarray(images.resized(images.decode(photo, target=size), size)).transpose(2, 0, 1)


def seconds(describe: Describe, spec: Spec) -> float:
    """Median time of one photo of 4:3 at the file's resolution, decoded already."""
    height, width = spec.size or (images.nearest(spec.resolution * 3 // 4, spec.multiple), spec.resolution)
    width = width if spec.size else images.nearest(width, spec.multiple)
    photo = np.random.default_rng(0).integers(256, size=(spec.batch or 1, 3, height, width), dtype=np.uint8)
    took = []
    for _ in range(TIMED + 2):  # the first ones allocate
        start = time.perf_counter()
        describe(photo)
        took.append((time.perf_counter() - start) / len(photo))
    return statistics.median(took[2:])
