"""Descriptors (N, d), in memory or in files, read a block at a time: a million rows need not fit in memory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.float32]  # (n, d)
Indices = NDArray[np.int64]
BLOCK = 16_384  # rows


class Descriptors:
    """N rows of length d. `shards` hold them, as arrays or as `.npy` files that are mapped while they are read.

    places: row i is row `places[i]` of the shards laid end to end; without it, row i. The same place may stand for
    several rows. Rows are float32, whatever the shards hold.
    """

    def __init__(self, shards: Sequence[Rows | Path], places: ArrayLike | None = None) -> None:
        self.shards = list(shards)
        shapes = [opened(shard).shape for shard in self.shards]
        widths = {shape[1] for shape in shapes}
        if len(widths) != 1:
            raise ValueError(f"shards must have rows of one length, got {sorted(widths)}")
        self.dim: int = widths.pop()
        self.starts: Indices = np.cumsum([0, *(shape[0] for shape in shapes)])
        held = int(self.starts[-1])
        self.places: Indices = np.arange(held) if places is None else np.asarray(places, dtype=np.int64)
        if len(self.places) and not (self.places.min() >= 0 and self.places.max() < held):
            raise ValueError(f"places must be in 0 to {held - 1}, got {self.places.min()} to {self.places.max()}")
        self.function: Callable[[Rows], Rows] | None = None

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.dim

    def subset(self, rows: ArrayLike) -> "Descriptors":
        """These rows, in this order, still read from where they lie."""
        part = Descriptors(self.shards, self.places[np.asarray(rows, dtype=np.int64)])
        part.function, part.dim = self.function, self.dim
        return part

    def mapped(self, function: Callable[[Rows], Rows], dim: int) -> "Descriptors":
        """Every row passed through `function`, (n, d) -> (n, dim), when it is read."""
        whole, before = Descriptors(self.shards, self.places), self.function
        whole.function = function if before is None else lambda rows: function(before(rows))
        whole.dim = dim
        return whole

    def take(self, rows: ArrayLike) -> Rows:
        """Rows (n, d) by index, as a copy."""
        places = self.places[np.asarray(rows, dtype=np.int64)]
        shard_of = np.searchsorted(self.starts, places, side="right") - 1
        held = opened(self.shards[0]).shape[1]
        taken = np.empty((len(places), held), dtype=np.float32)
        for shard in np.unique(shard_of):
            mine = shard_of == shard
            taken[mine] = opened(self.shards[shard])[places[mine] - self.starts[shard]]
        return taken if self.function is None else self.function(taken)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[Indices, Rows]]:
        """Every row once, as (indices (n,), rows (n, d)), in the order in which they lie."""
        order = np.argsort(self.places, kind="stable")
        for start in range(0, len(order), size):
            yield order[start : start + size], self.take(order[start : start + size])

    def all(self) -> Rows:
        """All rows (N, d) in memory."""
        return self.take(np.arange(len(self)))


def joined(parts: Sequence[Descriptors]) -> Descriptors:
    """The rows of all parts, one part after the other; none may be mapped."""
    starts = np.cumsum([0, *(int(part.starts[-1]) for part in parts)])
    places = [part.places + start for part, start in zip(parts, starts, strict=False)]
    return Descriptors([shard for part in parts for shard in part.shards], np.concatenate(places))


def opened(shard: Rows | Path) -> Rows:
    """The rows of a shard, mapped where it is a file."""
    # Mapped anew each time: the pages of a mapping that is kept would count as memory of this process.
    return np.load(shard, mmap_mode="r") if isinstance(shard, Path) else shard
