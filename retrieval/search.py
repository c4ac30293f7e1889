"""Nearest neighbours of descriptors (faiss)."""

import faiss
import numpy as np
from numpy.typing import NDArray


def exact(gallery: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> tuple[NDArray, NDArray]:
    """The k nearest gallery rows of each query by inner product: scores and indices, (Q, k), best first."""
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(np.ascontiguousarray(gallery))  # pyright: ignore[reportCallIssue]
    return index.search(np.ascontiguousarray(queries), min(k, len(gallery)))  # pyright: ignore[reportCallIssue]
