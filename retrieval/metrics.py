"""Rankings judged per query: average precision and its kin; NumPy only.

Q queries, N images. A database is never sorted: the rank of an image is the number of images before it, and only
labelled images have theirs counted. Of images with equal scores the one with the lower index stands first. Every
formula takes the 0-based ranks, ascending, of the relevant images that were retrieved, ignored images taken out, and
n, how many relevant images there are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Lists = Sequence[ArrayLike]  # image indices per query
Measure = Callable[[Indices, int], float | Array]  # an array where it is a curve
BINS = 2**16
RECALLS = 101  # points of a curve over recall: 0, 0.01 .. 1


def average_precision(ranks: ArrayLike, relevant: int) -> float:
    """Trapezoid AP: (1/n) sum_j (j/r_j + (j+1)/(r_j+1)) / 2 with 0-based ranks r_j ascending, j/r_j = 1 at r_j = 0.

    Radenovic et al., CVPR 2018; Philbin et al., CVPR 2007.
    """
    r = np.sort(np.asarray(ranks, dtype=np.float64))
    j = np.arange(len(r))
    before = np.where(r == 0, 1.0, j / np.maximum(r, 1))
    return float(((before + (j + 1) / (r + 1)) / 2).sum() / relevant)


def average_precision_at(ranks: ArrayLike, relevant: int, k: int) -> float:
    """Finite-sum AP over the first k: (1/min(n, k)) sum_{r_j < k} (j+1)/(r_j+1) (Weyand et al., CVPR 2020)."""
    r = np.sort(np.asarray(ranks, dtype=np.float64))
    r = r[r < k]
    return float((np.arange(1, len(r) + 1) / (r + 1)).sum() / min(relevant, k))


def average_precision_at_r(ranks: ArrayLike, relevant: int) -> float:
    """Finite-sum AP over as many images as are relevant: (1/n) sum_{r_j < n} (j+1)/(r_j+1) (Musgrave, ECCV 2020)."""
    return average_precision_at(ranks, relevant, k=relevant)


def precision_at(ranks: ArrayLike, k: int, relevant: int | None = None) -> float:
    """Precision over the first k' = min(k, position of the last relevant image) (Radenovic et al., CVPR 2018).

    A relevant image that was not retrieved stands behind all that were: k' = k. relevant=None: all were.
    """
    r = np.asarray(ranks)
    cut = k if len(r) < (len(r) if relevant is None else relevant) else min(k, int(r.max()) + 1)
    return float((r < cut).sum() / cut)


def recall_at(ranks: ArrayLike, relevant: int, k: int) -> float:
    """1 if any of the first k is relevant, else 0 (Jegou et al., TPAMI 2011; Arandjelovic et al., CVPR 2016)."""
    return float((np.asarray(ranks) < k).any())


def precision_over_recall(ranks: ArrayLike, relevant: int) -> Array:
    """Interpolated precision (RECALLS,) at recall 0, 0.01 .. 1: max of (j+1)/(r_j+1) over all j whose recall (j+1)/n is
    at least that; 0 at a recall that is not reached (Manning et al., Introduction to Information Retrieval, 2008,
    section 8.4; at 101 points as in COCO, Lin et al., ECCV 2014)."""
    r = np.sort(np.asarray(ranks, dtype=np.float64))
    best = np.zeros(relevant)
    best[: len(r)] = np.maximum.accumulate((np.arange(1, len(r) + 1) / (r + 1))[::-1])[::-1]
    wanted = -(-np.arange(RECALLS) * relevant // (RECALLS - 1))  # exact: 0.07 * 100 is above 7
    return best[np.maximum(wanted, 1) - 1]


def trapezoid_and_precision(ks: Sequence[int] = (1, 5, 10)) -> dict[str, Measure]:
    """`AP` and `P@k`, the measures of Revisited Oxford and Paris."""
    precisions = {f"P@{k}": lambda ranks, relevant, k=k: precision_at(ranks, k, relevant) for k in ks}
    return {"AP": average_precision, **precisions}


def google_landmarks(k: int = 100) -> dict[str, Measure]:
    """`AP@100`, the measure of Google Landmarks v2's retrieval."""
    return {f"AP@{k}": partial(average_precision_at, k=k)}


def metric_learning(ks: Sequence[int] = (1,)) -> dict[str, Measure]:
    """`recall@k` and `AP@R`, the measures of metric learning."""
    return {**{f"recall@{k}": partial(recall_at, k=k) for k in ks}, "AP@R": average_precision_at_r}


def labelled(ks: Sequence[int] = (1, 5, 10)) -> dict[str, Measure]:
    """All measures of a set with landmarks and no levels."""
    return {**trapezoid_and_precision(ks), **metric_learning(ks)}


def micro_average_precision(confidences: ArrayLike, correct: ArrayLike, queries: int) -> float:
    """(1/M) sum_i P(i) correct_i over all predictions by falling confidence, one at most per photo.

    confidences, correct: (n,), of the predictions that were made. queries: M, the photos that show a landmark, with
    a prediction or without. P(i): the share of the first i that is correct. Predictions of equal confidence stay in
    the order given. Google Landmarks v2's recognition (Weyand et al., CVPR 2020; Perronnin et al., CVPR 2009).
    """
    confidences, correct = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidences.ndim != 1 or confidences.shape != correct.shape:
        raise ValueError(
            f"each prediction needs a confidence and right or wrong, got {confidences.shape}, {correct.shape}"
        )
    if np.isnan(confidences).any():
        raise ValueError(f"confidences must be numbers, got NaN for {np.isnan(confidences).sum()} of {len(correct)}")
    if queries < max(1, correct.sum()):
        raise ValueError(f"queries must be at least 1 and the {correct.sum()} correct predictions, got {queries}")
    right = correct[np.argsort(-confidences, kind="stable")]
    return float((right.cumsum() / np.arange(1, len(right) + 1))[right].sum() / queries)


def ranks_of(scores: ArrayLike, images: ArrayLike) -> Indices:
    """0-based ranks of `images` when one query's scores (N,) are ordered, highest first, ties by index.

    Scores fall into bins by a map that never decreases, so images of higher bins are before and need only be
    counted; exact comparison is left for the images that share a bin with one of `images`.
    """
    scores, images = np.asarray(scores), np.asarray(images, dtype=np.int64)
    if not len(images):
        return images
    wanted = np.unique(scores[images])
    bins = _bins(scores, wanted[0], wanted[-1])
    counts = np.bincount(bins)
    shared = np.zeros(len(counts), dtype=bool)
    shared[bins[images]] = True
    counts[shared] = 0
    above = counts[::-1].cumsum()[::-1]
    near, own = _order(scores, np.flatnonzero(shared[bins]), wanted), _order(scores, images, wanted)
    ordered = np.sort(own)
    before = np.bincount(np.searchsorted(ordered, near, side="right"), minlength=len(own) + 1).cumsum()
    return above[bins[images]] + before[np.searchsorted(ordered, own)]


def _bins(scores: NDArray, low: np.generic, high: np.generic) -> NDArray[np.intp]:
    """A bin (N,) for each score: the higher the score, the higher the bin or the same; [low, high] is spread out."""
    kind = np.result_type(scores, np.float32)
    count = min(BINS, len(scores))
    with np.errstate(over="ignore", invalid="ignore"):
        width = np.subtract(high, low, dtype=kind)
        if not 0 < width < np.inf:
            return np.zeros(len(scores), dtype=np.intp)
        # Rounding never swaps two numbers, so neither does any of these steps. Bin 0 is for what is below `low`.
        place = np.subtract(scores, low, dtype=kind)
        place /= width
        place *= count
        place += 1
    return np.clip(place, 0, count + 2, out=place).astype(np.intp)


def _order(scores: NDArray, images: Indices, wanted: NDArray) -> Indices:
    """Numbers that are ordered as the ranking is between the scores `wanted` (ascending), and by index within one."""
    own = scores[images]
    place = np.searchsorted(wanted, own)
    tied = wanted[np.minimum(place, len(wanted) - 1)] == own
    return (len(wanted) - place) * (len(scores) + 1) + np.where(tied, images, len(scores))


def measured(
    blocks: Iterable[ArrayLike], levels: Mapping[str, tuple[Lists, Lists]], measures: Mapping[str, Measure]
) -> dict[str, Array]:
    """Every measure of every query, (Q,) or, of a curve, (Q, points), as `level/measure`; NaN where a query has no
    relevant image.

    blocks: consecutive rows (c, N) of the scores (Q, N), higher is nearer; an image at -inf was not retrieved.
    levels: relevant and ignored images per query; a level without a name leaves the measures' names alone. Ignored
    images are taken out of the ranking before anything is counted.
    """
    counts = {len(lists) for both in levels.values() for lists in both}
    if len(counts) != 1:
        raise ValueError(f"levels must list the images of the same queries, got lists of {sorted(counts)} queries")
    queries = counts.pop()
    labels = {level: tuple([_indices(images) for images in lists] for lists in both) for level, both in levels.items()}
    points = {name: np.shape(measure(_indices([]), 1)) for name, measure in measures.items()}
    values = {_joined(level, name): np.full((queries, *points[name]), np.nan) for level in labels for name in measures}
    for q, row in enumerate(_rows(blocks, queries)):
        if q == 0:
            _check_labels(labels, len(row))
        images = np.unique(np.concatenate([lists[q] for both in labels.values() for lists in both]))
        ranks = _ranks_or_none(row, images)
        for level, (relevant, ignored) in labels.items():
            wanted, removed = (ranks[np.searchsorted(images, lists[q])] for lists in (relevant, ignored))
            kept = _without(wanted, removed)
            for name, measure in measures.items() if len(wanted) else ():
                values[_joined(level, name)][q] = measure(kept, len(wanted))
    return values


def _indices(images: ArrayLike) -> Indices:
    return np.asarray(images, dtype=np.int64).reshape(-1)


def _joined(level: str, name: str) -> str:
    return f"{level}/{name}" if level else name


def _ranks_or_none(row: NDArray, images: Indices) -> Indices:
    """Ranks of images, -1 of one that was not retrieved."""
    retrieved, ranks = row[images] > -np.inf, np.full(len(images), -1)
    ranks[retrieved] = ranks_of(row, images[retrieved])
    return ranks


def _without(ranks: Indices, removed: Indices) -> Indices:
    """Ranks, ascending, of what was retrieved, once the removed images have left the ranking."""
    kept, removed = np.sort(ranks[ranks >= 0]), np.sort(removed[removed >= 0])
    return kept - np.searchsorted(removed, kept)


def _rows(blocks: Iterable[ArrayLike], queries: int) -> Iterator[NDArray]:
    """The rows of blocks that together are (queries, N) without NaN, or a ValueError that says what is wrong."""
    rule, done, width = f"scores must be (Q, N) with a row for each of the {queries} queries", 0, None
    for block in map(np.asarray, blocks):
        if block.ndim != 2 or done + len(block) > queries:
            got = block.shape if block.ndim != 2 else (done + len(block), block.shape[1])
            raise ValueError(f"{rule}, got {got}")
        if width not in (None, block.shape[1]):
            raise ValueError(f"blocks of scores must be over the same N images, got {width} and {block.shape[1]}")
        if np.isnan(block).any():
            count = np.isnan(block).any(1).sum()
            raise ValueError(f"scores must be numbers, got NaN for {count} of {len(block)} queries")
        yield from block
        done, width = done + len(block), block.shape[1]
    if done != queries:
        raise ValueError(f"{rule}, got {(done, width or 0)}")


def _check_labels(labels: Mapping[str, tuple[list[Indices], ...]], images: int) -> None:
    for relevant, ignored in labels.values():
        for q, both in enumerate(zip(relevant, ignored, strict=True)):
            listed = np.concatenate(both)
            if len(listed) and not (listed.min() >= 0 and listed.max() < images):
                got = f"{listed.min()} to {listed.max()}"
                raise ValueError(f"labels of query {q} must be in 0 to {images - 1}, got {got}")
            if len(np.unique(listed)) < len(listed):
                raise ValueError(f"an image may be relevant or ignored once, query {q} has one twice")


def per_query(scores: ArrayLike, relevant: Lists, ignored: Lists, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Array]:
    """Trapezoid AP and P@k of each query, (Q,) each, from scores (Q, N); see `measured`."""
    return measured([scores], {"": (relevant, ignored)}, trapezoid_and_precision(ks))


def mean_name(name: str) -> str:
    """`medium/mAP` for `medium/AP`, `mP@k` for `P@k`; recall@k keeps its name."""
    level, slash, measure = name.rpartition("/")
    return f"{level}{slash}{'m' if measure.startswith(('AP', 'P@')) else ''}{measure}"


def mean(rows: Mapping[str, Array]) -> dict[str, float]:
    """mAP and mP@k over the queries that have a relevant image; NaN if there is none. Curves are no one value."""
    single = {name: values for name, values in rows.items() if values.ndim == 1}
    return {mean_name(n): float(np.nanmean(v)) if not np.isnan(v).all() else float("nan") for n, v in single.items()}


def mean_curves(rows: Mapping[str, Array]) -> dict[str, Array]:
    """The mean (points,) of each curve (Q, points) over the queries with a relevant image; NaN if there is none."""
    known = {name: values[~np.isnan(values).any(1)] for name, values in rows.items() if values.ndim == 2}
    return {name: values.mean(0) if len(values) else np.full(values.shape[1], np.nan) for name, values in known.items()}


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
    return mean(measured([scores], levels(ground_truth), trapezoid_and_precision(ks)))
