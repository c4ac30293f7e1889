"""Exact nearest neighbours: every inner product, a block at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from retrieval.descriptors import BLOCK, Descriptors, Indices, Rows
from retrieval.extraction import device_of
from retrieval.search.alike import Alike

BUDGET = 1 << 29  # bytes of one block of scores


class Exact:
    """Every inner product, in float32 (no TF32), a block at a time, on the CPU or on one GPU."""

    label = "exact"

    def __init__(self, device: str = "auto") -> None:
        self.device = device_of(device)
        self.held: tuple[Descriptors, Alike] | None = None

    def check(self, dim: int, rows: int) -> None:
        """Any dimension and any number of rows will do."""

    def scores(self, queries: Rows, gallery: Descriptors, ignored: object = ()) -> Iterator[Rows]:
        """Consecutive row blocks (c, N) of the score matrix, each within BUDGET bytes (or one row); equal descriptors
        have equal scores."""
        if self.held is None or self.held[0] is not gallery:
            self.held = gallery, Alike.of(gallery)
        for part in chunks(len(queries), len(gallery)):
            block = np.empty((part.stop - part.start, len(gallery)), dtype=np.float32)
            for columns, product in self._products(queries[part], gallery):
                block[:, columns] = product.cpu().numpy()
            yield self.held[1].given_equal(block)

    def nearest(self, queries: Rows, gallery: Descriptors, k: int) -> tuple[Rows, Indices]:
        """Scores and indices (Q, min(k, N)) of the k nearest images, best first; the scores are never all in memory."""
        k = min(k, len(gallery))
        scores, found = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for part in chunks(len(queries), BLOCK + 4 * k):
            count = part.stop - part.start
            best = torch.empty((count, 0), device=self.device), torch.empty((count, 0), device=self.device).long()
            for columns, product in self._products(queries[part], gallery):
                values, at = top(product, k)
                best = _merged(*best, values, torch.from_numpy(columns).to(at.device)[at], k)
            scores[part], found[part] = best[0].clamp(max=1).cpu().numpy(), best[1].cpu().numpy()
        return scores, found

    def recall(self, queries: Rows, gallery: Descriptors, ignored: object = None) -> dict[str, float]:
        """Empty: nothing is lost."""
        return {}

    def _products(self, queries: Rows, gallery: Descriptors) -> Iterator[tuple[Indices, Tensor]]:
        asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)).to(self.device)
        for columns, rows in gallery.blocks():
            order = np.argsort(columns)  # within a block a lower position is a lower index
            with _full_precision():
                product = asked @ torch.from_numpy(rows[order]).to(self.device).T
            yield columns[order], product


def chunks(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows of `width` float32, each within BUDGET bytes (or one row)."""
    size = max(1, BUDGET // (4 * max(1, width)))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and positions (c, min(k, n)) of the highest of each row (c, n), best first; of equals the lower position.

    Which of several -inf are given is left open.
    """
    values, at = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    at = at[:, :k]
    if values.shape[1] > k:  # topk takes any of equals: they matter where they stand on both sides of the edge
        torn = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
        if torn.any():
            at[torn] = scores[torn].sort(dim=1, descending=True, stable=True).indices[:, :k]
    at = at.sort(dim=1).values
    values, order = scores.gather(1, at).sort(dim=1, descending=True, stable=True)
    return values, at.gather(1, order)


def _merged(values: Tensor, found: Tensor, new: Tensor, new_found: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found, by_index = torch.cat([found, new_found], 1).sort(dim=1)
    values, order = torch.cat([values, new], 1).gather(1, by_index).sort(dim=1, descending=True, stable=True)
    return values[:, :k], found.gather(1, order)[:, :k]


@contextmanager
def _full_precision() -> Iterator[None]:
    # Training may have allowed TF32 for this process: scores that differ in the fourth digit reorder images.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
