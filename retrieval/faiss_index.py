"""Indices of faiss for inner products: made of a string, trained, filled, asked, and read from a stranger's file."""

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from retrieval.descriptors import BLOCK, Descriptors, Indices, Rows
from retrieval.errors import InputError

PROBED = 16  # clusters of an inverted file that are looked into, where nothing else is asked for
KINDS = frozenset(  # what may be made, and what a file may hold
    f"Index{name}"
    for name in (
        *("Flat", "FlatIP", "ScalarQuantizer", "PQ", "PQFastScan", "ResidualQuantizer", "ProductResidualQuantizer"),
        *("HNSWFlat", "HNSWSQ", "IVFFlat", "IVFScalarQuantizer", "IVFPQ", "IVFPQFastScan"),
        *("IVFResidualQuantizer", "RaBitQ", "IVFRaBitQ", "PreTransform", "Refine", "RefineFlat"),
    )
)
INSIDE = ("index", "quantizer", "storage", "base_index", "refine_index")  # where an index holds another
NO_TABLES = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE  # they are for distances, and larger than what the file holds
ON_DISK = b"ilod"  # stands before inverted lists that lie in another file


def check(factory: str, dim: int, rows: int, named: str) -> None:
    """Refuse what cannot be made for so many rows of this dimension; `named`: the setting that the string is of."""
    empty(factory, dim, named)
    if rows < (needed := clusters(factory)):
        raise InputError(
            f"{named} '{factory}' trains {needed} clusters and needs as many images, the gallery has {rows}; "
            "accepted: fewer clusters, HNSW32 or Flat"
        )


def empty(factory: str, dim: int, named: str) -> Any:
    """An index that holds nothing yet; refused unless it is of inner products and of `KINDS`."""
    try:
        index = faiss.index_factory(dim, plain_codes(factory), faiss.METRIC_INNER_PRODUCT)
        why = _unlike(index)
    except RuntimeError as error:
        why = _said(error)
    if why:
        raise InputError(
            f"{named} '{factory}' is no faiss index of inner products in {dim} dimensions: {why}; accepted: Flat, SQ8, "
            "HNSW32, IVF1024,Flat, IVF1024,PQ32, OPQ32,IVF1024,PQ32, ... where PQ's number divides the dimension"
        )
    return index


def filled(factory: str, gallery: Descriptors, seed: int, named: str) -> Any:
    """An index of all rows, trained, where it needs it, on some that are drawn with `seed`."""
    check(factory, gallery.dim, len(gallery), named)
    index = empty(factory, gallery.dim, named)
    if not index.is_trained:
        drawn = np.random.default_rng(seed).permutation(len(gallery))
        sample = np.sort(drawn[: max(65_536, 256 * clusters(factory))])
        try:
            index.train(gallery.take(sample))
        except RuntimeError as error:
            raise InputError(f"{named} '{factory}' cannot be trained on {len(sample)} images: {error}") from error
    add(index, gallery)
    return index


def add(index: Any, gallery: Descriptors) -> None:
    """All rows, a block at a time, after those that the index holds."""
    for start in range(0, len(gallery), BLOCK):
        index.add(gallery.take(np.arange(start, min(start + BLOCK, len(gallery)))))


def removable(index: Any) -> bool:
    """Whether rows can be removed: faiss cannot for a graph (HNSW) and a refined index (RFlat), and after it did for a
    fast scan (PQ16x4fs) it adds wrong codes (1.15)."""
    own = faiss.downcast_index(index)
    if isinstance(own, faiss.IndexPreTransform):
        return removable(own.index)
    return not isinstance(own, faiss.IndexHNSW | faiss.IndexRefine | faiss.IndexFastScan | faiss.IndexIVFFastScan)


def remove(index: Any, positions: Indices) -> None:
    """Remove rows of a `removable` index; the others are numbered from 0 again, in their order."""
    removed = np.sort(positions)
    index.remove_ids(removed)
    for part in parts(index):
        if hasattr(part, "invlists"):  # an inverted file keeps the old numbers
            lists = faiss.downcast_InvertedLists(part.invlists)
            for ids in _ids(lists):
                ids -= np.searchsorted(removed, ids)


def tune(index: Any, nprobe: int, candidates: int) -> None:
    """How far a search looks: clusters of an inverted file, or else candidates that a graph keeps (its efSearch)."""
    inner = list(parts(index))
    inverted = any(hasattr(part, "nprobe") for part in inner)
    for part in inner:
        if hasattr(part, "nprobe"):
            part.nprobe = nprobe
        if hasattr(part, "hnsw"):  # of an inverted file it finds the clusters
            part.hnsw.efSearch = max(16, nprobe) if inverted else candidates
        if hasattr(part, "k_factor"):  # in a stranger's file it may be anything
            part.k_factor = 1


def nearest(index: Any, queries: Rows, k: int) -> tuple[Rows, Indices]:
    """Scores and positions (Q, k), best first, of equals the lower position; -inf and -1 where fewer were found."""
    try:
        values, found = index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
    except RuntimeError as error:
        raise InputError(f"the index cannot be searched: {_said(error)}") from error
    values = np.where(found < 0, -np.inf, values).astype(np.float32)
    order = np.lexsort((found, -values), axis=-1)
    return np.take_along_axis(values, order, 1), np.take_along_axis(found, order, 1)


def write(index: Any, path: Path) -> None:
    faiss.write_index(index, str(path))


def read(path: Path, named: str) -> Any:
    """The index of inner products in a file, whoever wrote it.

    No more is allocated than the file is long, and no other file is opened. Raises InputError, which begins with
    `named`, for what is no index, is cut off, or is of other `KINDS`.
    """
    try:
        with _limits(path.stat().st_size):
            if _holds(path, ON_DISK):  # which chance may have put among the codes
                _refuse_other(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | NO_TABLES), path, named)
            index = faiss.read_index(str(path), NO_TABLES)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{named} {path} cannot be read as an index of faiss: {_said(error)}") from error
    _refuse_other(index, path, named)
    return index


def parts(index: Any) -> Iterator[Any]:
    """The index and all that it holds, each as what it is."""
    own = faiss.downcast_index(index)
    yield own
    for name in INSIDE:
        if inner := getattr(own, name, None):
            yield from parts(inner)


def kinds(index: Any) -> list[str]:
    return [type(part).__name__ for part in parts(index)]


def _unlike(index: Any) -> str:
    if other := [kind for kind in kinds(index) if kind not in KINDS]:
        return f"it is of {', '.join(other)}"
    return "" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "its scores are no inner products"


def _refuse_other(index: Any, path: Path, named: str) -> None:
    if why := _unlike(index):
        raise InputError(f"{named} {path} is no index that is made here: {why}; accepted: {', '.join(sorted(KINDS))}")
    for part in parts(index):
        if hasattr(part, "invlists"):
            _refuse_lists(part, path, named)


def _refuse_lists(inverted: Any, path: Path, named: str) -> None:
    lists = faiss.downcast_InvertedLists(inverted.invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists):
        if lists.ptr is None:  # else they are its own, mapped from the file itself
            raise InputError(f"{named} {path} has its lists in another file, {lists.filename!r}; accepted: all in one")
        return
    ids = np.concatenate([np.empty(0, np.int64), *_ids(lists)])
    if not np.array_equal(np.sort(ids), np.arange(inverted.ntotal)):
        raise InputError(f"{named} {path} does not number its {inverted.ntotal} rows from 0 on: it is damaged")


def _ids(lists: Any) -> list[Indices]:
    """Numbers of the rows in each list that has some, as they lie in memory."""
    return [faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)) for i in range(lists.nlist) if lists.list_size(i)]


@contextmanager
def _limits(size: int) -> Iterator[None]:
    # A count in a file is the number of bytes that faiss would allocate, or of rounds that it would make.
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    faiss.set_deserialization_loop_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])


def _holds(path: Path, word: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(word) >= 0


def _said(error: BaseException) -> str:
    return re.sub(r"^Error in .*?\.(?:cpp|h):\d+: ", "", str(error), flags=re.DOTALL)


def clusters(factory: str) -> int:
    """The most clusters that one k-means of the index finds: an inverted file's lists, a product quantiser's 2^bits."""
    units = {"": 1, "k": 2**10, "M": 2**20}
    lists = [int(count) * units[unit] for count, unit in re.findall(r"IVF(\d+)([kM]?)", factory)]
    bits = [int(given or 8) for given in re.findall(r"PQ\d+(?:_\d+)?(?:x(\d+))?", factory)]
    return max([0, *lists, *(2**b for b in bits)])


def plain_codes(factory: str) -> str:
    """The string with product quantisers that do not number their codes for Hamming distance (faiss's `np`).

    Scores by inner product are the same, and 32 quantisers of 600 rows train in 0.1 s rather than in 40.
    """
    return re.sub(r"(?<!O)(PQ\d+(?:x\d+)?)(?![\dx]|np|fs)", r"\1np", factory)
