"""The photos that each query finds first, noted while its scores pass by.

Q queries, N gallery photos; of photos with equal scores the one with the lower index stands first.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.benchmarks import Benchmark
from retrieval.data.images import Photo
from retrieval.descriptors import Indices, Rows

TOP = 10
ROUNDING = 1e-4  # above 1, where a score is an inner product of unit rows; a re-ranking step's places are higher
RIGHT, WRONG, JUNK = MARKS = ("right", "wrong", "junk")  # a mark's place is its number on disk
PARTS = 1024


@dataclass(frozen=True)
class Tops:
    """images (Q, TOP): places in the gallery, best first, -1 where fewer were retrieved; scores (Q, TOP), NaN there."""

    images: Indices
    scores: Rows

    @classmethod
    def of(cls, benchmark: Benchmark) -> "Tops":
        """Of a benchmark whose scores are still to come."""
        shape = len(benchmark.queries), TOP
        return cls(np.full(shape, -1), np.full(shape, np.nan, dtype=np.float32))

    def watching(self, blocks: Iterable[Rows], benchmark: Benchmark) -> Iterator[Rows]:
        """The blocks (c, N) of the scores (Q, N) as they come; what stands first in them is noted."""
        rows = iter(range(len(self.images)))
        for block in blocks:
            for scores, q in zip(block, rows, strict=False):
                found = first(scores, benchmark.queries[q], benchmark.gallery)
                own = scores[found]
                self.images[q, : len(found)] = found
                self.scores[q, : len(found)] = np.where(own <= 1 + ROUNDING, np.minimum(own, 1), own)
            yield block


def first(scores: NDArray, query: Photo, gallery: list[Photo]) -> Indices:
    """The TOP photos with the highest scores (N,), best first; without the query itself and what was not retrieved."""
    found = highest(scores, TOP + 1)
    return np.array([i for i in found if scores[i] > -np.inf and gallery[i] != query][:TOP], dtype=np.int64)


def highest(scores: NDArray, k: int) -> Indices:
    """Places (min(k, N),) of the k highest scores (N,), best first.

    k parts of the scores have a maximum that is at least the k-th highest of these maxima, so the k highest scores
    are no lower either, and few others are as high: two passes over a million scores in place of a partition of them.
    """
    width = max(1, len(scores) // PARTS)
    maxima = scores[: len(scores) // width * width].reshape(-1, width).max(1)
    bound = np.partition(maxima, -k)[-k] if len(maxima) > k else -np.inf
    found = np.flatnonzero(scores >= bound)
    return found[np.argsort(-scores[found], kind="stable")][:k]


def marks(tops: Tops, benchmark: Benchmark) -> NDArray[np.int8]:
    """How each photo of `tops` counts for its query, (Q, TOP): its mark's number, -1 where there is no photo."""
    numbers = np.full(tops.images.shape, MARKS.index(WRONG), dtype=np.int8)
    for row, images, relevant, ignored in zip(numbers, tops.images, benchmark.relevant, benchmark.ignored, strict=True):
        row[np.isin(images, ignored)] = MARKS.index(JUNK)
        row[np.isin(images, relevant)] = MARKS.index(RIGHT)
        row[images < 0] = -1
    return numbers


def arrays(tops: Tops, benchmark: Benchmark) -> dict[str, NDArray]:
    """What is kept of every query, for pictures: its photo, and the photos found first, by their paths.

    `top` (Q, TOP) int32 are places in `top_photos` (U,), -1 where fewer were retrieved; `top_scores` (Q, TOP) float32;
    `top_marks` (Q, TOP) int8, see `marks`; `query_paths` (Q,); `query_boxes` (Q, 4), NaN where the whole photo asks.
    """
    there = tops.images >= 0
    occurring, places = np.unique(tops.images[there], return_inverse=True)
    top = np.full(tops.images.shape, -1, dtype=np.int32)
    top[there] = places
    return {
        "top": top,
        "top_photos": np.array([photo_path(benchmark.gallery[i]) for i in occurring], dtype=np.str_),
        "top_scores": tops.scores,
        "top_marks": marks(tops, benchmark),
        "query_paths": np.array([photo_path(query) for query in benchmark.queries]),
        "query_boxes": np.array([query.box or (np.nan,) * 4 for query in benchmark.queries]),
    }


def photo_path(photo: Photo) -> str:
    """Absolute path, links left as they are: to resolve them asks the disk about every folder of every photo."""
    return os.path.abspath(photo.path)
