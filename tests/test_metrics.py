"""Measures of rankings: values worked out by hand, laws, and the naive way of computing them."""

import math
import pickle
from itertools import accumulate, chain, groupby, permutations, product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval import metrics


def listed(scores: np.ndarray, relevant: set[int], ignored: set[int], k: int) -> dict[str, float]:
    """Every measure read off the sorted list of what was retrieved, one image at a time."""
    order = sorted(
        (i for i in range(len(scores)) if scores[i] > -np.inf and i not in ignored), key=lambda i: -scores[i]
    )
    return walked([i in relevant for i in order], len(relevant), k)


def expected(scores: np.ndarray, relevant: set[int], ignored: set[int], k: int) -> dict[str, float]:
    """The mean of `listed` over every order of equal scores."""
    order = sorted(
        (i for i in range(len(scores)) if scores[i] > -np.inf and i not in ignored), key=lambda i: -scores[i]
    )
    groups = [[i in relevant for i in group] for _, group in groupby(order, key=lambda i: scores[i])]
    every_order = [chain.from_iterable(parts) for parts in product(*map(permutations, groups))]
    rows = [walked(list(right), len(relevant), k) for right in every_order]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def walked(right: list[bool], n: int, k: int) -> dict[str, float]:
    """Every measure of a list of right and wrong images, for n relevant ones."""
    precisions = [hits / (i + 1) for i, hits in enumerate(accumulate(right))]
    trapezoid = [(precisions[i - 1] if i else 1.0) / 2 + precisions[i] / 2 for i in range(len(right)) if right[i]]
    cut = min(k, max((i + 1 for i in range(len(right)) if right[i]), default=k)) if sum(right) == n else k
    return {
        "AP": sum(trapezoid) / n,
        f"P@{k}": sum(right[:cut]) / cut,
        f"AP@{k}": sum(p for p, hit in zip(precisions[:k], right, strict=False) if hit) / min(n, k),
        "AP@R": sum(p for p, hit in zip(precisions[:n], right, strict=False) if hit) / n,
        f"recall@{k}": float(any(right[:k])),
    }


def every(k: int) -> dict[str, metrics.Measure]:
    return metrics.trapezoid_and_precision([k]) | metrics.google_landmarks(k) | metrics.metric_learning([k])


@st.composite
def judged(draw: st.DrawFn, most: int = 30) -> tuple[np.ndarray, list[int], list[int]]:
    n = draw(st.integers(2, most))
    scores = draw(arrays(np.float64, n, elements=st.integers(0, 8).map(float)))  # few values: many ties
    kinds = draw(st.lists(st.sampled_from("rij"), min_size=n, max_size=n).filter(lambda kinds: "r" in kinds))
    return scores, [i for i, x in enumerate(kinds) if x == "r"], [i for i, x in enumerate(kinds) if x == "j"]


@given(
    arrays(np.float64, st.integers(2, 6), elements=st.sampled_from([0.0, 0.0, 1.0, -np.inf])),
    st.lists(st.sampled_from("rrij"), min_size=6, max_size=6),
    st.integers(1, 7),
)
def test_equal_scores_give_the_mean_over_all_orders_of_them(scores: np.ndarray, kinds: list[str], k: int) -> None:
    relevant, ignored = ([i for i in range(len(scores)) if kinds[i] == wanted] for wanted in "rj")
    if relevant:
        values = metrics.measured([scores[None]], {"": ([relevant], [ignored])}, every(k))
        means = expected(scores, set(relevant), set(ignored), k)
        assert {name: value[0] for name, value in values.items()} == pytest.approx(means)


@given(
    arrays(np.float64, st.integers(2, 6), elements=st.sampled_from([0.0, 1.0])),
    st.lists(st.booleans(), min_size=6, max_size=6).filter(lambda right: any(right[:2])),
)
def test_a_curve_of_equal_scores_is_the_mean_over_all_orders_of_them(scores: np.ndarray, right: list[bool]) -> None:
    relevant = np.flatnonzero(right[: len(scores)])
    curves = [
        metrics.precision_over_recall(np.flatnonzero(np.isin(order, relevant)), len(relevant))
        for order in permutations(range(len(scores)))
        if (np.diff(scores[list(order)]) <= 0).all()
    ]
    curve = metrics.measured([scores[None]], {"": ([relevant], [[]])}, {"precision": metrics.precision_over_recall})
    assert curve["precision"][0] == pytest.approx(np.mean(curves, axis=0))


def test_a_curve_over_very_many_orders_is_near_the_mean_over_others_and_always_the_same() -> None:
    draw = np.random.default_rng(1)
    orders = [np.sort(draw.choice(200, 20, replace=False)) for _ in range(4000)]
    near = np.mean([metrics.precision_over_recall(ranks, 20) for ranks in orders], axis=0)
    groups = metrics.Groups.of([0] * 20, [200] * 20)
    curve = metrics.precision_over_recall(groups, 20)
    assert curve == pytest.approx(near, abs=0.02)
    assert np.array_equal(curve, metrics.precision_over_recall(metrics.Groups.of([0] * 20, [200] * 20), 20))


@pytest.mark.parametrize(
    ("landmarks", "photos", "trapezoid", "finite_sum"),
    [(28, 25, 3.86, 4.28), (10, 10, 11.03, 12.97), (2, 10, 51.09, 54.82)],
)
def test_a_model_that_sees_all_photos_alike_scores_what_a_random_order_does(
    landmarks: int, photos: int, trapezoid: float, finite_sum: float
) -> None:
    many = landmarks * photos
    relevant = [[i for i in range(q - q % photos, q - q % photos + photos) if i != q] for q in range(many)]
    blocks, levels = [np.zeros((many, many), np.float32)], {"": (relevant, [[q] for q in range(many)])}
    values = metrics.mean(metrics.measured(blocks, levels, metrics.labelled() | metrics.google_landmarks(many)))
    assert round(100 * values["mAP"], 2) == trapezoid
    assert round(100 * values[f"mAP@{many}"], 2) == finite_sum
    assert values["mP@1"] == pytest.approx(values["recall@1"]) == pytest.approx((photos - 1) / (many - 1))


@given(st.data())
def test_scores_without_ties_have_the_values_of_the_plain_formulas_to_the_last_bit(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    ranks = np.array(sorted(data.draw(st.sets(st.integers(0, 99), min_size=n, max_size=n))), dtype=np.int64)
    k, j, relevant = data.draw(st.integers(1, 120)), np.arange(n), n + data.draw(st.integers(0, 3))
    before = np.where(ranks == 0, 1.0, j / np.maximum(ranks, 1))
    within, cut = ranks[ranks < k], min(k, ranks[-1] + 1) if relevant == n else k
    plain = {
        "AP": ((before + (j + 1) / (ranks + 1)) / 2).sum() / relevant,
        f"P@{k}": (ranks < cut).sum() / cut,
        f"AP@{k}": (np.arange(1, len(within) + 1) / (within + 1)).sum() / min(relevant, k),
        f"recall@{k}": float((ranks < k).any()),
    }
    groups = metrics.Groups.of(ranks)
    assert {name: measure(groups, relevant) for name, measure in every(k).items() if name in plain} == plain


finite = st.sampled_from(["float16", "float32", "float64"]).flatmap(
    lambda kind: arrays(
        kind,
        st.integers(2, 40),
        elements=st.floats(width=int(kind[5:]), allow_nan=False, allow_infinity=False) | st.just(float("-inf")),
    )
)


@given(finite, st.randoms(use_true_random=False), st.integers(1, 12))
def test_any_scores_give_what_a_sorted_list_gives(scores: np.ndarray, random: Random, k: int) -> None:
    kinds = [random.choice("rrij") for _ in scores]
    relevant, ignored = ([i for i, kind in enumerate(kinds) if kind == wanted] for wanted in "rj")
    if relevant:
        values = metrics.measured([scores[None]], {"": ([relevant], [ignored])}, every(k))
        scores = np.where(np.isin(np.arange(len(scores)), ignored), -np.inf, scores)
        orders = math.prod(math.factorial(n) for n in np.unique(scores[scores > -np.inf], return_counts=True)[1])
        if orders <= 1000:
            means = expected(scores, set(relevant), set(ignored), k)
            assert {name: value[0] for name, value in values.items()} == pytest.approx(means)


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(3),
        np.array([1.0, 1.0 + 2**-52, 1.0]),
        np.array([-1.7e308, 1.7e308, 0.0]),
        np.array([5e-324, 0.0, 1e-323]),
        np.array([-1.0, 0.0, 1e30], dtype=np.float32),
        np.array([7, 2**62, 2**62 + 1]),
        np.array([0.5, np.inf, 0.5]),
    ],
    ids=["constant", "neighbours", "widest", "denormal", "outlier", "integers", "infinite"],
)
def test_scores_that_no_map_spreads_are_ranked_exactly(scores: np.ndarray) -> None:
    ranks, tied = metrics.ranks_of(scores, [0, 1, 2])
    assert ranks.tolist() == [(scores > one).sum() for one in scores]
    assert tied.tolist() == [(scores == one).sum() for one in scores]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("spread", [2, 300, 2**30])
def test_ranks_among_many_images_are_those_of_a_sort(dtype: type, spread: int) -> None:
    rng = np.random.default_rng(spread)
    scores = (rng.integers(0, spread, 200_000) / spread - 0.5).astype(dtype)
    images = rng.choice(len(scores), 300, replace=False)
    ranks, tied = metrics.ranks_of(scores, images)
    ordered = np.sort(scores.astype(np.float64))
    above = len(scores) - np.searchsorted(ordered, scores[images], side="right")
    assert np.array_equal(ranks, above)
    assert np.array_equal(tied, len(scores) - np.searchsorted(ordered, scores[images], side="left") - above)


@given(st.lists(st.integers(0, 3), max_size=4))
def test_how_the_rows_are_cut_into_blocks_changes_nothing(sizes: list[int]) -> None:
    scores = np.random.default_rng(0).normal(size=(12, 30))
    levels = {"": ([[q, q + 7] for q in range(12)], [[q + 3] for q in range(12)])}
    cuts = np.split(scores, np.minimum(np.cumsum(sizes), 12))
    whole, parts = (metrics.measured(blocks, levels, every(5)) for blocks in ([scores], cuts))
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values)


@given(judged())
def test_any_increasing_map_of_the_scores_gives_the_same_ap(case: tuple) -> None:
    scores, relevant, ignored = case
    before = metrics.per_query(scores[None], [relevant], [ignored])["AP"]
    assert before == pytest.approx(metrics.per_query(np.exp(scores)[None] - 7, [relevant], [ignored])["AP"])


def test_trapezoid_of_relevant_images_at_ranks_0_and_2() -> None:
    # ((1 + 1/1) / 2 + (1/2 + 2/3) / 2) / 2
    assert metrics.average_precision([2, 0], relevant=2) == pytest.approx((1 + 7 / 12) / 2)


def test_relevant_images_that_were_not_retrieved_lower_ap() -> None:
    assert metrics.average_precision([0], relevant=4) == pytest.approx(0.25)


def test_precision_is_cut_at_the_last_relevant_image() -> None:
    assert metrics.precision_at([0, 2], k=10) == pytest.approx(2 / 3)


def test_precision_counts_on_to_k_where_a_relevant_image_was_not_retrieved() -> None:
    assert metrics.precision_at([0], k=5, relevant=2) == pytest.approx(1 / 5)
    assert metrics.precision_at([], k=5, relevant=2) == 0


# The ranking r w r w w r w w w w (r relevant, w wrong), ranks 0, 2, 5; a fourth relevant image stands at rank 11.


def test_trapezoid_worked_by_hand() -> None:
    # (1 + 1) / 2 + (1/2 + 2/3) / 2 + (2/5 + 3/6) / 2 + (3/11 + 4/12) / 2 = 1 + 7/12 + 9/20 + 10/33
    assert metrics.average_precision([0, 2, 5, 11], 4) == pytest.approx((1 + 7 / 12 + 9 / 20 + 10 / 33) / 4)


def test_finite_sum_worked_by_hand() -> None:
    # within the first ten: 1/1 + 2/3 + 3/6, over min(4, 10); within the first three: 1/1 + 2/3, over min(4, 3)
    assert metrics.average_precision_at([0, 2, 5, 11], 4, k=10) == pytest.approx((1 + 2 / 3 + 1 / 2) / 4)
    assert metrics.average_precision_at([0, 2, 5, 11], 4, k=3) == pytest.approx((1 + 2 / 3) / 3)


def test_average_precision_at_r_worked_by_hand() -> None:
    # R = 4: the images at ranks 0 and 2 count, 1/1 + 2/3
    assert metrics.average_precision_at_r([0, 2, 5, 11], 4) == pytest.approx((1 + 2 / 3) / 4)


def test_precision_and_recall_worked_by_hand() -> None:
    assert metrics.precision_at([0, 2, 5, 11], k=5, relevant=4) == pytest.approx(2 / 5)
    assert [metrics.recall_at([2, 5], 2, k) for k in (1, 2, 3)] == [0, 0, 1]


def test_micro_average_precision_worked_by_hand() -> None:
    # by falling confidence: right, wrong, right, wrong; (1/1 + 2/3) over 5 photos that show a landmark
    value = metrics.micro_average_precision([0.2, 0.9, 0.6, 0.7], [False, True, True, False], queries=5)
    assert value == pytest.approx((1 + 2 / 3) / 5)


def test_predictions_of_equal_confidence_stay_in_the_order_given() -> None:
    assert metrics.micro_average_precision([0.5, 0.5], [True, False], queries=1) == 1
    assert metrics.micro_average_precision([0.5, 0.5], [False, True], queries=1) == 1 / 2


def test_predictions_that_are_right_by_chance_give_the_expectation() -> None:
    confidences, chances = [0.9, 0.8, 0.7], [0.5, 1.0, 0.25]
    cases = [
        (
            np.prod(np.where(right, chances, 1 - np.array(chances))),
            metrics.micro_average_precision(confidences, right, 3),
        )
        for right in product([False, True], repeat=3)
    ]
    mean = sum(chance * value for chance, value in cases)
    assert metrics.micro_average_precision(confidences, chances, 3) == pytest.approx(mean)


FORMULAS = {
    "AP": metrics.average_precision,
    "AP@3": lambda ranks, relevant: metrics.average_precision_at(ranks, relevant, 3),
    "AP@R": metrics.average_precision_at_r,
    "P@3": lambda ranks, relevant: metrics.precision_at(ranks, 3, relevant),
    "recall@3": lambda ranks, relevant: metrics.recall_at(ranks, relevant, 3),
    "precision": metrics.precision_over_recall,
    "ties": metrics.ties,
}


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
@pytest.mark.parametrize(
    ("ranks", "relevant", "message"),
    [
        ([np.nan, 1, np.nan], 3, "ranks must be whole numbers from 0, got NaN for 2 of 3"),
        ([0, np.inf], 2, "got inf as one of 2"),
        ([0, -1], 2, "got -1 as one of 2"),
        ([0.5], 1, "got 0.5 as one of 1"),
        ([2, 2], 2, "of one relevant image"),
        ([0, 1], 1, "from 1 and of the 2 ranks, got 1"),
        ([], 0, "from 1 .* got 0"),
        ([0], np.nan, "from 1 .* got nan"),
    ],
)
def test_what_are_no_ranks_is_refused(formula: metrics.Measure, ranks: list, relevant: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        formula(ranks, relevant)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("ranks", "tied", "message"),
    [
        ([0, 0], [1, 1], "of as many as are tied"),
        ([0, 0], [3, 2], "of as many as are tied"),
        ([0, 1], [2, 1], "tied before them"),
        ([0], [1, 1], "each of the 1 ranks"),
        ([0], [0], "tied must be whole numbers from 1"),
        ([0], [np.nan], "tied must be whole numbers from 1, got NaN for 1 of 1"),
    ],
)
def test_ties_that_cannot_be_are_refused(ranks: list, tied: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.Groups.of(ranks, tied)


@pytest.mark.parametrize("k", [0, -1, 1.5, np.nan])
def test_a_number_of_images_that_is_none_is_refused(k: float) -> None:
    for formula in (metrics.average_precision_at, metrics.recall_at):
        with pytest.raises(ValueError, match="k must be a whole number from 1"):
            formula([0], 1, k)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="k must be a whole number from 1"):
        metrics.precision_at([0], k)  # pyright: ignore[reportArgumentType]


def test_ranks_of_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN for 1"):
        metrics.ranks_of([0.5, np.nan], [0])


@pytest.mark.parametrize("labels", [[np.nan], [0.5]])
def test_labels_that_are_no_indices_are_refused(labels: list[float]) -> None:
    with pytest.raises(ValueError, match="labels must be whole numbers"):
        metrics.per_query(np.zeros((1, 3)), [labels], [[]])


def test_no_prediction_at_all_is_worth_nothing() -> None:
    assert metrics.micro_average_precision([], [], queries=3) == 0


@pytest.mark.parametrize(
    ("confidences", "correct", "queries", "message"),
    [
        ([0.5], [True, False], 2, r"got \(1,\), \(2,\)"),
        ([np.nan, 0.5], [True, False], 2, "NaN for 1 of 2"),
        ([0.5, 0.4], [True, True], 1, "the 2 correct predictions, got 1"),
        ([], [], 0, "from 1 .* got 0"),
        ([0.5, 0.4], [0.3, np.nan], 2, "correct must be numbers, got NaN for 1 of 2"),
        ([0.5, 0.4], [0.3, 1.5], 2, "correct must be from 0 to 1, got 0.3 to 1.5"),
        ([0.5], [1.0], np.nan, "from 1 .* got nan"),
    ],
)
def test_predictions_that_cannot_be_judged_are_refused(
    confidences: list[float], correct: list[bool], queries: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.micro_average_precision(confidences, correct, queries)


def test_a_relevant_image_that_was_not_retrieved_counts_and_has_no_rank() -> None:
    # image 2 first, image 0 not retrieved: trapezoid (1 + 1) / 2 over two, and one of the first five
    values = metrics.measured([[[-np.inf, 0.1, 0.2]]], {"": ([[0, 2]], [[]])}, every(5))
    assert values["AP"] == pytest.approx(1 / 2)
    assert values["P@5"] == pytest.approx(1 / 5)


def test_a_query_that_retrieved_nothing_scores_zero() -> None:
    values = metrics.measured([np.full((1, 3), -np.inf)], {"": ([[0, 2]], [[1]])}, every(5))
    assert {name: value[0] for name, value in values.items()} == dict.fromkeys(values, 0)


def test_a_relevant_image_among_equal_ones_worked_by_hand() -> None:
    # first, second or third as probably: (1 + 1/2 + 1/3) / 3; without the ignored image first or second
    values = metrics.measured([[[0.0, 0.0, 0.0]]] * 2, {"": ([[0], [2]], [[], [1]])}, metrics.google_landmarks())
    assert values["AP@100"] == pytest.approx([11 / 18, 3 / 4])


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_the_order_of_equal_images_is_nothing_to_any_value(order: list[int]) -> None:
    scores, place = np.array([[2.0, 1.0, 1.0, 1.0]]), np.argsort(order)
    values = metrics.measured([scores[:, order]], {"": ([place[[0, 2]]], [place[[3]]])}, every(2))
    assert {name: value[0] for name, value in values.items()} == pytest.approx(expected(scores[0], {0, 2}, {3}, 2))


def test_queries_with_a_tie_at_a_relevant_image_are_counted_once_over_all_levels() -> None:
    scores = [[3.0, 2.0, 2.0, 1.0], [3.0, 2.0, 1.0, 1.0], [4.0, 3.0, 2.0, 1.0]]
    levels = {"easy": ([[0], [0], [0]], [[], [], []]), "medium": ([[0, 1], [0, 1], [0, 1]], [[3], [3], [3]])}
    levels["hard"] = ([[1], [1], []], [[2], [0, 3], [0]])
    values = metrics.measured([scores], levels, {"AP": metrics.average_precision, metrics.TIES: metrics.ties})
    assert metrics.tied_queries(values) == 1
    assert values["medium/ties"].tolist() == [1, 0, 0] and values["hard/ties"][0] == 0  # what it tied with is ignored
    assert list(metrics.mean(values)) == ["easy/mAP", "medium/mAP", "hard/mAP"]


def test_a_query_without_a_relevant_image_has_no_value() -> None:
    values = metrics.measured([[[0.0, 1.0]]], {"hard": ([[]], [[0]]), "easy": ([[0]], [[1]])}, every(1))
    assert np.isnan([values[f"hard/{name}"] for name in every(1)]).all()
    assert values["easy/AP"] == 1


def test_means_have_the_names_of_the_field() -> None:
    rows = {name: np.array([0.5, np.nan]) for name in ["medium/AP", "P@5", "AP@100", "easy/AP@R", "recall@1"]}
    assert metrics.mean(rows) == dict.fromkeys(["medium/mAP", "mP@5", "mAP@100", "easy/mAP@R", "recall@1"], 0.5)


def test_the_three_levels_ignore_what_the_protocol_ignores() -> None:
    truth = [{"easy": [0], "hard": [1], "junk": [2]}]
    scores = np.array([[0.7, 0.5, 0.9, 0.8]])  # junk, wrong, easy, hard
    values = metrics.revisited(scores, truth)
    assert values["easy/mAP"] == pytest.approx((0 + 1 / 2) / 2)
    assert values["medium/mAP"] == pytest.approx(((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    assert values["hard/mAP"] == pytest.approx((0 + 1 / 2) / 2)


def test_a_query_without_relevant_images_is_left_out_of_the_mean() -> None:
    truth = [{"easy": [], "hard": [0], "junk": []}, {"easy": [1], "hard": [], "junk": []}]
    assert metrics.revisited(np.array([[1.0, 0.0], [0.0, 1.0]]), truth)["easy/mAP"] == 1.0


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN for 1 of 1"):
        metrics.revisited(np.array([[np.nan, 0.0]]), [{"easy": [1], "hard": [], "junk": []}])


@pytest.mark.parametrize("index", [-1, 2])
def test_labels_outside_the_gallery_are_refused(index: int) -> None:
    with pytest.raises(ValueError, match="labels of query 0 must be in 0 to 1"):
        metrics.revisited(np.zeros((1, 2)), [{"easy": [index], "hard": [], "junk": []}])


def test_scores_with_a_row_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="each of the 2 queries"):
        metrics.revisited(np.zeros((1, 3)), [{"easy": [1], "hard": [], "junk": []}] * 2)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([np.zeros((1, 4))], r"each of the 2 queries, got \(1, 4\)"),
        ([np.zeros((2, 4)), np.zeros((1, 4))], r"each of the 2 queries, got \(3, 4\)"),
        (np.zeros((2, 4)), r"each of the 2 queries, got \(4,\)"),
        ([np.zeros((1, 4)), np.zeros((1, 5))], "same N images, got 4 and 5"),
        ([np.zeros((1, 4)), np.full((1, 4), np.nan)], "NaN for 1 of 1"),
    ],
)
def test_blocks_that_are_no_score_matrix_are_refused(blocks: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.measured(blocks, {"": ([[0], [1]], [[], []])}, every(1))


def test_levels_of_different_queries_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lists of \[1, 2\] queries"):
        metrics.measured([np.zeros((1, 3))], {"": ([[0]], [[], []])}, every(1))


def test_an_image_that_is_relevant_and_ignored_is_refused() -> None:
    with pytest.raises(ValueError, match="query 0 has one twice"):
        metrics.per_query(np.zeros((1, 3)), [[0, 1]], [[1]])


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_seeded_scores_on_the_real_ground_truth_are_judged_as_the_sorted_lists_are(shared: Path, name: str) -> None:
    truth = pickle.loads((shared / "data" / "revisited" / f"gnd_{name}.pkl").read_bytes())
    scores = np.random.default_rng(0).normal(size=(70, len(truth["imlist"])))  # in float32 some would be equal
    for row, entry in zip(scores, truth["gnd"], strict=True):
        row[np.concatenate([entry["easy"], entry["hard"]]).astype(int)] += 1
    for level, (relevant, ignored) in metrics.levels(truth["gnd"]).items():
        values = metrics.measured([scores], {level: (relevant, ignored)}, every(10))
        for q in np.flatnonzero([len(images) for images in relevant]):
            slow = listed(scores[q], set(relevant[q]), set(ignored[q]), 10)
            got = {measure: values[f"{level}/{measure}"][q] for measure in slow}
            assert got == pytest.approx(slow, abs=1e-9, rel=0)


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_perfect_scores_on_the_real_ground_truth_are_one_and_reversed_ones_are_low(shared: Path, name: str) -> None:
    truth = pickle.loads((shared / "data" / "revisited" / f"gnd_{name}.pkl").read_bytes())
    scores = np.zeros((70, len(truth["imlist"])))
    for row, entry in zip(scores, truth["gnd"], strict=True):
        row[np.concatenate([entry["easy"], entry["hard"]]).astype(int)] = 1
    perfect, worst = metrics.revisited(scores, truth["gnd"]), metrics.revisited(-scores, truth["gnd"])
    assert perfect["medium/mAP"] == 1.0
    assert worst["medium/mAP"] < 0.05
