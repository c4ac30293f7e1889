"""k-reciprocal encoding."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from retrieval.descriptors import Indices, Rows
from retrieval.rerank.ranking import Ranking, between, labelled, nearest_first, one_of_junk, related, resorted, whole

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class KReciprocal:
    """Zhong et al., CVPR 2017, and the authors' code (zhunzhong07/person-re-ranking).

    Images are scored by (1 - lambda) Jaccard + lambda original distance to the query, Jaccard between sets of
    k-reciprocal neighbours; there k1 = 20, k2 = 6 and lambda = 0.3, which is `weight` here. The sets are taken among a
    query and its shortlist: no query sees another (the authors join all of them with the gallery). Images beyond the
    shortlist follow in their former order. k1, k2 and shortlist are clipped to what was retrieved.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3
    shortlist: int = 1000
    junk: str = "kept"

    def __post_init__(self) -> None:
        for name, value in (("k1", self.k1), ("k2", self.k2), ("shortlist", self.shortlist)):
            whole(f"k_reciprocal.{name}", value, 1)
        between("k_reciprocal.weight", self.weight, 0, 1)
        one_of_junk("k_reciprocal", self.junk)

    @property
    def label(self) -> str:
        numbers = {"weight": float(self.weight), "shortlist": self.shortlist}
        return labelled("k_reciprocal", self.junk, k1=self.k1, k2=self.k2, **numbers)

    @property
    def junk_known(self) -> bool:
        return self.junk == "removed"

    def __call__(self, ranking: Ranking) -> Ranking:
        lists = ranking.shortlists(self.shortlist, self.junk)
        order = []
        for shortlist, (to_query, mutual) in zip(lists, related(ranking, lists), strict=True):
            order.append(resorted(shortlist, -self._distances(joined(to_query, mutual))))
        return replace(ranking, order=order)

    def _distances(self, products: Matrix) -> Matrix:
        """To the query, which is row 0: (S,)."""
        distances = relative_distances(products)
        near = nearest_first(products, max(self.k1 + 1, self.k2))
        encoded = averaged(encoding(distances, near, self.k1), near, self.k2)
        return ((1 - self.weight) * jaccard(encoded) + self.weight * distances[0])[1:]


def joined(to_query: Rows, mutual: Rows) -> Matrix:
    """Products (1 + S, 1 + S) of a query, which comes first, and its shortlist."""
    products = np.ones((len(mutual) + 1, len(mutual) + 1), dtype=np.float64)
    products[0, 1:] = products[1:, 0] = to_query
    products[1:, 1:] = mutual
    return products


def relative_distances(products: Matrix) -> Matrix:
    """Squared distances of unit vectors, each row divided by its maximum."""
    squared = np.maximum(2 - 2 * products, 0)
    np.fill_diagonal(squared, 0)
    return squared / np.maximum(squared.max(1, keepdims=True), 1e-12)


def reciprocal(near: Indices, k: int) -> sparse.csr_array:
    """(S, S), 1 where two are among each other's k nearest and themselves: R(i, k) (equation 2)."""
    rows = np.repeat(np.arange(len(near)), min(k + 1, near.shape[1]))
    ones = np.ones(len(rows), dtype=np.float64)
    forward = sparse.csr_array((ones, (rows, near[:, : k + 1].ravel())), shape=(len(near), len(near)))
    return forward.multiply(forward.T).tocsr()


def expanded(near: Indices, k: int) -> sparse.csr_array:
    """(S, S), not 0 where j is in R*(i, k): R(i, k) and each R(c, k/2) of which it holds over 2/3 (equation 3)."""
    sets, halves = reciprocal(near, k), reciprocal(near, int(np.around(k / 2)))
    shared = sets.multiply(sets @ halves.T).tocoo()  # row i, column c in R(i, k): how much of R(c, k/2) R(i, k) holds
    sizes = np.asarray(halves.sum(axis=1)).ravel()
    taken = shared.data > 2 / 3 * sizes[shared.col]
    chosen = sparse.csr_array((np.ones(taken.sum()), (shared.row[taken], shared.col[taken])), shape=shared.shape)
    return (sets + chosen @ halves).tocsr()


def encoding(distances: Matrix, near: Indices, k: int) -> sparse.csr_array:
    """V (S, S): exp(-d) over R*(i, k), each row of sum 1 (equation 7)."""
    members = expanded(near, k).tocoo()
    weights = np.exp(-distances[members.row, members.col])
    totals = np.bincount(members.row, weights, minlength=len(distances))
    return sparse.csr_array((weights / totals[members.row], (members.row, members.col)), shape=members.shape)


def averaged(encoded: sparse.csr_array, near: Indices, k: int) -> sparse.csr_array:
    """Each row becomes the mean of the rows of its k nearest, itself the first (equation 11)."""
    near = near[:, :k]
    rows = np.repeat(np.arange(len(near)), near.shape[1])
    mean = sparse.csr_array((np.full(len(rows), 1 / near.shape[1]), (rows, near.ravel())), shape=encoded.shape)
    return mean @ encoded


def jaccard(encoded: sparse.csr_array) -> Matrix:
    """Distances (S,) of every row to row 0: 1 - sum min / sum max, where rows have the sum 1 (equation 10)."""
    columns = encoded[[0]].indices
    part = encoded[:, columns].toarray()
    overlap = np.minimum(part, part[0]).sum(1)
    return 1 - overlap / (2 - overlap)
