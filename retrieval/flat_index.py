"""The Flat index of `retrieval.index` without faiss: every inner product, in NumPy, and faiss's own file of it.

The functions are those of `retrieval.faiss_index`, for the one kind of index that needs no faiss.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from retrieval import extras
from retrieval.descriptors import BLOCK, Descriptors, Indices, Rows
from retrieval.errors import InputError

PROBED = 16  # as of retrieval.faiss_index; nothing is probed here
FACTORY, KIND, INNER_PRODUCT = "Flat", b"IxFI", 0
# kind, dimensions, rows, two numbers of no use, is it trained, metric, how many float32 follow
HEADER = struct.Struct("<4siqqqBiQ")
UNUSED = 1 << 20
NEEDS_FAISS = f"any other index needs faiss: {extras.command('search')}"


class FlatIndex:
    """Rows (ntotal, d) in memory; `add` and `search` are those of a faiss index."""

    is_trained = True

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    @property
    def d(self) -> int:
        return self.rows.shape[1]

    @property
    def ntotal(self) -> int:
        return len(self.rows)

    def add(self, rows: Rows) -> None:
        self.rows = np.concatenate([self.rows, rows])

    def search(self, queries: Rows, k: int) -> tuple[Rows, Indices]:
        """Scores and positions (Q, k), best first, of equals the lower position; -inf and -1 beyond the last row.

        Products are summed in float64, so that copies of a row have one score wherever they lie.
        """
        scores = np.full((len(queries), k), -np.inf, np.float32)
        found = np.full((len(queries), k), -1, np.int64)
        asked = queries.astype(np.float64)
        for start in range(0, self.ntotal, BLOCK):
            block = self.rows[start : start + BLOCK].astype(np.float64)
            at = np.arange(start, start + len(block))
            for part in range(0, len(asked), 256):
                few = slice(part, part + 256)
                products = (asked[few] @ block.T).astype(np.float32)
                places = np.broadcast_to(at, products.shape)
                scores[few], found[few] = _best(np.hstack([scores[few], products]), np.hstack([found[few], places]), k)
        return scores, found


def _best(scores: Rows, found: Indices, k: int) -> tuple[Rows, Indices]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # of equals the earlier column
    return np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)


def check(factory: str, dim: int, rows: int, named: str) -> None:
    """Refuse every index but Flat; `named`: the setting that the string is of."""
    if factory != FACTORY:
        raise InputError(f"{named} '{factory}' is not accepted here: accepted is {FACTORY}; {NEEDS_FAISS}")


def filled(factory: str, gallery: Descriptors, seed: int, named: str) -> FlatIndex:
    """An index of all rows."""
    check(factory, gallery.dim, len(gallery), named)
    return FlatIndex(gallery.all())


def add(index: FlatIndex, gallery: Descriptors) -> None:
    """All rows, after those that the index holds."""
    index.add(gallery.all())


def removable(index: FlatIndex) -> bool:
    """Always: rows lie one after another."""
    return True


def remove(index: FlatIndex, positions: Indices) -> None:
    """Remove rows; the others are numbered from 0 again, in their order."""
    index.rows = np.delete(index.rows, positions, axis=0)


def tune(index: FlatIndex, nprobe: int, candidates: int) -> None:
    """Nothing: every search is exact."""


def nearest(index: FlatIndex, queries: Rows, k: int) -> tuple[Rows, Indices]:
    """As `FlatIndex.search`."""
    return index.search(queries, k)


def write(index: FlatIndex, path: Path) -> None:
    """The file that faiss writes of the same rows, byte for byte."""
    header = (KIND, index.d, index.ntotal, UNUSED, UNUSED, True, INNER_PRODUCT, index.rows.size)
    with path.open("wb") as file:
        file.write(HEADER.pack(*header))
        index.rows.astype("<f4", copy=False).tofile(file)


def read(path: Path, named: str) -> FlatIndex:
    """The index in a file of faiss, whoever wrote it; no more is allocated than the file is long.

    Raises InputError, which begins with `named`, for another kind of index, and for what is cut off or damaged.
    """
    try:
        with path.open("rb") as file:
            return FlatIndex(_rows(file, path, named))
    except OSError as error:
        raise InputError(f"{named} {path} cannot be read as an index of faiss: {error.strerror}") from error


def _rows(file: BinaryIO, path: Path, named: str) -> Rows:
    head = file.read(HEADER.size)
    if head[:4] != KIND:
        raise InputError(f"{named} {path} is no {FACTORY} index of inner products; {NEEDS_FAISS}")
    held = path.stat().st_size - HEADER.size
    _, dim, count, _, _, trained, metric, size = HEADER.unpack(head) if held >= 0 else (0,) * 8
    if (trained, metric) != (1, INNER_PRODUCT) or dim < 1 or count < 0 or size != dim * count or held != 4 * size:
        raise InputError(f"{named} {path} cannot be read as an index of faiss: it is cut off or damaged")
    return np.fromfile(file, "<f4", size).reshape(count, dim)
