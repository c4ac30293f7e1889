"""Approximate nearest neighbours, and clusters, by faiss."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval import faiss_index
from retrieval.descriptors import Descriptors, Indices, Rows
from retrieval.errors import InputError
from retrieval.search.alike import Alike
from retrieval.search.exhaustive import Exact, chunks
from retrieval.search.files import fingerprint, load, refuse_other, save

FAISS_VERSION: str = faiss.__version__
RECALL_QUERIES = 1000
GPU_NEIGHBOURS = 2048  # the most that faiss gives on a GPU
RECALLS = (1, 10, 100)
NONE: Indices = np.empty(0, dtype=np.int64)
Lists = Sequence[NDArray]  # images per query
NAMED = "search.factory"


class Faiss:
    """Approximate search by any index that faiss can make of a string: Flat, SQ8, HNSW32, IVF1024,PQ32, OPQ32,PQ32.

    An image beyond the `neighbours` nearest is not retrieved: it counts as never found. Images that the benchmark
    ignores are asked for beside these, so that every level has at least so many. nprobe: clusters of an inverted file
    that are looked into (16 if not given). index: a file that the index is opened from, when it was made of the same
    descriptors in the same way, and written to when absent. It is trained on rows drawn with `seed` and runs on every
    GPU where there is one, the index has a form for it and no more than 2,048 images are asked for; HNSW stays on the
    CPU, and keeps `neighbours` candidates (its efSearch).
    """

    def __init__(
        self,
        factory: str = "SQ8",
        neighbours: int = 1000,
        nprobe: int | None = None,
        index: str | None = None,
        seed: int = 0,
    ) -> None:
        self.factory, self.neighbours, self.seed = str(factory), neighbours, seed
        self.index = Path(index) if index else None
        inverted = "IVF" in self.factory
        if not isinstance(neighbours, int) or neighbours < 1:
            raise InputError(f"search.neighbours must be a whole number from 1, got {neighbours!r}")
        if nprobe is not None and not inverted:
            raise InputError(
                f"search.nprobe is the number of clusters looked into, and '{factory}' has none: leave it out, or "
                "name an inverted file such as IVF1024,PQ32"
            )
        if nprobe is not None and (not isinstance(nprobe, int) or nprobe < 1):
            raise InputError(f"search.nprobe must be a whole number from 1, got {nprobe!r}")
        self.nprobe = (nprobe or faiss_index.PROBED) if inverted else None
        self.held: tuple[Descriptors, Any, Any] | None = None

    @property
    def label(self) -> str:
        probed = f" nprobe={self.nprobe}" if self.nprobe else ""
        probed += f" seed={self.seed}" if self.seed else ""
        return f"{self.factory}{probed} neighbours={self.neighbours}"

    def check(self, dim: int, rows: int) -> None:
        """Refuse what cannot be made for so many rows of this dimension, before anything is described."""
        faiss_index.check(self.factory, dim, rows, NAMED)
        if self.index and self.index.exists():
            refuse_other(self.index, self._made_of(dim, rows))

    def scores(self, queries: Rows, gallery: Descriptors, ignored: Sequence[Lists] = ()) -> Iterator[Rows]:
        """Consecutive row blocks (c, N) of the score matrix, -inf where an image was not retrieved; equal descriptors
        that were have equal scores."""
        alike, more = Alike.of(gallery), longest(ignored)
        for part in chunks(len(queries), len(gallery)):
            values, found = self.nearest(queries[part], gallery, self.neighbours + more)
            if more:
                forget_beyond(self.neighbours, found, [level[part] for level in ignored])
            block = np.full((len(values), len(gallery)), -np.inf, dtype=np.float32)
            query, place = np.nonzero(found >= 0)
            block[query, found[query, place]] = values[query, place]
            yield alike.given_equal(block)

    def nearest(self, queries: Rows, gallery: Descriptors, k: int) -> tuple[Rows, Indices]:
        """Scores and indices (Q, min(k, N)), best first, then -inf and -1 where fewer were retrieved."""
        k = min(k, len(gallery))
        index, on_gpus = self._indexed(gallery)
        by = on_gpus if k <= GPU_NEIGHBOURS else index
        return faiss_index.nearest(by, queries, k)

    def recall(self, queries: Rows, gallery: Descriptors, ignored: Lists | None = None) -> dict[str, float]:
        """`recall` of this search, as it scores, against the exact one; of many queries for 1,000, evenly spread.

        ignored: images per query that are left out of both.
        """
        some = np.linspace(0, len(queries) - 1, min(len(queries), RECALL_QUERIES)).astype(int)
        lists = [NONE if ignored is None else np.asarray(ignored[q]) for q in some]
        more = longest([lists])
        found = self.nearest(queries[some], gallery, self.neighbours + more)[1]
        wanted = Exact().nearest(queries[some], gallery, max(RECALLS) + more)[1]
        return recall(*(without(rows, lists)[:, :k] for rows, k in ((found, self.neighbours), (wanted, max(RECALLS)))))

    def _indexed(self, gallery: Descriptors) -> tuple[Any, Any]:
        # The index of the last gallery is kept: a chain of re-ranking steps asks for the same one several times.
        if self.held is None or self.held[0] is not gallery:
            index = self._opened(gallery) if self.index else self._filled(gallery)
            self.held = gallery, index, _on_gpus(index)
        return self.held[1:]

    def _opened(self, gallery: Descriptors) -> Any:
        assert self.index is not None
        made_of = self._made_of(gallery.dim, len(gallery)) | {"descriptors": fingerprint(gallery)}
        if self.index.exists():
            return self._tuned(load(self.index, made_of))
        save(index := self._filled(gallery), self.index, made_of)
        return index

    def _filled(self, gallery: Descriptors) -> Any:
        return self._tuned(faiss_index.filled(self.factory, gallery, self.seed, NAMED))

    def _tuned(self, index: Any) -> Any:
        faiss_index.tune(index, self.nprobe or faiss_index.PROBED, self.neighbours)
        return index

    def _made_of(self, dim: int, rows: int) -> dict[str, Any]:
        return {"factory": self.factory, "seed": self.seed, "dim": dim, "rows": rows}


def _on_gpus(index: Any) -> Any:
    if not faiss.get_num_gpus():
        return index
    try:
        return faiss.index_cpu_to_all_gpus(index)
    except RuntimeError:  # an index that has no form for a GPU, such as HNSW
        return index


def recall(found: Indices, exact_found: Indices) -> dict[str, float]:
    """recall@1, @10, @100: the share of the exact k nearest (Q, k or more) that are among the first k found; -1 stands
    for no image in either."""
    shares = {}
    for k in RECALLS:
        wanted, got = exact_found[:, :k], found[:, :k]
        shares[f"recall@{k}"] = float((wanted[:, :, None] == got[:, None, :]).any(2)[wanted >= 0].mean())
    return shares


def longest(levels: Sequence[Lists]) -> int:
    """How many images are ignored at most, of one query at one level."""
    return max((len(images) for level in levels for images in level), default=0)


def forget_beyond(k: int, found: Indices, levels: Sequence[Lists]) -> None:
    """Make -1, in place, of what each query found (Q, K) after it had found k images that count, at every level."""
    for q, row in enumerate(found):
        counted = [np.flatnonzero(~np.isin(row, level[q])) for level in levels]
        row[max(places[k - 1] + 1 if len(places) >= k else len(row) for places in counted) :] = -1


def without(found: Indices, ignored: Lists) -> Indices:
    """The images found (Q, k) without those that are ignored; the next ones move up, and -1 follows."""
    kept = np.full_like(found, -1)
    for to, row, images in zip(kept, found, ignored, strict=True):
        left = row[~np.isin(row, images)]
        to[: len(left)] = left
    return kept


def kmeans(vectors: NDArray[np.float32], clusters: int, seed: int, iterations: int = 100) -> NDArray[np.float32]:
    """Centroids (K, D) of k-means over all of the vectors (N, D), of which there must be at least K."""
    every = {"min_points_per_centroid": 1, "max_points_per_centroid": len(vectors)}  # else 256 a cluster are drawn
    found = faiss.Kmeans(vectors.shape[1], clusters, niter=iterations, seed=seed, **every)
    found.train(np.ascontiguousarray(vectors))
    assert found.centroids is not None
    return found.centroids
