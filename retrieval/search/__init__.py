"""Nearest neighbours, exact and approximate, and clusters.

Q queries, N gallery images, d dimensions, all unit vectors; scores are inner products, of equal ones the image with
the lower index stands first. -inf and index -1 say that nothing was retrieved.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.descriptors import Descriptors, Indices, Rows
from retrieval.search.approximate import FAISS_VERSION, Faiss, Lists, kmeans, recall
from retrieval.search.exhaustive import Exact, top

__all__ = ["FAISS_VERSION", "Exact", "Faiss", "Search", "exact", "kmeans", "recall", "top"]


class Search(Protocol):
    """Scores queries (Q, d) against a gallery. `label` says in a result row how.

    ignored: images per query that a benchmark leaves out of its ranking, lists of them for each of its levels. They
    take no place among the images that an approximate search retrieves.
    """

    @property
    def label(self) -> str: ...
    def check(self, dim: int, rows: int) -> None: ...
    def scores(self, queries: Rows, gallery: Descriptors, ignored: Sequence[Lists] = ()) -> Iterator[Rows]: ...
    def nearest(self, queries: Rows, gallery: Descriptors, k: int) -> tuple[Rows, Indices]: ...
    def recall(self, queries: Rows, gallery: Descriptors, ignored: Lists | None = None) -> dict[str, float]: ...


def exact(gallery: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> tuple[NDArray, NDArray]:
    """The k nearest gallery rows of each query by inner product: scores and indices, (Q, k), best first."""
    return Exact("cpu").nearest(queries, Descriptors([gallery]), k)
