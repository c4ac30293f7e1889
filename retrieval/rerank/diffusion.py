"""Diffusion over the graph of nearest neighbours."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg

from retrieval.descriptors import Rows
from retrieval.rerank.ranking import Ranking, between, labelled, nearest_first, one_of_junk, related, resorted, whole

ITERATIONS, TOLERANCE = 20, 1e-6  # of conjugate gradients (the authors' code, ahmetius/diffusion-retrieval, run_test.m)
Vector = NDArray[np.float64]  # (S,)


@dataclass(frozen=True)
class Diffusion:
    """Iscen et al., CVPR 2017, "Efficient diffusion on region manifolds", with one region an image.

    Images are scored by the f that solves (I - alpha S) f = y: S is the symmetrically normalised `affinity` of mutual
    k nearest neighbours, y holds the similarities^gamma of the query's k_query nearest. There alpha = 0.99, gamma = 3,
    k = 50 and k_query = 10 for global descriptors. The graph is that of a query's shortlist (the paper's truncation,
    section 4.4; with a shortlist as long as the gallery it is the whole graph). Images that nothing reaches, and those
    beyond the shortlist, follow in their former order. k, k_query and shortlist are clipped to what was retrieved.
    """

    k: int = 50
    k_query: int = 10
    alpha: float = 0.99
    gamma: float = 3.0
    shortlist: int = 1000
    junk: str = "kept"

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("k_query", self.k_query), ("shortlist", self.shortlist)):
            whole(f"diffusion.{name}", value, 1)
        between("diffusion.alpha", self.alpha, 0, 0.9999)  # at 1 there is no solution
        between("diffusion.gamma", self.gamma, 0)
        one_of_junk("diffusion", self.junk)

    @property
    def label(self) -> str:
        numbers = {"alpha": float(self.alpha), "gamma": float(self.gamma), "shortlist": self.shortlist}
        return labelled("diffusion", self.junk, k=self.k, k_query=self.k_query, **numbers)

    @property
    def junk_known(self) -> bool:
        return self.junk == "removed"

    def __call__(self, ranking: Ranking) -> Ranking:
        lists = ranking.shortlists(self.shortlist, self.junk)
        members = [np.sort(shortlist) for shortlist in lists]
        order, graph, of = [], None, np.empty(0, np.int64)
        for shortlist, among, (to_query, mutual) in zip(lists, members, related(ranking, members), strict=True):
            if not len(shortlist):
                order.append(shortlist)
                continue
            if graph is None or not np.array_equal(among, of):  # a shortlist of the whole gallery has one graph for all
                graph, of = normalised(affinity(mutual, self.k, self.gamma)), among
            f = diffused(graph, sources(to_query, self.k_query, self.gamma), self.alpha)
            order.append(resorted(shortlist, f[np.searchsorted(among, shortlist)]))
        return replace(ranking, order=order)


def affinity(products: Rows, k: int, gamma: float) -> sparse.csr_array:
    """(S, S): max(s, 0)^gamma where two images are among each other's k nearest, themselves counted; 0 on the diagonal.

    As the authors' knngraph.m, where an image is the first of its own k neighbours.
    """
    near = nearest_first(products, k)
    rows = np.repeat(np.arange(len(near)), near.shape[1])
    weights = np.maximum(products[rows, near.ravel()], 0).astype(np.float64) ** gamma
    weights[near.ravel() == rows] = 0
    directed = sparse.csr_array((weights, (rows, near.ravel())), shape=products.shape)
    return sparse.csr_array(directed.minimum(directed.T))  # equal where mutual, 0 where not


def normalised(weights: sparse.csr_array) -> sparse.csr_array:
    """D^-1/2 W D^-1/2 with the row sums D; an image without neighbours keeps a row of zeros."""
    degrees = np.asarray(weights.sum(axis=1)).ravel()
    scale = np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0)
    return sparse.diags_array(scale) @ weights @ sparse.diags_array(scale)


def sources(to_query: Rows, k: int, gamma: float) -> Vector:
    """y (S,): max(s, 0)^gamma of the query's k nearest, 0 elsewhere (ymake.m)."""
    y = np.zeros(len(to_query))
    nearest = np.argsort(-to_query, kind="stable")[:k]
    y[nearest] = np.maximum(to_query[nearest], 0).astype(np.float64) ** gamma
    return y


def diffused(graph: sparse.csr_array, y: Vector, alpha: float) -> Vector:
    """f of (I - alpha S) f = y, by conjugate gradients (equation 8)."""
    return cg(sparse.eye_array(len(y), format="csr") - alpha * graph, y, rtol=TOLERANCE, maxiter=ITERATIONS)[0]
