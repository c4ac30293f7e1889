"""What descriptors are judged on: a file per family."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import ArrayLike, NDArray

from retrieval.data.images import Photo


class Benchmark(Protocol):
    """Photos to find and to find them by, and what is right.

    landmarks: per query, what resampling goes by. relevant, ignored: indices into the gallery per query, for pictures
    of rankings and for re-ranking that may know the junk. convention: what else decides the values, in JSON's types.
    """

    queries: list[Photo]
    gallery: list[Photo]
    landmarks: Sequence[str]
    relevant: Sequence[NDArray]
    ignored: Sequence[NDArray]
    skipped: int
    convention: dict[str, Any]

    def per_query(self, blocks: Iterable[ArrayLike]) -> dict[str, NDArray]:
        """Arrays (Q,) by name, of curves (Q, points), from row blocks (c, N), in order, of the scores (Q, N), higher is
        nearer."""
        ...

    def values(self, per_query: Mapping[str, NDArray]) -> dict[str, float]:
        """What is published of them, in [0, 1] by name."""
        ...

    def judge(self, scores: NDArray) -> dict[str, float]:
        """The values for scores (Q, N)."""
        ...
