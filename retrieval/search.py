"""Nearest neighbours, exact and approximate, and clusters: the one caller of faiss.

Q queries, N gallery images, d dimensions, all unit vectors; scores are inner products, of equal ones the image with
the lower index stands first. -inf and index -1 say that nothing was retrieved.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.config import InputError
from retrieval.descriptors import BLOCK, Descriptors, Indices, Rows
from retrieval.extraction import device_of

BUDGET = 1 << 29  # bytes of one block of scores
GPU_NEIGHBOURS = 2048  # the most that faiss gives on a GPU
RECALLS = (1, 10, 100)


class Search(Protocol):
    """Scores queries (Q, d) against a gallery. `label` says in a result row how."""

    @property
    def label(self) -> str: ...
    def check(self, dim: int, rows: int) -> None: ...
    def scores(self, queries: Rows, gallery: Descriptors) -> Iterator[Rows]: ...
    def nearest(self, queries: Rows, gallery: Descriptors, k: int) -> tuple[Rows, Indices]: ...
    def recall(self, queries: Rows, gallery: Descriptors) -> dict[str, float]: ...


class Exact:
    """Every inner product, in float32 (no TF32), a block at a time, on the CPU or on one GPU."""

    label = "exact"

    def __init__(self, device: str = "auto") -> None:
        self.device = device_of(device)

    def check(self, dim: int, rows: int) -> None:
        """Any dimension and any number of rows will do."""

    def scores(self, queries: Rows, gallery: Descriptors) -> Iterator[Rows]:
        """Consecutive row blocks (c, N) of the score matrix, each within BUDGET bytes (or one row)."""
        for part in chunks(len(queries), len(gallery)):
            block = np.empty((part.stop - part.start, len(gallery)), dtype=np.float32)
            for columns, product in self._products(queries[part], gallery):
                block[:, columns] = product.cpu().numpy()
            yield block

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
            scores[part], found[part] = best[0].cpu().numpy(), best[1].cpu().numpy()
        return scores, found

    def recall(self, queries: Rows, gallery: Descriptors) -> dict[str, float]:
        """Empty: nothing is lost."""
        return {}

    def _products(self, queries: Rows, gallery: Descriptors) -> Iterator[tuple[Indices, Tensor]]:
        asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)).to(self.device)
        for columns, rows in gallery.blocks():
            order = np.argsort(columns)  # within a block a lower position is a lower index
            with _full_precision():
                product = asked @ torch.from_numpy(rows[order]).to(self.device).T
            yield columns[order], product


class Faiss:
    """Approximate search by any index that faiss can make of a string: Flat, SQ8, HNSW32, IVF1024,PQ32, OPQ32,PQ32.

    An image beyond the `neighbours` nearest is not retrieved: it counts as never found. nprobe: clusters of an
    inverted file that are looked into (16 if not given). index: a file that the index is opened from, when it was
    made of the same descriptors in the same way, and written to when absent. It is trained on rows drawn with `seed`
    and runs on every GPU where there is one, the index has a form for it and no more than 2,048 neighbours are asked
    for; HNSW stays on the CPU.
    """

    def __init__(
        self,
        factory: str = "IVF1024,PQ32",
        neighbours: int = 1000,
        nprobe: int | None = None,
        index: str | None = None,
        seed: int = 0,
    ) -> None:
        self.factory, self.neighbours, self.seed = str(factory), neighbours, seed
        self.index = Path(index) if index else None
        inverted = re.search("IVF|IMI", self.factory) is not None
        if not isinstance(neighbours, int) or neighbours < 1:
            raise InputError(f"search.neighbours must be a whole number from 1, got {neighbours!r}")
        if nprobe is not None and not inverted:
            raise InputError(
                f"search.nprobe is the number of clusters looked into, and '{factory}' has none: leave it out, or "
                "name an inverted file such as IVF1024,PQ32"
            )
        if nprobe is not None and (not isinstance(nprobe, int) or nprobe < 1):
            raise InputError(f"search.nprobe must be a whole number from 1, got {nprobe!r}")
        self.nprobe = (nprobe or 16) if inverted else None
        self.held: tuple[Descriptors, Any, Any] | None = None

    @property
    def label(self) -> str:
        probed = f" nprobe={self.nprobe}" if self.nprobe else ""
        return f"{self.factory}{probed} neighbours={self.neighbours}"

    def check(self, dim: int, rows: int) -> None:
        """Refuse what cannot be made for so many rows of this dimension, before anything is described."""
        self._empty(dim)
        if rows < (needed := clusters(self.factory)):
            raise InputError(
                f"search.factory '{self.factory}' trains {needed} clusters and needs as many images, the gallery has "
                f"{rows}; accepted: fewer clusters, HNSW32, Flat or search=exact"
            )
        if self.index and self.index.exists():
            refuse_other(self.index, self._made_of(dim, rows))

    def scores(self, queries: Rows, gallery: Descriptors) -> Iterator[Rows]:
        """Consecutive row blocks (c, N) of the score matrix, -inf where an image was not retrieved."""
        for part in chunks(len(queries), len(gallery)):
            values, found = self.nearest(queries[part], gallery, self.neighbours)
            block = np.full((len(values), len(gallery)), -np.inf, dtype=np.float32)
            query, place = np.nonzero(found >= 0)
            block[query, found[query, place]] = values[query, place]
            yield block

    def nearest(self, queries: Rows, gallery: Descriptors, k: int) -> tuple[Rows, Indices]:
        """Scores and indices (Q, min(k, N)), best first, then -inf and -1 where fewer were retrieved."""
        k = min(k, len(gallery))
        index, on_gpus = self._indexed(gallery)
        values, found = (on_gpus if k <= GPU_NEIGHBOURS else index).search(
            np.ascontiguousarray(queries, dtype=np.float32), k
        )
        values = np.where(found < 0, -np.inf, values).astype(np.float32)
        order = np.lexsort((found, -values), axis=-1)
        return np.take_along_axis(values, order, 1), np.take_along_axis(found, order, 1)

    def recall(self, queries: Rows, gallery: Descriptors) -> dict[str, float]:
        """`recall` of this search against the exact one."""
        most = min(max(RECALLS), self.neighbours)
        return recall(self.nearest(queries, gallery, most)[1], Exact().nearest(queries, gallery, max(RECALLS))[1])

    def _indexed(self, gallery: Descriptors) -> tuple[Any, Any]:
        # The index of the last gallery is kept: a chain of re-ranking steps asks for the same one several times.
        if self.held is None or self.held[0] is not gallery:
            index = self._opened(gallery) if self.index else self._filled(gallery)
            self.held = gallery, index, _on_gpus(index)
        return self.held[1:]

    def _opened(self, gallery: Descriptors) -> Any:
        assert self.index is not None
        made_of = self._made_of(gallery.dim, len(gallery)) | {"descriptors": fingerprint(gallery)}
        if self.index.exists():
            return self._probing(load(self.index, made_of))
        save(index := self._filled(gallery), self.index, made_of)
        return index

    def _filled(self, gallery: Descriptors) -> Any:
        self.check(gallery.dim, len(gallery))
        index = self._empty(gallery.dim)
        if not index.is_trained:
            drawn = np.random.default_rng(self.seed).permutation(len(gallery))
            index.train(gallery.take(np.sort(drawn[: max(65_536, 256 * clusters(self.factory))])))
        for start in range(0, len(gallery), BLOCK):
            index.add(gallery.take(np.arange(start, min(start + BLOCK, len(gallery)))))
        return index

    def _empty(self, dim: int) -> Any:
        try:
            return self._probing(faiss.index_factory(dim, plain_codes(self.factory), faiss.METRIC_INNER_PRODUCT))
        except RuntimeError as error:
            raise InputError(
                f"search.factory '{self.factory}' is no faiss index of inner products in {dim} dimensions: "
                f"{str(error).rsplit('cpp:', 1)[-1]}; accepted: Flat, SQ8, HNSW32, IVF1024,Flat, IVF1024,PQ32, "
                "OPQ32,IVF1024,PQ32, ... where PQ's number divides the dimension"
            ) from error

    def _probing(self, index: Any) -> Any:
        if self.nprobe:
            faiss.ParameterSpace().set_index_parameter(index, "nprobe", self.nprobe)
        return index

    def _made_of(self, dim: int, rows: int) -> dict[str, Any]:
        return {"factory": self.factory, "seed": self.seed, "dim": dim, "rows": rows}


def chunks(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows of `width` float32, each within BUDGET bytes (or one row)."""
    size = max(1, BUDGET // (4 * max(1, width)))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and positions (c, min(k, n)) of the highest of each row (c, n), best first; of equals the lower position.

    Which of several -inf are given is left open.
    """
    values, at = scores.topk(min(k, scores.shape[1]), dim=1)
    edge = values[:, -1:]
    torn = ((scores == edge).sum(1) > (values == edge).sum(1)) & (edge[:, 0] > -torch.inf)  # topk took any of equals
    if torn.any():
        at[torn] = scores[torn].sort(dim=1, descending=True, stable=True).indices[:, : at.shape[1]]
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


def _on_gpus(index: Any) -> Any:
    if not faiss.get_num_gpus():
        return index
    try:
        return faiss.index_cpu_to_all_gpus(index)
    except RuntimeError:  # an index that has no form for a GPU, such as HNSW
        return index


def clusters(factory: str) -> int:
    """The most clusters that one k-means of the index finds: an inverted file's lists, a product quantiser's 2^bits."""
    lists = [int(count) for count in re.findall(r"IVF(\d+)", factory)]
    bits = [int(given or 8) for given in re.findall(r"PQ\d+(?:_\d+)?(?:x(\d+))?", factory)]
    return max([0, *lists, *(2**b for b in bits)])


def plain_codes(factory: str) -> str:
    """The string with product quantisers that do not number their codes for Hamming distance (faiss's `np`).

    Scores by inner product are the same, and 32 quantisers of 600 rows train in 0.1 s rather than in 40.
    """
    return re.sub(r"(?<!O)(PQ\d+(?:x\d+)?)(?![\dx]|np|fs)", r"\1np", factory)


def recall(found: Indices, exact_found: Indices) -> dict[str, float]:
    """recall@1, @10, @100: the share of the exact k nearest (Q, k or more) that are among the first k found."""
    shares = {}
    for k in RECALLS:
        wanted, got = exact_found[:, :k], found[:, :k]
        shares[f"recall@{k}"] = float((wanted[:, :, None] == got[:, None, :]).any(2).mean())
    return shares


def fingerprint(gallery: Descriptors) -> str:
    """A hash of the rows in their order, wherever they lie."""
    digest = hashlib.sha256()
    for start in range(0, len(gallery), BLOCK):
        digest.update(gallery.take(np.arange(start, min(start + BLOCK, len(gallery)))).tobytes())
    return digest.hexdigest()


def save(index: Any, path: Path, made_of: Mapping[str, Any]) -> None:
    """Write the index, whole or not at all, and beside it in `PATH.json` what it was made of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    faiss.write_index(index, str(part))
    _record(path).write_text(json.dumps(dict(made_of), indent=1))
    part.replace(path)


def load(path: Path, made_of: Mapping[str, Any]) -> Any:
    """The index at `path`; one made of something else is refused, as is a file that is no index."""
    refuse_other(path, made_of)
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        raise InputError(f"search.index {path} cannot be read as an index of faiss: {error}") from error


def refuse_other(path: Path, made_of: Mapping[str, Any]) -> None:
    """Refuse an index made of something else, naming each difference."""
    if not _record(path).is_file():
        raise InputError(f"search.index {path} has no {_record(path).name} that says what it was made of: name another")
    record = json.loads(_record(path).read_text())
    unlike = [
        f"{key} {record.get(key)} there, {value} here" for key, value in made_of.items() if record.get(key) != value
    ]
    if unlike:
        raise InputError(f"search.index {path} was made of something else ({'; '.join(unlike)}): name another file")


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def exact(gallery: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> tuple[NDArray, NDArray]:
    """The k nearest gallery rows of each query by inner product: scores and indices, (Q, k), best first."""
    return Exact("cpu").nearest(queries, Descriptors([gallery]), k)


def kmeans(vectors: NDArray[np.float32], clusters: int, seed: int, iterations: int = 100) -> NDArray[np.float32]:
    """Centroids (K, D) of k-means over all of the vectors (N, D), of which there must be at least K."""
    every = {"min_points_per_centroid": 1, "max_points_per_centroid": len(vectors)}  # else 256 a cluster are drawn
    found = faiss.Kmeans(vectors.shape[1], clusters, niter=iterations, seed=seed, **every)
    found.train(np.ascontiguousarray(vectors))
    assert found.centroids is not None
    return found.centroids
