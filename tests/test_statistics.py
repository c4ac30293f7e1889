"""Intervals and tests by landmark: small cases by hand, laws, and what they promise on seeded simulations."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.statistics import difference, interval, macro_mean

NAN = float("nan")


def clustered(rng: np.random.Generator, landmarks: int, queries: int) -> np.ndarray:
    """Values of mean 0, most of whose spread is between landmarks; (landmarks * queries,), a landmark's together."""
    return np.repeat(rng.normal(size=landmarks), queries) + 0.3 * rng.normal(size=landmarks * queries)


@st.composite
def paired(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    queries = draw(st.integers(4, 40))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    landmarks = np.concatenate([[0, 1], rng.integers(0, draw(st.integers(2, 20)), queries - 2)])
    return rng.random(queries), rng.random(queries), landmarks


def test_macro_mean_counts_each_landmark_once() -> None:
    # a: (1 + 0 + 1 + 0) / 4 = 1/2; b: 1
    assert macro_mean([1, 0, 1, 0, 1], list("aaaab")) == pytest.approx(3 / 4)


def test_a_query_without_a_value_is_left_out() -> None:
    assert macro_mean([1, NAN, 0, NAN], list("aabc")) == pytest.approx(1 / 2)
    assert interval([1, NAN, 0, NAN, 1], list("aabca")) == interval([1, 0, 1], list("aba"))
    assert difference([1, NAN, 0], [0, NAN, 0], list("abb")).mean == pytest.approx(1 / 2)


def test_macro_mean_of_no_value_is_none() -> None:
    assert np.isnan(macro_mean([NAN], ["a"]))


def test_seeds_are_averaged_first() -> None:
    seeds = [[1.0, 0.0, 0.5], [0.0, 0.5, 0.5]]
    assert macro_mean(seeds, list("aab")) == macro_mean(np.mean(seeds, axis=0), list("aab"))
    assert interval(seeds, list("aab")) == interval(np.mean(seeds, axis=0), list("aab"))
    assert difference(seeds, [0.5, 0.25, 0.5], list("abc")) == difference([0.5, 0.25, 0.5], seeds, list("abc"))


def test_interval_of_two_landmarks_worked_by_hand() -> None:
    # a: one query of value 0; b: three of value 1. Drawn: aa (a quarter, mean 0), ab (a half, 3/4), bb (a quarter, 1).
    values, landmarks = [0, 1, 1, 1], list("abbb")
    assert interval(values, landmarks, level=0.95) == (0, 1)
    assert interval(values, landmarks, level=0.4) == (0.75, 0.75)
    # The mean of the landmarks' means is 1/2 when both are drawn.
    assert interval(values, landmarks, level=0.4, macro=True) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("sums", "p_value"),
    [
        ([1, 2, 3], 2 / 8),  # 6 and -6 alone are as far as 6
        ([1, -2, 3], 6 / 8),  # observed 2; of 6 0 2 -4 4 -2 0 -6, all but the two zeros
        ([0.1, 0.2, 0.3], 2 / 8),
        ([0.1, 0.2, -0.3], 1),  # observed 0 on paper
    ],
)
def test_few_landmarks_have_an_exact_p_worked_by_hand(sums: list[float], p_value: float) -> None:
    assert difference(sums, np.zeros(3), list("abc")).p_value == p_value


def test_the_signs_of_a_landmark_flip_together() -> None:
    # by landmark: 3 and 1, so 4 -4 alone are as far as 4; by query 2 of 16 would be
    assert difference([1, 1, 1, 1], np.zeros(4), list("aaab")).p_value == 2 / 4
    assert difference([1, 1, 1, 1], np.zeros(4), list("abcd")).p_value == 2 / 16


def test_random_flips_come_near_the_exact_p_and_never_give_zero() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1, 13)
    exact = difference(values, np.zeros(13), range(13), resamples=2**13)
    assert difference(values, np.zeros(13), range(13), resamples=2**13 - 1).p_value == pytest.approx(
        exact.p_value, abs=0.02
    )
    assert difference(np.ones(40), np.zeros(40), range(40), resamples=999).p_value == 1 / 1000


@given(paired(), st.floats(-2, 2))
def test_adding_the_same_to_both_changes_nothing(case: tuple, shift: float) -> None:
    a, b, landmarks = case
    before = difference(a, b, landmarks, resamples=200)
    assert tuple(difference(a + shift, b + shift, landmarks, resamples=200)) == pytest.approx(tuple(before), abs=1e-9)


@given(paired(), st.booleans())
def test_swapping_the_methods_negates_the_difference(case: tuple, macro: bool) -> None:
    a, b, landmarks = case
    there, back = (difference(*both, landmarks, resamples=201, macro=macro) for both in ((a, b), (b, a)))
    expected = (-back.mean, -back.high, -back.low, back.p_value, back.landmarks)
    assert tuple(there) == pytest.approx(expected, abs=1e-12)


@given(paired())
def test_shifting_the_values_shifts_their_interval(case: tuple) -> None:
    a, _, landmarks = case
    before = np.array(interval(a, landmarks, resamples=200))
    assert interval(a + 3, landmarks, resamples=200) == pytest.approx(before + 3)


@given(paired())
def test_a_method_beside_itself_does_not_differ(case: tuple) -> None:
    a, _, landmarks = case
    assert difference(a, a, landmarks, resamples=200) == (0, 0, 0, 1, len(np.unique(landmarks)))


@given(paired(), st.booleans())
def test_the_order_of_the_queries_changes_nothing(case: tuple, macro: bool) -> None:
    a, b, landmarks = case
    turned = difference(a[::-1], b[::-1], landmarks[::-1], resamples=200, macro=macro)
    assert tuple(turned) == pytest.approx(tuple(difference(a, b, landmarks, resamples=200, macro=macro)), abs=1e-12)


def test_one_landmark_that_dominates_widens_the_interval() -> None:
    values = np.concatenate([np.ones(60), np.linspace(0, 0.1, 40)])
    landmarks = np.concatenate([np.zeros(60, dtype=int), 1 + np.arange(40) // 4])
    low, high = interval(values, landmarks)
    by_query = interval(values, np.arange(100))
    assert high - low > 3 * (by_query[1] - by_query[0])


def test_more_resamples_than_one_part_and_many_landmarks_are_drawn_whole() -> None:
    low, high = interval(np.arange(1000) % 2, np.arange(1000), resamples=1050)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.5 / 1000**0.5, 0.5 + 1.96 * 0.5 / 1000**0.5), abs=0.004)


@pytest.mark.parametrize("landmarks", [8, 20])
def test_where_neither_is_better_five_percent_are_called_different(landmarks: int) -> None:
    rng = np.random.default_rng(landmarks)
    names = np.repeat(np.arange(landmarks), 5)
    p_by_landmark, p_by_query = [], []
    for _ in range(500):
        a = clustered(rng, landmarks, 5)
        p_by_landmark.append(difference(a, np.zeros_like(a), names, resamples=300).p_value)
        p_by_query.append(difference(a, np.zeros_like(a), np.arange(len(a)), resamples=300).p_value)
    assert np.mean(np.array(p_by_landmark) <= 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(np.array(p_by_query) <= 0.05) > 0.2  # queries of a landmark are not independent


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    names, covered = np.repeat(np.arange(40), 5), {"landmark": 0, "query": 0}
    for _ in range(400):
        values = clustered(rng, 40, 5)
        for kind, by in (("landmark", names), ("query", np.arange(200))):
            low, high = interval(values, by, level=0.9, resamples=300)
            covered[kind] += low <= 0 <= high
    assert covered["landmark"] / 400 == pytest.approx(0.9, abs=0.05)
    assert covered["query"] / 400 < 0.7


@pytest.mark.parametrize(
    ("a", "b", "landmarks", "message"),
    [
        ([1, 2, 3], [1, 2, 3], list("ab"), r"got \(3,\) and \(2,\)"),
        ([1, 2], [1, 2, 3], list("ab"), r"got \(3,\) and \(2,\)"),
        ([[[1, 2]]], [1, 2], list("ab"), r"got \(1, 1, 2\)"),
        ([1, NAN], [1, 2], list("ab"), "same queries, 1 have a value in one alone"),
        ([[1, NAN], [1, 2]], [1, 2], list("ab"), "same queries, 1 have a value in some alone"),
        ([1, 2], [1, 2], list("aa"), "two landmarks must have a value, got 1"),
        ([1, NAN], [1, NAN], list("ab"), "two landmarks must have a value, got 1"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(a: list, b: list, landmarks: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        difference(a, b, landmarks)


@pytest.mark.parametrize(("options", "message"), [({"level": 95}, "got 95"), ({"resamples": 0}, "got 0")])
def test_settings_without_a_meaning_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval([1, 2], list("ab"), **options)


@pytest.mark.parametrize("judge", [macro_mean, interval])
def test_infinite_values_are_refused(judge: Callable) -> None:
    with pytest.raises(ValueError, match="must be finite, or NaN of a query without one, got 2 infinite"):
        judge([0.5, np.inf, -np.inf], ["a", "b", "c"])


@pytest.mark.parametrize("resamples", [0, 1.5, np.nan])
def test_a_number_of_resamples_that_is_none_is_refused(resamples: float) -> None:
    with pytest.raises(ValueError, match="resamples must be a whole number, at least 1"):
        interval([0.5, 0.4], ["a", "b"], resamples=resamples)  # pyright: ignore[reportArgumentType]
