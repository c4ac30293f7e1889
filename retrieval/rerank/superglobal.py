"""SuperGlobal's re-ranking by global descriptors alone."""

from dataclasses import dataclass, replace

import numpy as np

from retrieval.descriptors import Indices, Rows
from retrieval.rerank.ranking import Ranking, between, labelled, nearest_first, one_of_junk, resorted, whole


@dataclass(frozen=True)
class SuperGlobal:
    """Shao et al., ICCV 2023, section 3.3; as in the authors' code (ShihaoShao-GH/SuperGlobal, modules/reranking).

    Each of the first M images becomes a mean of itself and its K nearest among the M (`refined`); the K + 1 images
    whose refined descriptors are nearest the query give one expanded query, their maximum in each dimension. An image's
    score is the mean of its refined descriptor's products with the query and with the expanded query. There M = 400,
    K = 9, beta = 0.15. M and K are clipped to what was retrieved; images beyond M follow in their former order.
    """

    M: int = 400
    K: int = 9
    beta: float = 0.15
    junk: str = "kept"

    def __post_init__(self) -> None:
        whole("superglobal.M", self.M, 1)
        whole("superglobal.K", self.K, 0)
        between("superglobal.beta", self.beta, 0)
        one_of_junk("superglobal", self.junk)

    @property
    def label(self) -> str:
        return labelled("superglobal", self.junk, M=self.M, K=self.K, beta=float(self.beta))

    @property
    def junk_known(self) -> bool:
        return self.junk == "removed"

    def __call__(self, ranking: Ranking) -> Ranking:
        order = []
        for query, shortlist in zip(ranking.queries, ranking.shortlists(self.M, self.junk), strict=True):
            rows = ranking.gallery.take(shortlist)
            order.append(resorted(shortlist, self._scores(query, rows)) if len(shortlist) else shortlist)
        return replace(ranking, order=order)

    def _scores(self, query: Rows, rows: Rows) -> Rows:
        near, weights = refinement(rows, self.K, self.beta)
        first = refined_products(rows @ query, near, weights)
        nearest = np.argsort(-first, kind="stable")[: self.K + 1]
        expanded = np.einsum("nk,nkd->nd", weights[nearest], rows[near[nearest]]).max(0)
        return (first + refined_products(rows @ expanded, near, weights)) / np.float32(2)


def refinement(rows: Rows, K: int, beta: float) -> tuple[Indices, Rows]:
    """Who makes up each refined descriptor, and their weights of sum 1: (S, K + 1) each.

    The image itself weighs 1 and its K nearest others beta s; the mean is not normalised (MDescAug.py).
    """
    products = rows @ rows.T
    near = nearest_first(products, K + 1)
    weights = beta * np.take_along_axis(products, near, 1)
    weights[:, 0] = 1
    return near, weights / weights.sum(1, keepdims=True)


def refined_products(products: Rows, near: Indices, weights: Rows) -> Rows:
    """Products (S,) of the refined descriptors with a vector, from those of the plain ones."""
    return (weights * products[near]).sum(1)
