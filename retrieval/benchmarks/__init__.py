"""What descriptors are judged on: a file per family."""

from collections.abc import Sequence
from typing import Protocol

from numpy.typing import NDArray

from retrieval.data.images import Photo


class Benchmark(Protocol):
    """Photos to find and to find them by, and what is right.

    `relevant` and `ignored` are indices into the gallery per query, for pictures of rankings; `judge` takes scores
    (Q, N) and gives values in [0, 1] by name.
    """

    queries: list[Photo]
    gallery: list[Photo]
    relevant: Sequence[NDArray]
    ignored: Sequence[NDArray]
    skipped: int

    def judge(self, scores: NDArray) -> dict[str, float]: ...
