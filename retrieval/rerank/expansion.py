"""Descriptors mixed with those of their neighbours: of the queries, or of the gallery."""

from dataclasses import dataclass, replace

import numpy as np

from retrieval.descriptors import Descriptors, Indices, Rows
from retrieval.rerank.ranking import Ranking, between, labelled, one_of_junk, whole

CHUNK = 4_096  # gallery rows augmented at a time


@dataclass(frozen=True)
class AlphaQE:
    """Alpha query expansion (Radenovic et al., TPAMI 2019, section 4.4; there k = 50, alpha = 3).

    A query becomes the normalised q + sum of s_i^alpha x_i over its k nearest images, s_i = max(q . x_i, 0), and is
    searched anew: an order made by an earlier step says who its k are, and ends there. alpha = 0 is average query
    expansion (Chum et al., ICCV 2007). k is clipped to the gallery; k = 0 changes nothing.
    """

    k: int = 50
    alpha: float = 3.0
    junk: str = "kept"

    def __post_init__(self) -> None:
        whole("alpha_qe.k", self.k, 0)
        between("alpha_qe.alpha", self.alpha, 0)
        one_of_junk("alpha_qe", self.junk)

    @property
    def label(self) -> str:
        return labelled("alpha_qe", self.junk, k=self.k, alpha=float(self.alpha))

    @property
    def junk_known(self) -> bool:
        return self.junk == "removed"

    def __call__(self, ranking: Ranking) -> Ranking:
        if not self.k:
            return ranking
        expanded = []
        for query, shortlist in zip(ranking.queries, ranking.shortlists(self.k, self.junk), strict=True):
            rows = ranking.gallery.take(shortlist)
            expanded.append(query + similarity_weights(rows @ query, self.alpha) @ rows)
        return replace(ranking, queries=unit(np.stack(expanded)), order=None)


@dataclass(frozen=True)
class DatabaseAugmentation:
    """Database-side augmentation (Turcot and Lowe, ICCV workshops 2009; Arandjelovic and Zisserman, CVPR 2012).

    Every gallery descriptor becomes the normalised sum of itself and its k nearest others, which `search` finds. By
    default the neighbour of rank r weighs (k - r) / k and k = 20 (Gordo et al., IJCV 2017); with alpha it weighs
    s^alpha, as in `AlphaQE`. The queries stay as they are. k is clipped to the gallery; k = 0 changes nothing.
    The new gallery is held in memory: 4 N d bytes. No query is seen, so neither is its junk.
    """

    k: int = 20
    alpha: float | None = None
    junk_known = False

    def __post_init__(self) -> None:
        whole("database_augmentation.k", self.k, 0)
        if self.alpha is not None:
            between("database_augmentation.alpha", self.alpha, 0)

    @property
    def label(self) -> str:
        given = {} if self.alpha is None else {"alpha": float(self.alpha)}
        return labelled("database_augmentation", "kept", k=self.k, **given)

    def __call__(self, ranking: Ranking) -> Ranking:
        if not self.k:
            return ranking
        gallery = ranking.gallery
        augmented = np.empty(gallery.shape, dtype=np.float32)
        for indices, rows in gallery.blocks(CHUNK):
            found = others(ranking.search.nearest(rows, gallery, self.k + 1)[1], indices)
            total = rows.copy()
            for rank in range(
                found.shape[1]
            ):  # a rank at a time: all k neighbours of a chunk would be k times as large
                near = gallery.take(np.maximum(found[:, rank], 0))
                total += np.where(found[:, rank] < 0, 0, self._weights(rows, near, rank + 1))[:, None] * near
            augmented[indices] = unit(total)
        return replace(ranking, gallery=Descriptors([augmented]), order=None)

    def _weights(self, rows: Rows, near: Rows, rank: int) -> Rows:
        if self.alpha is None:
            return np.full(len(rows), rank_weight(rank, self.k), dtype=np.float32)
        return similarity_weights(np.einsum("nd,nd->n", rows, near), self.alpha)


def similarity_weights(similarities: Rows, alpha: float) -> Rows:
    """max(s, 0)^alpha; 1 for all at alpha = 0."""
    return np.maximum(similarities, 0) ** np.float32(alpha)


def rank_weight(rank: int, k: int) -> float:
    """(k - r) / k for the neighbour of rank r = 1, 2, ..., k (Gordo et al., IJCV 2017)."""
    return (k - rank) / k


def others(found: Indices, self_index: Indices) -> Indices:
    """Neighbours (n, k) out of the first k + 1 found, without the image itself; where it was not found, the first k."""
    is_self = found == self_index[:, None]
    is_self[~is_self.any(1), -1] = True
    return found[~is_self].reshape(len(found), found.shape[1] - 1)


def unit(rows: Rows) -> Rows:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
