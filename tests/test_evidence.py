"""What an evaluation keeps for pictures: the first photos of every query, and precision over recall."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_sets import ranking
from test_evaluation import LABELS, off_the_shelf

from retrieval import embedder, extraction, metrics, tops
from retrieval.benchmarks.folder import Folder
from retrieval.benchmarks.revisited import Revisited
from retrieval.tops import MARKS, Tops


@pytest.fixture(scope="module")
def judged(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, dict[str, Any], np.ndarray]:
    """A folder, what judging it left of every query, and the scores (Q, N) that it was judged by."""
    out = tmp_path_factory.mktemp("judged")
    (row,) = off_the_shelf(photos, out, "extract.resolutions=[48]", "pooling=gap")
    benchmark = Folder(str(photos))
    rows = extraction.describe(embedder.load(out), benchmark.gallery, 48)
    with np.load(out / row["per_query"]) as kept:
        return benchmark, dict(kept), rows @ rows.T


def test_the_first_ten_of_every_query_are_those_of_a_sorted_list(judged: tuple) -> None:
    benchmark, kept, scores = judged
    for q, of_query in enumerate(scores):
        expected = ranking(of_query, [q])[: tops.TOP]
        paths = [benchmark.gallery[i].path for i in expected]
        assert list(kept["top_photos"][kept["top"][q]]) == [str(Path(path).resolve()) for path in paths]
        assert kept["top_scores"][q] == pytest.approx(of_query[expected], abs=1e-6)


def test_marks_are_those_of_the_ground_truth(judged: tuple) -> None:
    _, kept, _ = judged
    landmarks = [[Path(kept["top_photos"][i]).parent.name for i in row] for row in kept["top"]]
    right = np.array(landmarks) == kept["landmarks"][:, None]
    assert np.array_equal(kept["top_marks"] == MARKS.index("right"), right)
    assert set(kept["top_marks"][~right]) == {MARKS.index("wrong")}


def test_every_query_is_kept_with_its_photo_and_its_box(judged: tuple) -> None:
    benchmark, kept, _ = judged
    assert list(kept["query_paths"]) == [str(Path(query.path).resolve()) for query in benchmark.queries]
    assert kept["query_boxes"].shape == (20, 4) and np.isnan(kept["query_boxes"]).all()


def test_precision_over_recall_is_that_of_a_sorted_list(judged: tuple) -> None:
    benchmark, kept, scores = judged
    curves = [
        interpolated(ranking(row, [q]), set(relevant))
        for q, (row, relevant) in enumerate(zip(scores, benchmark.relevant, strict=True))
    ]
    assert kept["precision"] == pytest.approx(np.mean(curves, axis=0))


def interpolated(order: list[int], relevant: set[int]) -> list[float]:
    """The best precision at any place of a ranked list where recall is at least 0, 0.01 .. 1, one photo at a time."""
    hits, seen = 0, []
    for place, image in enumerate(order, 1):
        hits += image in relevant
        seen.append((100 * hits, hits / place))
    return [max((p for recall, p in seen if recall >= i * len(relevant)), default=0.0) for i in range(101)]


@given(st.data())
def test_precision_over_recall_of_any_ranking(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    relevant = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    retrieved = data.draw(st.integers(0, n))
    ranks = [i for i in sorted(relevant) if i < retrieved]
    curve = metrics.precision_over_recall(ranks, len(relevant))
    assert curve == pytest.approx(interpolated(list(range(retrieved)), relevant))
    assert (np.diff(curve) <= 0).all()


def test_junk_is_taken_out_before_precision_is_counted() -> None:
    (curve,) = metrics.measured(
        [[[3.0, 2.0, 1.0]]], {"": ([[1]], [[0]])}, {"precision": metrics.precision_over_recall}
    )["precision"]
    assert (curve == 1).all()


def test_a_curve_is_averaged_over_the_queries_that_have_something_to_find() -> None:
    values = metrics.measured(
        [np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 2.0]])],
        {"": ([[0], [0], []], [[], [], []])},
        {"precision": metrics.precision_over_recall},
    )
    assert metrics.mean_curves(values)["precision"] == pytest.approx(np.full(101, 0.75))
    assert metrics.mean(values) == {}


@given(
    arrays(np.float32, st.integers(1, 5000), elements=st.integers(-9, 9).map(float) | st.just(-np.inf)),
    st.integers(1, 12),
)
def test_the_highest_scores_are_those_of_a_stable_sort(scores: np.ndarray, k: int) -> None:
    assert list(tops.highest(scores, k)) == list(np.argsort(-scores, kind="stable")[:k])


def test_blocks_of_any_size_leave_the_same(photos: Path) -> None:
    benchmark, scores = Folder(str(photos)), np.random.default_rng(0).random((20, 20), dtype=np.float32)
    found = [Tops.of(benchmark) for _ in range(2)]
    for noted, size in zip(found, (20, 3), strict=True):
        blocks = [scores[i : i + size] for i in range(0, 20, size)]
        assert np.concatenate(list(noted.watching(blocks, benchmark))).tolist() == scores.tolist()
    assert np.array_equal(found[0].images, found[1].images)


def test_where_fewer_were_retrieved_there_is_no_photo_and_no_mark(photos: Path) -> None:
    names = ["arch/0.jpg", "arch/1.jpg", "dome/0.jpg", "dome/1.jpg"]
    truth = {"imlist": names, "qimlist": ["arch/2.jpg"], "gnd": [{**LABELS, "junk": [2]}]}
    benchmark = Revisited(photos, truth)
    found = Tops.of(benchmark)
    for _ in found.watching([np.array([[0.1, -np.inf, 0.3, 0.2]], dtype=np.float32)], benchmark):
        pass
    kept = tops.arrays(found, benchmark)
    assert found.images[0].tolist() == [2, 3, 0, *[-1] * 7] == [2, 3, 0, *kept["top"][0][3:]]
    assert [MARKS[i] for i in kept["top_marks"][0][:3]] == ["junk", "wrong", "right"]
    assert (kept["top_marks"][0][3:] == -1).all() and np.isnan(kept["top_scores"][0][3:]).all()
    assert kept["query_boxes"].tolist() == [LABELS["bbx"]]


def test_only_photos_found_first_are_named(photos: Path) -> None:
    benchmark = Folder(str(photos))
    found = Tops.of(benchmark)
    scores = np.zeros((20, 20), dtype=np.float32)
    scores[:, :11] = 1
    list(found.watching([scores], benchmark))
    assert len(tops.arrays(found, benchmark)["top_photos"]) == 11


def test_a_score_that_rounding_brings_above_1_is_shown_as_1(photos: Path) -> None:
    benchmark, scores = Folder(str(photos)), np.full((20, 20), np.float32(1) + np.float32(2**-22))
    found = Tops.of(benchmark)
    list(found.watching([scores], benchmark))
    assert (found.scores == 1).all()
