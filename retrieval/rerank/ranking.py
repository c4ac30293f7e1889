"""What a re-ranking step takes and gives: queries, gallery, and who comes first.

Q queries, N gallery images, d dimensions; vectors are unit rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.descriptors import Descriptors, Indices, Rows
from retrieval.errors import InputError
from retrieval.search import Search, top

JUNK = ("kept", "removed")
SHARED = 8_192  # images whose mutual products are computed once for all queries: 256 MB


@dataclass(frozen=True)
class Ranking:
    """queries (Q, d) searched in the gallery.

    ignored: images per query that the benchmark leaves out; levels: the same at each level of the benchmark, which an
    approximate search goes by. order: images per query that a step has put first, best first; all others follow in the
    order of their scores.
    """

    queries: Rows
    gallery: Descriptors
    search: Search
    ignored: Sequence[Indices] | None = None
    order: Sequence[Indices] | None = None
    levels: Sequence[Sequence[Indices]] = ()

    def blocks(self) -> Iterator[Rows]:
        """Consecutive row blocks (c, N) of the score matrix; images that were put first score above all others."""
        done = 0
        for block in self.search.scores(self.queries, self.gallery, self.levels):
            if self.order is not None:
                for row, first in zip(block, self.order[done : done + len(block)], strict=True):
                    row[first] = row.max() + np.arange(len(first), 0, -1)
            done += len(block)
            yield block

    def shortlists(self, k: int, junk: str = "kept") -> list[Indices]:
        """The first k images of each query (fewer where fewer were retrieved), best first; k is clipped to N.

        junk: 'removed' leaves out the benchmark's ignored images, so that the next ones move up.
        """
        if junk == "removed" and self.ignored is None:
            raise InputError("junk=removed needs a benchmark that says which images are junk, and this one does not")
        lists: list[Indices] = []
        for block in self.blocks() if k else ():
            if junk == "removed" and self.ignored is not None:
                for row, ignored in zip(block, self.ignored[len(lists) :], strict=False):
                    row[np.asarray(ignored, dtype=np.int64)] = -np.inf
            values, found = (part.numpy() for part in top(torch.from_numpy(block), k))
            lists += [row[value > -np.inf] for value, row in zip(values, found, strict=True)]
        return lists


def related(ranking: Ranking, shortlists: Sequence[Indices]) -> Iterator[tuple[Rows, Rows]]:
    """Per query: its inner products with its shortlist (S,), and theirs with each other (S, S)."""
    everyone = np.unique(np.concatenate(shortlists))
    if len(everyone) > SHARED:
        for query, shortlist in zip(ranking.queries, shortlists, strict=True):
            rows = ranking.gallery.take(shortlist)
            yield rows @ query, rows @ rows.T
        return
    rows = ranking.gallery.take(everyone)
    mutual = rows @ rows.T
    for to_query, shortlist in zip(ranking.queries @ rows.T, shortlists, strict=True):
        places = np.searchsorted(everyone, shortlist)
        yield to_query[places], mutual[np.ix_(places, places)]


def resorted(shortlist: Indices, scores: NDArray) -> Indices:
    """The shortlist by descending scores (S,); of equals the one that stood before."""
    return shortlist[np.argsort(-scores, kind="stable")]


def nearest_first(products: NDArray, k: int) -> Indices:
    """Columns (S, min(k, S)) of the highest products (S, S) of each row, itself first, of equals the lower column."""
    products = products.copy()
    np.fill_diagonal(products, np.inf)
    return top(torch.from_numpy(products), k)[1].numpy()


def whole(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"rerank.{name} must be a whole number from {least}, got {value!r}")


def between(name: str, value: object, low: float, high: float = np.inf) -> None:
    """Refuse what is no number from `low` to `high`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        limit = f"a number from {low:g}" + (f" to {high:g}" if high < np.inf else "")
        raise InputError(f"rerank.{name} must be {limit}, got {value!r}")


def one_of_junk(name: str, value: object) -> None:
    """Refuse what is neither 'kept' nor 'removed'."""
    if value not in JUNK:
        raise InputError(f"rerank.{name}.junk must be 'kept' or 'removed', got {value!r}")


def labelled(name: str, junk: str, **parameters: object) -> str:
    """'alpha_qe k=50 alpha=3', and whether junk was taken out."""
    shown = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in parameters.items()]
    return " ".join([name, *shown, *(["junk=removed"] if junk == "removed" else [])])
