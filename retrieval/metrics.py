"""Average precision and precision at k by the revisited protocol; NumPy only.

Q queries, N images. AP is the trapezoid of Radenovic et al., CVPR 2018 (and of Philbin et al., CVPR 2007); see
`average_precision`. Ranks are counted, never sorted: an image's rank is the number of images with higher scores.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def average_precision(ranks: ArrayLike, relevant: int) -> float:
    """Trapezoid AP: (1/n) sum_j (j/r_j + (j+1)/(r_j+1)) / 2 with 0-based ranks r_j ascending, j/r_j = 1 at r_j = 0.

    ranks: of the relevant images that were retrieved. relevant: n, how many there are.
    """
    r = np.sort(np.asarray(ranks, dtype=np.float64))
    j = np.arange(len(r))
    before = np.where(r == 0, 1.0, j / np.maximum(r, 1))
    return float(((before + (j + 1) / (r + 1)) / 2).sum() / relevant)


def precision_at(ranks: ArrayLike, k: int) -> float:
    """Precision over the first k' = min(k, position of the last relevant image) (Radenovic et al., CVPR 2018)."""
    r = np.asarray(ranks)
    cut = min(k, int(r.max()) + 1)
    return float((r < cut).sum() / cut)


def ranks_of(scores: ArrayLike, images: ArrayLike) -> Indices:
    """0-based ranks of `images` when one query's scores (N,) are ordered, highest first, ties by index."""
    scores, images = np.asarray(scores), np.asarray(images, dtype=np.int64)
    levels = np.unique(scores[images])
    counts = np.bincount(np.searchsorted(levels, scores), minlength=len(levels) + 1)
    higher = counts[::-1].cumsum()[::-1][1:]
    return higher[np.searchsorted(levels, scores[images])] + _tied_before(scores, images)


def _tied_before(scores: NDArray, images: Indices) -> Indices:
    tied = np.flatnonzero(np.isin(scores, scores[images]))
    if len(np.unique(scores[images])) == len(tied):
        return np.zeros(len(images), dtype=np.int64)
    return np.array([np.count_nonzero(scores[tied[tied < i]] == scores[i]) for i in images], dtype=np.int64)


def per_query(
    scores: ArrayLike, relevant: Sequence[ArrayLike], ignored: Sequence[ArrayLike], ks: Sequence[int] = (1, 5, 10)
) -> dict[str, Array]:
    """AP and mP@k of each query, (Q,) each; NaN where a query has no relevant image.

    scores: (Q, N), higher is nearer. relevant, ignored: image indices per query; ignored ones are taken out of
    the ranking before anything is counted.
    """
    scores = checked(scores, len(relevant))
    rows = {name: np.full(len(relevant), np.nan) for name in ["AP", *(f"P@{k}" for k in ks)]}
    for q, (row, wanted, left_out) in enumerate(zip(scores, relevant, ignored, strict=True)):
        wanted, left_out = np.asarray(wanted, dtype=np.int64), np.asarray(left_out, dtype=np.int64)
        labelled = np.concatenate([wanted, left_out])
        if len(labelled) and not (labelled.min() >= 0 and labelled.max() < len(row)):
            raise ValueError(
                f"labels of query {q} must be in 0 to {len(row) - 1}, got {labelled.min()} to {labelled.max()}"
            )
        if not len(wanted):
            continue
        ranks = ranks_of(row, labelled)
        kept, removed = ranks[: len(wanted)], np.sort(ranks[len(wanted) :])
        kept = kept - np.searchsorted(removed, kept)
        rows["AP"][q] = average_precision(kept, len(wanted))
        for k in ks:
            rows[f"P@{k}"][q] = precision_at(kept, k)
    return rows


def mean(rows: Mapping[str, Array]) -> dict[str, float]:
    """mAP and mP@k over the queries that have a relevant image; NaN if there is none."""
    return {f"m{name}": float(np.nanmean(v)) if not np.isnan(v).all() else float("nan") for name, v in rows.items()}


def levels(ground_truth: Sequence[Mapping[str, ArrayLike]]) -> dict[str, tuple[list[Indices], list[Indices]]]:
    """Relevant and ignored images per query at each level of the revisited protocol."""

    def gather(*names: str) -> list[Indices]:
        return [np.concatenate([np.asarray(g[n], dtype=np.int64).reshape(-1) for n in names]) for g in ground_truth]

    return {
        "easy": (gather("easy"), gather("junk", "hard")),
        "medium": (gather("easy", "hard"), gather("junk")),
        "hard": (gather("hard"), gather("junk", "easy")),
    }


def revisited(
    scores: ArrayLike, ground_truth: Sequence[Mapping[str, ArrayLike]], ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """`easy/mAP`, `medium/mP@10`, ... in [0, 1] of Revisited Oxford and Paris (Radenovic et al., CVPR 2018).

    scores: (Q, N), a row per query. ground_truth: per query `easy`, `hard`, `junk`, indices into the N images.
    """
    scores = checked(scores, len(ground_truth))
    judged = {name: mean(per_query(scores, *lists, ks)) for name, lists in levels(ground_truth).items()}
    return {f"{level}/{name}": value for level, values in judged.items() for name, value in values.items()}


def checked(scores: ArrayLike, queries: int) -> NDArray:
    """scores as an array (Q, N) without NaN, or a ValueError that says what is wrong."""
    scores = np.asarray(scores)
    if scores.ndim != 2 or len(scores) != queries:
        raise ValueError(f"scores must be (Q, N) with a row for each of the {queries} queries, got {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"scores must be numbers, got NaN for {np.isnan(scores).any(1).sum()} of {queries} queries")
    return scores
