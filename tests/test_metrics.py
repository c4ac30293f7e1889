"""AP and mP@k: worked values, laws, and the naive way of computing them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval import metrics


def naive(scores: np.ndarray, relevant: set[int], ignored: set[int], k: int) -> tuple[float, float]:
    """AP and P@k read off the sorted list, one image at a time."""
    order = [i for i in np.argsort(-scores, kind="stable") if i not in ignored]
    hits, ap, last = 0, 0.0, 0
    for rank, image in enumerate(order):
        if image in relevant:
            before = hits / rank if rank else 1.0
            hits, last = hits + 1, rank + 1
            ap += (before + hits / (rank + 1)) / 2
    cut = min(k, last)
    return ap / len(relevant), sum(image in relevant for image in order[:cut]) / cut


@st.composite
def judged(draw: st.DrawFn) -> tuple[np.ndarray, list[int], list[int]]:
    n = draw(st.integers(2, 30))
    scores = draw(arrays(np.float64, n, elements=st.integers(0, 8).map(float)))  # few values: many ties
    kinds = draw(st.lists(st.sampled_from("rij"), min_size=n, max_size=n).filter(lambda kinds: "r" in kinds))
    return scores, [i for i, x in enumerate(kinds) if x == "r"], [i for i, x in enumerate(kinds) if x == "j"]


@given(judged(), st.integers(1, 12))
def test_counted_ranks_give_what_a_sorted_list_gives(case: tuple, k: int) -> None:
    scores, relevant, ignored = case
    counted = metrics.per_query(scores[None], [relevant], [ignored], ks=[k])
    expected = naive(scores, set(relevant), set(ignored), k)
    assert (counted["AP"][0], counted[f"P@{k}"][0]) == pytest.approx(expected)


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


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_perfect_scores_on_the_real_ground_truth_are_one_and_reversed_ones_are_low(shared: Path, name: str) -> None:
    truth = pickle.loads((shared / "data" / "revisited" / f"gnd_{name}.pkl").read_bytes())
    scores = np.zeros((70, len(truth["imlist"])))
    for row, entry in zip(scores, truth["gnd"], strict=True):
        row[np.concatenate([entry["easy"], entry["hard"]]).astype(int)] = 1
    perfect, worst = metrics.revisited(scores, truth["gnd"]), metrics.revisited(-scores, truth["gnd"])
    assert perfect["medium/mAP"] == 1.0
    assert worst["medium/mAP"] < 0.05
