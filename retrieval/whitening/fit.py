"""Whitening fitted to descriptors: rows that are centred, rotated, scaled and L2-normalised.

N descriptors of d dimensions, Q pairs of a query and a photo of the same landmark. Statistics are sums over blocks of
rows in float64; what comes out is a layer, `heads.Whitening`, that takes arrays as well as tensors.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieval.descriptors import Descriptors
from retrieval.errors import InputError
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
