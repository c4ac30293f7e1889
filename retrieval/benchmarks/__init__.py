"""What descriptors are judged on: a file per family."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

from numpy.typing import ArrayLike, NDArray

from retrieval.data.images import Photo
from retrieval.data.snapshot import Snapshot


class Benchmark(Protocol):
    """Photos to find and to find them by, and what is right.

    landmarks: per query, what resampling goes by. relevant, ignored: indices into the gallery per query, for pictures
    of rankings and for re-ranking that may know the junk. convention: what else decides the values, in JSON's types.
    may_skip: whether photos that cannot be decoded may be left out. counts: what else a row says of the photos.
    """

    queries: list[Photo]
    gallery: list[Photo]
    landmarks: Sequence[str]
    relevant: Sequence[NDArray]
    ignored: Sequence[NDArray]
    skipped: int
    convention: dict[str, Any]
    may_skip: bool
    counts: Mapping[str, int]

    def settled(self, files: Snapshot) -> Self:
        """The same, once its photos were read: without those that cannot be decoded, and with duplicates seen to."""
        ...

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
