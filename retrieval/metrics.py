"""Rankings judged per query: average precision and its kin; NumPy only.

Q queries, N images. A database is never sorted: the rank of an image is the number of images that score higher, and
only labelled images have theirs counted. Ignored images are taken out first.

Every formula takes the 0-based ranks of the relevant images that were retrieved and n (`relevant`), how many relevant
images there are. Images of equal scores have one rank, the lowest of their places: `Groups.of(ranks, tied)` stands in
place of the ranks, and the value is the expectation over random orders of them. Raises ValueError for what are no
ranks, such as NaN.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import chain, combinations, product
from math import comb, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Lists = Sequence[ArrayLike]  # image indices per query
BINS = 2**16
RECALLS = 101  # points of a curve over recall: 0, 0.01 .. 1
ORDERS = 1000  # of equal scores, that a curve is the mean over
TIES = "ties"


@dataclass(frozen=True)
class Groups:
    """The relevant images that were retrieved, by score, highest first, (G,) each: how many images have a higher score
    (`above`), how many have that score (`size`), and how many of these are relevant (`right`). found: their sum."""

    above: Indices
    size: Indices
    right: Indices
    found: int

    @classmethod
    def of(cls, ranks: ArrayLike, tied: ArrayLike | None = None) -> "Groups":
        """ranks (m,): how many images have a higher score than each relevant one. tied (m,): how many have the same
        one, itself included; without it each has a score of its own."""
        r = _whole("ranks", ranks, 0)
        sizes = np.ones_like(r) if tied is None else _whole("tied", tied, 1)
        if r.shape != sizes.shape:
            raise ValueError(f"tied must say of each of the {len(r)} ranks how many have it, got {len(sizes)}")
        order = np.argsort(r, kind="stable")
        made = cls._grouped(r[order], sizes[order])
        if (sizes[order] != np.repeat(made.size, made.right)).any() or (made.right > made.size).any():
            raise ValueError("a rank must be of one relevant image, or of as many as are tied, got it more often")
        if (np.diff(made.above) < made.size[:-1]).any():
            raise ValueError("ranks must be those of other images than are tied before them, got them again")
        return made

    @classmethod
    def _grouped(cls, ranks: Indices, tied: Indices) -> "Groups":
        # ascending, and known to be right
        if not len(tied) or (tied.max() == 1 and (len(ranks) < 2 or np.diff(ranks).all())):
            return cls(ranks, tied, tied, len(ranks))
        first = np.flatnonzero(np.diff(ranks, prepend=-1))
        return cls(ranks[first], tied[first], np.diff(first, append=len(ranks)), len(ranks))

    @cached_property
    def distinct(self) -> bool:
        return len(self.size) == 0 or bool(self.size.max() == 1)

    @cached_property
    def places(self) -> tuple[Array, Array | float, Array]:
        """Where a relevant image may stand: the places (P,), how probably one stands there, and how many relevant ones
        are then before it on average.

        In a group of n images, r of them relevant, that starts after R relevant ones, the place j = 0 .. n-1 is of a
        relevant image with the probability r/n, and then R + j (r-1)/(n-1) relevant ones are before it.
        """
        if self.distinct:
            return self.above.astype(np.float64), 1.0, np.arange(self.found, dtype=np.float64)
        which = np.repeat(np.arange(len(self.size)), self.size)
        j = np.arange(len(which)) - (self.size.cumsum() - self.size)[which]
        among = ((self.right - 1) / np.maximum(self.size - 1, 1))[which]
        before = (self.right.cumsum() - self.right)[which] + j * among
        return (self.above[which] + j).astype(np.float64), (self.right / self.size)[which], before


Ranks = ArrayLike | Groups
Measure = Callable[[Groups, int], float | Array]  # an array where it is a curve


def average_precision(ranks: Ranks, relevant: int) -> float:
    """Trapezoid AP: (1/n) sum_j (j/r_j + (j+1)/(r_j+1)) / 2 with 0-based ranks r_j ascending, j/r_j = 1 at r_j = 0.

    Radenovic et al., CVPR 2018; Philbin et al., CVPR 2007.
    """
    r, share, j = _groups(ranks, relevant).places
    before = np.where(r == 0, 1.0, j / np.maximum(r, 1))
    return float((share * ((before + (j + 1) / (r + 1)) / 2)).sum() / relevant)


def average_precision_at(ranks: Ranks, relevant: int, k: int) -> float:
    """Finite-sum AP over the first k: (1/min(n, k)) sum_{r_j < k} (j+1)/(r_j+1) (Weyand et al., CVPR 2020)."""
    _check_k(k)
    r, share, j = _groups(ranks, relevant).places
    return float((share * (j + 1) / (r + 1))[r < k].sum() / min(relevant, k))


def average_precision_at_r(ranks: Ranks, relevant: int) -> float:
    """Finite-sum AP over as many images as are relevant: (1/n) sum_{r_j < n} (j+1)/(r_j+1) (Musgrave, ECCV 2020)."""
    return average_precision_at(_groups(ranks, relevant), relevant, k=relevant)


def precision_at(ranks: Ranks, k: int, relevant: int | None = None) -> float:
    """Precision over the first k' = min(k, position of the last relevant image) (Radenovic et al., CVPR 2018).

    A relevant image that was not retrieved stands behind all that were: k' = k. relevant=None: all were.
    """
    _check_k(k)
    groups = _groups(ranks, relevant)
    within = np.clip(k - groups.above, 0, groups.size)  # places of each group among the first k
    hits = float((groups.right * (within / groups.size)).sum())
    if relevant not in (None, groups.found):
        return hits / k
    # The last group may end within the first k: its last relevant image is its j-th with the probability
    # C(j-1, r-1) / C(n, r), and then all are among the first above + j.
    start, n, r = int(groups.above[-1]), int(groups.size[-1]), int(groups.right[-1])
    chances = {j: comb(j - 1, r - 1) / comb(n, r) for j in range(r, int(within[-1]) + 1)}
    ended = 1.0 if within[-1] == n else sum(chances.values())
    full = sum(chance * groups.found / (start + j) for j, chance in chances.items())
    return full + (hits - ended * groups.found) / k


def recall_at(ranks: Ranks, relevant: int, k: int) -> float:
    """1 if any of the first k is relevant, else 0 (Jegou et al., TPAMI 2011; Arandjelovic et al., CVPR 2016)."""
    _check_k(k)
    groups = _groups(ranks, relevant)
    if not groups.found or groups.above[0] >= k:
        return 0.0
    n, wrong, places = int(groups.size[0]), int(groups.size[0] - groups.right[0]), int(k - groups.above[0])
    return 1.0 - prod((wrong - i) / (n - i) for i in range(min(places, n, wrong + 1)))


def precision_over_recall(ranks: Ranks, relevant: int) -> Array:
    """Interpolated precision (RECALLS,) at recall 0, 0.01 .. 1: max of (j+1)/(r_j+1) over all j whose recall (j+1)/n is
    at least that; 0 at a recall that is not reached (Manning et al., Introduction to Information Retrieval, 2008,
    section 8.4; at 101 points as in COCO, Lin et al., ECCV 2014).

    A maximum has no simple expectation. Where equal scores have more than ORDERS orders, it is the mean over so many
    drawn with a fixed seed: a standard error of at most 0.016.
    """
    orders = _orders(_groups(ranks, relevant))
    precision = np.arange(1, orders.shape[1] + 1) / (orders + 1)
    best = np.zeros(relevant)
    best[: orders.shape[1]] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1].mean(0)
    wanted = -(-np.arange(RECALLS) * relevant // (RECALLS - 1))  # exact: 0.07 * 100 is above 7
    return best[np.maximum(wanted, 1) - 1]


def ties(ranks: Ranks, relevant: int) -> float:
    """1 if a relevant image has the score of another image, else 0."""
    return float(not _groups(ranks, relevant).distinct)


def _groups(ranks: Ranks, relevant: int | None = None) -> Groups:
    groups = ranks if isinstance(ranks, Groups) else Groups.of(ranks)
    n = groups.found if relevant is None else relevant
    if not isinstance(n, int | np.integer) or n < max(1, groups.found):
        raise ValueError(f"relevant must be a whole number from 1 and of the {groups.found} ranks, got {n!r}")
    return groups


def _orders(groups: Groups) -> Indices:
    """Ranks (orders, m) of the relevant images, ascending, in every order of equal scores, or in ORDERS of them."""
    if groups.distinct:
        return groups.above[None]
    parts = (groups.above, groups.size, groups.right)
    numbers = [(int(above), int(size), int(right)) for above, size, right in zip(*parts, strict=True)]
    if prod(comb(size, right) for _, size, right in numbers) <= ORDERS:
        every = product(*(combinations(range(above, above + size), right) for above, size, right in numbers))
        return np.array([[*chain.from_iterable(order)] for order in every])
    return np.hstack([above + _drawn(g, size, right) for g, (above, size, right) in enumerate(numbers)])


@lru_cache(16)  # the queries of a model that sees all images alike have the same groups
def _drawn(group: int, size: int, right: int) -> Indices:
    """Places (ORDERS, right), ascending, of so many out of `size`; the same ones whenever it is asked for."""
    rng = np.random.default_rng((group, size, right))
    if size > 100:
        return np.sort([rng.choice(size, right, replace=False) for _ in range(ORDERS)], axis=1)
    return np.sort(rng.random((ORDERS, size)).argsort(axis=1)[:, :right], axis=1)


def _whole(name: str, values: ArrayLike, least: int) -> Indices:
    """Whole numbers (m,) of at least `least`; ValueError for others."""
    given = np.asarray(values).reshape(-1)
    if given.dtype.kind not in "iu":
        given = given.astype(np.float64)
        if not (whole := np.isfinite(given) & (np.floor(given) == given)).all():
            what = f"NaN for {np.isnan(given).sum()}" if np.isnan(given).any() else f"{given[~whole][0]} as one"
            raise ValueError(f"{name} must be whole numbers from {least}, got {what} of {len(given)}")
    if len(given) and given.min() < least:
        raise ValueError(f"{name} must be whole numbers from {least}, got {given.min():g} as one of {len(given)}")
    return given.astype(np.int64, copy=False)


def _check_k(k: int) -> None:
    if not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number from 1, got {k!r}")


def trapezoid_and_precision(ks: Sequence[int] = (1, 5, 10)) -> dict[str, Measure]:
    """`AP` and `P@k`, the measures of Revisited Oxford and Paris."""
    return {"AP": average_precision, **{f"P@{k}": _precision(k) for k in ks}}


def _precision(k: int) -> Measure:
    return lambda ranks, relevant: precision_at(ranks, k, relevant)


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

    confidences, correct: (n,), of the predictions that were made; correct is true or false, or how probably it is, and
    the value is then the expectation. queries: M, the photos that show a landmark, with a prediction or without. P(i):
    the share of the first i that is correct. Google Landmarks v2's recognition (Weyand et al., CVPR 2020; Perronnin et
    al., CVPR 2009), which fixes the order of equal confidences, by the photos' ids: they stay in the order given.
    """
    confidences, correct = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if confidences.ndim != 1 or confidences.shape != correct.shape:
        raise ValueError(
            f"each prediction needs a confidence and right or wrong, got {confidences.shape}, {correct.shape}"
        )
    for name, values in (("confidences", confidences), ("correct", correct)):
        if np.isnan(values).any():
            raise ValueError(f"{name} must be numbers, got NaN for {np.isnan(values).sum()} of {len(values)}")
    if len(correct) and not (correct.min() >= 0 and correct.max() <= 1):
        raise ValueError(f"correct must be from 0 to 1, got {correct.min():g} to {correct.max():g}")
    if not isinstance(queries, int | np.integer) or queries < max(1, np.count_nonzero(correct)):
        raise ValueError(
            f"queries must be a whole number from 1 and of the {np.count_nonzero(correct)} correct predictions, "
            f"got {queries!r}"
        )
    right = correct[np.argsort(-confidences, kind="stable")]
    precision = (right.cumsum() - right + 1) / np.arange(1, len(right) + 1)  # where it is correct
    return float((right * precision)[right > 0].sum() / queries)


def ranks_of(scores: ArrayLike, images: ArrayLike) -> tuple[Indices, Indices]:
    """Of each of `images`, how many of one query's scores (N,) are higher, which is its 0-based rank, and how many are
    equal, its own included.

    Scores fall into bins by a map that never decreases, so images of higher bins are before and need only be
    counted; exact comparison is left for the images that share a bin with one of `images`.
    """
    scores, images = np.asarray(scores), _whole("images", images, 0)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise ValueError(f"scores must be numbers (N,), got {scores.shape} with NaN for {np.isnan(scores).sum()}")
    return _counted(scores, images)


def _counted(scores: NDArray, images: Indices) -> tuple[Indices, Indices]:
    if not len(images):
        return images, images
    own = scores[images]
    # NumPy 2.4 sorts float16 wrongly on some CPUs
    wanted = np.unique(own.astype(np.float32) if own.dtype == np.float16 else own)
    bins = _bins(scores, wanted[0], wanted[-1])
    counts = np.bincount(bins)
    shared = np.zeros(len(counts), dtype=bool)
    shared[bins[images]] = True
    counts[shared] = 0
    above = counts[::-1].cumsum()[::-1]
    near = scores[shared[bins]]
    # of the scores near by, at least as high as, and higher than each wanted one
    least, higher = (
        len(near) - np.bincount(np.searchsorted(wanted, near, side=side), minlength=len(wanted) + 1).cumsum()
        for side in ("right", "left")
    )
    at = np.searchsorted(wanted, own)
    return above[bins[images]] + higher[at], (least - higher)[at]


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
    points = {name: np.shape(measure(Groups.of([]), 1)) for name, measure in measures.items()}
    values = {_joined(level, name): np.full((queries, *points[name]), np.nan) for level in labels for name in measures}
    for q, row in enumerate(_rows(blocks, queries)):
        if q == 0:
            _check_labels(labels, len(row))
        images = np.unique(np.concatenate([lists[q] for both in labels.values() for lists in both]))
        ranks, tied = _ranks_or_none(row, images)
        for level, (relevant, ignored) in labels.items():
            wanted, removed = (np.searchsorted(images, lists[q]) for lists in (relevant, ignored))
            kept = _without(ranks[wanted], tied[wanted], ranks[removed])
            for name, measure in measures.items() if len(wanted) else ():
                values[_joined(level, name)][q] = measure(kept, len(wanted))
    return values


def _indices(images: ArrayLike) -> Indices:
    return _whole("labels", images, -(2**62))  # one below 0 is named by its query


def _joined(level: str, name: str) -> str:
    return f"{level}/{name}" if level else name


def _ranks_or_none(row: NDArray, images: Indices) -> tuple[Indices, Indices]:
    """Ranks of images, and how many share each; -1 of one that was not retrieved."""
    retrieved, ranks, tied = row[images] > -np.inf, np.full(len(images), -1), np.full(len(images), -1)
    ranks[retrieved], tied[retrieved] = _counted(row, images[retrieved])
    return ranks, tied


def _without(ranks: Indices, tied: Indices, removed: Indices) -> Groups:
    """What was retrieved, by its ranks and how many share each, once the images of ranks `removed` are taken out."""
    order, removed = np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0) :], np.sort(removed[removed >= 0])
    ranks, tied = ranks[order], tied[order]
    before, until = (np.searchsorted(removed, ranks, side=side) for side in ("left", "right"))
    return Groups._grouped(ranks - before, tied - (until - before))


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
    """mAP and mP@k over the queries that have a relevant image; NaN if there is none. Curves are no one value, and
    `ties` none of the model's."""
    single = {name: values for name, values in rows.items() if values.ndim == 1 and not _of_ties(name)}
    return {mean_name(n): float(np.nanmean(v)) if not np.isnan(v).all() else float("nan") for n, v in single.items()}


def tied_queries(rows: Mapping[str, Array]) -> int:
    """Of how many queries a relevant image has the score of another one, at any level: the sum of `ties`."""
    each = [values for name, values in rows.items() if _of_ties(name)]
    return int(np.any(np.nan_to_num(each), axis=0).sum()) if each else 0


def _of_ties(name: str) -> bool:
    return name.rpartition("/")[2] == TIES


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
