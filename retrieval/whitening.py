"""Whitening fitted to descriptors: rows that are centred, rotated, scaled and L2-normalised.

N descriptors of d dimensions, Q pairs of a query and a photo of the same landmark. Statistics are sums over blocks of
rows in float64; what comes out is a layer, `heads.Whitening`, that takes arrays as well as tensors.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import nn

from retrieval import heads
from retrieval.config import InputError, build
from retrieval.data.images import Photo
from retrieval.data.pairs import Pairs
from retrieval.descriptors import Descriptors
from retrieval.embedder import Embedder
from retrieval.extraction import Extract, describe_each
from retrieval.heads import Whitening, kept

Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]
Vectors = Descriptors | ArrayLike  # (N, d)
BLOCK = 4096  # rows in float64: 64 MiB at d = 2048


def fit_pca(X: Vectors, dim: int | None = None, shrinkage: float = 1.0) -> Whitening:
    """diag(l^(-s/2)) E^T (x - m) with the eigenvalues l and eigenvectors E of the covariance, s = `shrinkage`.

    s = 1 whitens (Jegou & Chum, ECCV 2012); 0 < s < 1 lifts weak directions less, s = 0 only rotates (attenuation in
    Mukundan et al., IJCV 2019, shrinkage in the code of Tolias et al., ECCV 2020). The first `dim` directions are kept
    (None: all d); InputError where the rows do not span that many.
    """
    if not 0 <= float(shrinkage) <= 1:
        raise InputError(f"shrinkage must be between 0 (only rotates) and 1 (whitens), got {shrinkage}")
    count, length, rows = rows_of(X)
    size = kept(dim, length)
    mean = mean_of(rows, np.arange(count))
    values, vectors = eigen(second_moment(lambda part: rows(part) - mean, count, length))
    if size > (rank := rank_of(values, float(mean @ mean))):
        raise InputError(
            f"PCA whitening divides by the spread in each direction, and {count} descriptors spread in {rank} of "
            f"{length}: accepted are 1 to {rank} dimensions, or more photos, got {size}"
        )
    return layer(vectors[:, :size].T * values[:size, None] ** (-float(shrinkage) / 2), mean)


def fit_learned(X: Vectors, queries: ArrayLike, positives: ArrayLike, dim: int | None = None) -> Whitening:
    """E^T L^-1 (x - m), which makes the differences within pairs white (Radenovic et al., TPAMI 2019, section 4.2).

    queries, positives: (Q,) rows of X that show one landmark. m is the mean of the queries, L the Cholesky factor of
    the second moment S of the differences, E the eigenvectors of the uncentred second moment of L^-1 (x - m) over all
    rows, the largest first; not divided by the eigenvalues. Where S has no inverse, a I is added (see `cholesky`),
    with a warning.
    """
    count, length, rows = rows_of(X)
    left, right = (
        checked_indices(name, side, count) for name, side in (("queries", queries), ("positives", positives))
    )
    if len(left) != len(right) or not len(left):
        raise InputError(f"each query needs one positive, and one pair is the least: got {len(left)} and {len(right)}")
    size = kept(dim, length)
    mean = mean_of(rows, left)
    within = second_moment(lambda part: rows(left[part]) - rows(right[part]), len(left), length)
    factor, added = cholesky(within)
    if added:
        warnings.warn(
            f"learned whitening: the differences of {len(left)} pairs do not span {length} dimensions; {added:.0e} was "
            "added to the diagonal, and directions in which no pair differs now count most: give it more pairs, or use "
            "pca with a shrinkage, which needs fewer photos",
            stacklevel=2,
        )
    inverse = np.linalg.inv(factor)
    _, vectors = eigen(inverse @ second_moment(lambda part: rows(part) - mean, count, length) @ inverse.T)
    return layer(vectors[:, :size].T @ inverse, mean)


def rows_of(X: Vectors) -> tuple[int, int, Callable[[Indices], Matrix]]:
    """N, d, and a function that gives rows (n, d) by index in float64; rows that are not finite are refused."""
    held = X if isinstance(X, Descriptors) else np.asarray(X)
    if len(held.shape) != 2 or 0 in held.shape:
        raise InputError(f"descriptors must be rows (N, d), got shape {tuple(held.shape)}")

    def rows(indices: Indices) -> Matrix:
        taken = (held.take(indices) if isinstance(held, Descriptors) else held[indices]).astype(np.float64)
        if not np.isfinite(taken).all():
            bad = indices[np.flatnonzero(~np.isfinite(taken).all(axis=1))[0]]
            raise InputError(f"descriptors must be finite to whiten them, row {bad} is not")
        return taken

    return held.shape[0], held.shape[1], rows


def checked_indices(name: str, indices: ArrayLike, count: int) -> Indices:
    found = np.asarray(indices)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise InputError(f"{name} must be a list of row numbers, got {found.dtype} of shape {found.shape}")
    if len(found) and not (found.min() >= 0 and found.max() < count):
        raise InputError(f"{name} must be rows 0 to {count - 1}, got {found.min()} to {found.max()}")
    return found.astype(np.int64)


def parts(count: int) -> Iterator[Indices]:
    return (np.arange(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def mean_of(rows: Callable[[Indices], Matrix], chosen: Indices) -> Matrix:
    """(d,): the mean of the chosen rows."""
    return np.sum([rows(chosen[part]).sum(axis=0) for part in parts(len(chosen))], axis=0) / len(chosen)


def second_moment(rows: Callable[[Indices], Matrix], count: int, length: int) -> Matrix:
    """(d, d): the mean of x x^T over `count` rows, uncentred."""
    total = np.zeros((length, length))
    for part in parts(count):
        block = rows(part)
        total += block.T @ block
    return total / count


def eigen(symmetric: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues (d,), the largest first, and eigenvectors (d, d) in columns, whose largest entry is positive."""
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))]
    return values, vectors * np.sign(largest)


def rank_of(values: Matrix, centre: float) -> int:
    """In how many directions rows spread more than rounding does, theirs to float32 and that of the eigenvalues.

    values: eigenvalues of the covariance, the largest first; centre: |m|^2.
    """
    length = len(values)
    of_rows = np.finfo(np.float32).eps ** 2 * (values.sum() + centre) / length
    return int((values > max(of_rows, length * np.finfo(np.float64).eps * values[0])).sum())


def cholesky(symmetric: Matrix) -> tuple[Matrix, float]:
    """L with L L^T = S + a I, and a: 0, then 1e-10, then ten times more until that is positive definite.

    An eigenvalue that rounding alone could have given does not count as positive.
    """
    values, size = np.linalg.eigvalsh(symmetric), len(symmetric)
    added = 0.0
    while values[0] + added <= size * np.finfo(np.float64).eps * values[-1]:
        added = 10 * added if added else 1e-10
    return np.asarray(np.linalg.cholesky(symmetric + added * np.eye(size)), dtype=np.float64), added


def layer(projection: Matrix, mean: Matrix) -> Whitening:
    return Whitening.of(projection, -projection @ mean)


@dataclass(frozen=True)
class PCA:
    """`fit_pca` to the photos of a set (the `whitening` config)."""

    dim: int | None = None
    shrinkage: float = 1.0

    @property
    def label(self) -> str:
        weaker = "" if self.shrinkage == 1 else f"shrinkage={self.shrinkage:g}"
        return " ".join(["pca", *([str(self.dim)] if self.dim else []), *([weaker] if weaker else [])])

    def check(self, length: int, pairs: Pairs | None) -> None:
        """Refuse what cannot be fitted to `length` dimensions, before any photo is described."""
        size, most = kept(self.dim, length), len(given(pairs, self.label).photos) - 1
        if size > most:
            raise InputError(
                f"PCA whitening of {most + 1} photos knows at most {most} directions of {length}: give 1 to {most} as "
                f"whitening.dim (as head.out_dim of a layer), or more photos; got {size}"
            )

    def fit(self, X: Vectors, pairs: Pairs | None) -> Whitening:
        """X: the descriptors of `pairs.photos`."""
        found = fit_pca(X, self.dim, self.shrinkage)
        found.label = f"{self.label}, {given(pairs, self.label).name}"
        return found


@dataclass(frozen=True)
class Learned:
    """`fit_learned` to the pairs of a set (the `whitening` config)."""

    dim: int | None = None

    @property
    def label(self) -> str:
        return f"learned {self.dim}" if self.dim else "learned"

    def check(self, length: int, pairs: Pairs | None) -> None:
        """Refuse what cannot be fitted to `length` dimensions, before any photo is described."""
        kept(self.dim, length)
        given(pairs, self.label)

    def fit(self, X: Vectors, pairs: Pairs | None) -> Whitening:
        """X: the descriptors of `pairs.photos`."""
        pairs = given(pairs, self.label)
        found = fit_learned(X, pairs.queries, pairs.positives, self.dim)
        found.label = f"{self.label}, {pairs.name}"
        return found


class Published:
    """The whitening that came with a published network, which its authors learned for one scale and for several.

    whitenings: those of the network, `ss` and `ms`; scales: the ones that photos are described at.
    """

    def __init__(self, whitenings: Mapping[str, Whitening], scales: Sequence[float], dim: int | None = None) -> None:
        key = "ms" if len(scales) > 1 else "ss"
        if key not in whitenings:
            raise InputError(
                f"this network came with no whitening for scales {list(scales)}: accepted are whitening=learned or pca "
                "with a whitening_set, or none; a network with a whitening layer needs none"
            )
        self.whitening = whitenings[key].first(dim)
        self.dim = self.whitening.out_features
        if self.dim < whitenings[key].out_features:
            self.whitening.label += f", {self.dim} dimensions"

    @property
    def label(self) -> str:
        return self.whitening.label

    def check(self, length: int, pairs: Pairs | None) -> None:
        """Refuse a whitening of other descriptors."""
        if self.whitening.in_features != length:
            raise InputError(
                f"the published whitening takes {self.whitening.in_features} dimensions, the network gives {length}"
            )

    def fit(self, X: Vectors | None, pairs: Pairs | None) -> Whitening:
        """Itself: nothing is described for it."""
        return self.whitening


def given(pairs: Pairs | None, label: str) -> Pairs:
    if pairs is None:
        raise InputError(f"whitening '{label}' is fitted to photos: say which, as whitening_set=folder or sfm120k")
    return pairs


def from_config(
    cfg: Mapping[str, Any] | DictConfig, whitenings: Mapping[str, Whitening], scales: Sequence[float]
) -> tuple[PCA | Learned | Published, Pairs | None] | None:
    """What `whitening` and `whitening_set` of a config say; None for whitening=none.

    whitenings: see `of_run`; scales: that photos are described at.
    """
    if cfg["whitening"].get("_target_") is None:
        return None
    method = build(cfg["whitening"], whitenings=whitenings, scales=scales)
    if isinstance(method, Published):
        return method, None
    return method, build(cfg["whitening_set"]) if cfg.get("whitening_set") else given(None, method.label)


def initialise(
    embedder: Embedder,
    photos: Sequence[Photo],
    queries: ArrayLike,
    positives: ArrayLike,
    resolution: int,
    extract: Extract,
) -> None:
    """Fit the head, if it is a whitening that is not, as its `start` says: weight P, bias -P m, to be trained further.

    queries, positives: (Q,) indices of `photos` that show one landmark, of training photos. The photos of these pairs
    alone are described, at one scale, by what comes before the head.
    """
    head = embedder.head
    if not isinstance(head, Whitening) or head.fitted:
        return
    pairs = TrainingPairs.of(photos, queries, positives, resolution)
    size = head.out_features
    method = Learned(size) if head.start == "learned" else PCA(size, head.shrinkage)
    method.check(head.in_features, pairs)
    before = Embedder(embedder.backbone, embedder.pooling, nn.Identity()).train(embedder.training)
    (rows,) = describe_each([before], pairs.photos, resolution, replace(extract, scales=(1.0,)))
    found = method.fit(rows, pairs)
    head.copy_(found.weight.detach(), found.bias.detach())
    head.label = found.label


@dataclass
class TrainingPairs:
    """Pairs among photos that are trained on, and those of the photos that they name."""

    name: str
    photos: list[Photo]
    queries: Indices
    positives: Indices

    @classmethod
    def of(cls, photos: Sequence[Photo], queries: ArrayLike, positives: ArrayLike, resolution: int) -> Self:
        left, right = (
            checked_indices(name, side, len(photos)) for name, side in (("queries", queries), ("positives", positives))
        )
        used, rows = np.unique(np.concatenate([left, right]), return_inverse=True)
        name = f"{len(left)} pairs of {len(used)} training photos at {resolution} px"
        return cls(name, [photos[i] for i in used], rows[: len(left)], rows[len(left) :])


def save(whitening: Whitening, path: str | Path) -> None:
    """Write weight and bias as .safetensors, with `label` in its metadata: what `load` and head=whitening read."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in whitening.state_dict().items()}
    save_file(tensors, path, metadata={"label": whitening.label})


def load(path: str | Path) -> Whitening:
    """The whitening that `save` wrote."""
    return heads.read(path)


def save_all(whitenings: Mapping[str, Whitening], folder: Path) -> None:
    """Write what came with a network beside its weights, where `of_run` finds it."""
    for name, whitening in whitenings.items():
        save(whitening, folder / f"whitening_{name}.safetensors")


def of_run(folder: str | Path) -> dict[str, Whitening]:
    """The whitenings that came with a published network whose run lies in `folder`: `ss`, `ms`, or none."""
    files = {name: Path(folder) / f"whitening_{name}.safetensors" for name in ("ss", "ms")}
    return {name: load(file) for name, file in files.items() if file.is_file()}
