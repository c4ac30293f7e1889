"""How sure a mean over queries is, and a difference between two methods; NumPy only.

Q queries, L landmarks. Photos of one landmark are not independent, so it is landmarks that are drawn and whose signs
flip, with all of their queries. A query whose value is NaN (it has no relevant image) is left out. Several seeds are
averaged first: what is said holds for landmarks like these, not for other seeds. `macro` takes the mean over
landmarks of each one's mean instead of the mean over queries.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
RESAMPLES = 10_000


class Difference(NamedTuple):
    """Mean of a - b, its interval, how often chance alone gives as much, and from how many landmarks."""

    mean: float
    low: float
    high: float
    p_value: float
    landmarks: int


def macro_mean(values: ArrayLike, landmarks: ArrayLike) -> float:
    """Mean over landmarks of the mean over each one's queries; values (Q,) or (seeds, Q). NaN if none has a value."""
    sums, counts = _by_landmark(_per_query(values, landmarks), landmarks)
    return float((sums / counts).mean()) if len(sums) else float("nan")


def interval(
    values: ArrayLike,
    landmarks: ArrayLike,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    macro: bool = False,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of values (Q,) or (seeds, Q); landmarks (Q,) are drawn.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; clusters drawn whole, and not what is
    in them: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.
    """
    _check_sizes(level, resamples)
    return _interval(*_clusters(_per_query(values, landmarks), landmarks, macro), level, resamples, seed)


def difference(
    a: ArrayLike,
    b: ArrayLike,
    landmarks: ArrayLike,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    macro: bool = False,
) -> Difference:
    """a - b, each (Q,) or (seeds, Q), paired by query; interval as in `interval`, p two-sided by flipping signs.

    If neither method were better, a landmark would favour the other one as readily by the same amount (Fisher, The
    Design of Experiments, 1935; for retrieval, Smucker et al., CIKM 2007).
    """
    _check_sizes(level, resamples)
    a, b = _per_query(a, landmarks), _per_query(b, landmarks)
    if (odd := np.isnan(a) != np.isnan(b)).any():
        raise ValueError(f"a and b must be NaN for the same queries, {odd.sum()} have a value in one alone")
    sums, counts = _clusters(a - b, landmarks, macro)
    low, high = _interval(sums, counts, level, resamples, seed)
    return Difference(float(sums.sum() / counts.sum()), low, high, _sign_flip(sums, resamples, seed), len(sums))


def _interval(sums: NDArray, counts: NDArray, level: float, resamples: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(sums), size=(size, len(sums))) for size in _sizes(resamples))
    means = np.concatenate([sums[some].sum(1) / counts[some].sum(1) for some in drawn])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _sign_flip(sums: Array, resamples: int, seed: int) -> float:
    """Share of the choices of signs whose total is at least as far from 0 as with none flipped.

    All choices if they are no more than `resamples`, else random ones, of which the one given counts as one too
    (Phipson and Smyth, SAGMB 2010).
    """
    least = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()  # totals that are equal on paper may round apart
    if 2 ** len(sums) <= resamples:
        flips = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        return float((np.abs((1 - 2 * flips) @ sums) >= least).mean())
    rng = np.random.default_rng(seed)
    flipped = (1 - 2 * rng.integers(2, size=(size, len(sums))) for size in _sizes(resamples))
    as_far = sum(int((np.abs(signs @ sums) >= least).sum()) for signs in flipped)
    return (1 + as_far) / (1 + resamples)


def _sizes(resamples: int, most: int = 100) -> Iterator[int]:
    """Resamples in parts, so that memory does not grow with their number."""
    return (min(most, resamples - start) for start in range(0, resamples, most))


def _per_query(values: ArrayLike, landmarks: ArrayLike) -> Array:
    """Values (Q,), averaged over seeds if there are any."""
    shape, queries = np.shape(values), np.shape(landmarks)
    if len(queries) != 1 or shape[-1:] != queries or len(shape) > 2 or 0 in shape[:-1]:
        raise ValueError(f"values must be (Q,) or (seeds, Q) and landmarks (Q,), got {shape} and {queries}")
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if np.isinf(values).any():
        raise ValueError(f"values must be finite, or NaN of a query without one, got {np.isinf(values).sum()} infinite")
    missing = np.isnan(values)
    if (odd := missing.any(0) & ~missing.all(0)).any():
        raise ValueError(f"every seed must be NaN for the same queries, {odd.sum()} have a value in some alone")
    return values.mean(0)


def _by_landmark(values: Array, landmarks: ArrayLike) -> tuple[NDArray, NDArray]:
    """Sums and counts (L,) of the values that are not NaN."""
    there = ~np.isnan(values)
    names, places = np.unique(np.asarray(landmarks)[there], return_inverse=True)
    return np.bincount(places, values[there], len(names)), np.bincount(places, minlength=len(names))


def _clusters(values: Array, landmarks: ArrayLike, macro: bool) -> tuple[NDArray, NDArray]:
    """What is resampled: sums and counts (L,), whose totals' ratio is the mean."""
    sums, counts = _by_landmark(values, landmarks)
    if len(sums) < 2:
        raise ValueError(f"at least two landmarks must have a value, got {len(sums)}")
    return (sums / counts, np.ones_like(counts)) if macro else (sums, counts)


def _check_sizes(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, such as 0.95, got {level}")
    if not isinstance(resamples, int | np.integer) or resamples < 1:
        raise ValueError(f"resamples must be a whole number, at least 1, got {resamples}")
