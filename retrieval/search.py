"""Nearest neighbours and clusters (faiss)."""

import faiss
import numpy as np
from numpy.typing import NDArray


def exact(gallery: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> tuple[NDArray, NDArray]:
    """The k nearest gallery rows of each query by inner product: scores and indices, (Q, k), best first."""
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(np.ascontiguousarray(gallery))  # pyright: ignore[reportCallIssue]
    return index.search(np.ascontiguousarray(queries), min(k, len(gallery)))  # pyright: ignore[reportCallIssue]


def kmeans(vectors: NDArray[np.float32], clusters: int, seed: int, iterations: int = 100) -> NDArray[np.float32]:
    """Centroids (K, D) of k-means over all of the vectors (N, D), of which there must be at least K."""
    every = {"min_points_per_centroid": 1, "max_points_per_centroid": len(vectors)}  # else 256 a cluster are drawn
    found = faiss.Kmeans(vectors.shape[1], clusters, niter=iterations, seed=seed, **every)
    found.train(np.ascontiguousarray(vectors))
    assert found.centroids is not None
    return found.centroids
