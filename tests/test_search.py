"""Exact search is NumPy's; approximate search is near it; an index is opened for what it was made of."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval import metrics, search
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.descriptors import BLOCK, Descriptors
from retrieval.errors import InputError
from retrieval.search import Exact, Faiss, exhaustive, recall, top
from retrieval.search.alike import Alike


def unit(count: int, dim: int = 16, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


GALLERY, QUERIES = unit(600), unit(7, seed=1)
HELD = Descriptors([GALLERY])


def matrix(by: search.Search, gallery: Descriptors = HELD) -> NDArray[np.float32]:
    return np.concatenate(list(by.scores(QUERIES, gallery)))


def ranked(scores: NDArray, k: int) -> NDArray:
    """Slow and plain: indices of the k highest, ties by index."""
    return np.array([sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in scores])


@pytest.fixture
def shards(tmp_path: Path) -> Descriptors:
    np.save(tmp_path / "0.npy", GALLERY[::-1][:250])
    np.save(tmp_path / "1.npy", GALLERY[::-1][250:])
    return Descriptors([tmp_path / "0.npy", tmp_path / "1.npy"], np.arange(600)[::-1])


@pytest.mark.parametrize("name", ["exact", "faiss"])
def test_every_yaml_builds(name: str) -> None:
    assert build(load_yaml(CONFIGS / "search" / f"{name}.yaml")).label


def test_exact_scores_are_numpys() -> None:
    np.testing.assert_allclose(matrix(Exact()), QUERIES @ GALLERY.T, atol=1e-6)


def test_exact_scores_come_in_blocks_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "BUDGET", 4 * 600 * 3)
    assert [len(block) for block in Exact().scores(QUERIES, HELD)] == [3, 3, 1]
    np.testing.assert_allclose(matrix(Exact()), QUERIES @ GALLERY.T, atol=1e-6)


def test_full_precision_is_used_and_the_setting_of_the_process_left_alone() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_allclose(matrix(Exact()), QUERIES @ GALLERY.T, atol=1e-6)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("k", [1, 20, 600, 5000])
def test_exact_neighbours_are_those_of_a_full_sort(k: int) -> None:
    scores, found = Exact().nearest(QUERIES, HELD, k)
    assert np.array_equal(found, ranked(QUERIES @ GALLERY.T, k))
    np.testing.assert_allclose(scores, np.take_along_axis(QUERIES @ GALLERY.T, found, 1), atol=1e-6)


def test_neighbours_are_merged_over_blocks_of_queries_and_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "BUDGET", 4 * 3 * BLOCK)
    blocks = Descriptors.blocks
    monkeypatch.setattr(Descriptors, "blocks", lambda self: blocks(self, 37))
    assert np.array_equal(Exact().nearest(QUERIES, HELD, 50)[1], ranked(QUERIES @ GALLERY.T, 50))


@given(
    rows=st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=9, max_size=9), min_size=1, max_size=4),
    k=st.integers(1, 12),
)
def test_of_equal_scores_the_lower_position_comes_first(rows: list[list[float]], k: int) -> None:
    values, at = top(torch.tensor(rows), k)
    assert np.array_equal(at.numpy(), ranked(np.array(rows), k))
    assert np.array_equal(values.numpy(), np.take_along_axis(np.array(rows), at.numpy(), 1))


@given(order=st.permutations(range(12)), size=st.integers(1, 13), k=st.integers(1, 12))
def test_equal_images_come_by_index_however_they_are_stored(order: list[int], size: int, k: int) -> None:
    halves = np.array([[0.5, -0.5, 0.5], [0, 1, 0], [0.5, 0.5, -0.5]], dtype=np.float32)  # products without rounding
    alike = Descriptors([np.repeat(halves, 4, axis=0)[np.argsort(order)]], order)
    blocks = Descriptors.blocks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Descriptors, "blocks", lambda self: blocks(self, size))
        found = Exact().nearest(halves, alike, k)[1]
    assert np.array_equal(found, ranked((halves @ halves.T).repeat(4, axis=1), k))


@pytest.mark.parametrize("by", [Exact(), Faiss("Flat", 600), Faiss("SQ8", 600)], ids=lambda by: by.label)
@pytest.mark.parametrize("queries", [1, 2, 5])
def test_equal_descriptors_have_equal_scores_wherever_they_lie(by: search.Search, queries: int, tmp_path: Path) -> None:
    same, rows = unit(2, 512, 3), unit(333, 512, 2)
    copies = np.arange(0, 333, 2), np.arange(1, 333, 4)  # a product has its own way with the last few
    for one, places in zip(same, copies, strict=True):
        rows[places] = one
    np.save(tmp_path / "0.npy", rows[:100])
    np.save(tmp_path / "1.npy", rows[100:])
    gallery = Descriptors([tmp_path / "0.npy", tmp_path / "1.npy"])
    (scores,) = by.scores(unit(queries, 512, 4), gallery)
    for places in copies:
        assert (scores[:, places] == scores[:, places[:1]]).all()
    assert all(len(np.unique(row)) > 80 for row in scores)  # and others are told apart


def test_equal_descriptors_have_equal_scores_after_a_whitening() -> None:
    weights = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)
    alike = Descriptors([np.repeat(unit(1), 10, axis=0)]).mapped(lambda rows: rows @ weights, 16)
    (scores,) = Exact().scores(QUERIES, alike)
    assert (scores == scores[:, :1]).all()


def test_only_what_was_retrieved_gets_the_score_of_its_like() -> None:
    alike = Alike.of(Descriptors([np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)]))
    scores = np.array([[0.5, 0.9, -np.inf, 0.6]], np.float32)
    assert alike.given_equal(scores).tolist() == [[pytest.approx(0.6), pytest.approx(0.9), -np.inf, pytest.approx(0.6)]]


def test_rows_that_are_alike_in_a_few_numbers_only_are_not_alike() -> None:
    rows = np.zeros((4, 9), np.float32)
    rows[1, 4], rows[2, 3], rows[3, 3] = 1, 2, 2
    assert Alike.of(Descriptors([rows])).rows.tolist() == [2, 3]


@pytest.mark.parametrize("by", [Exact(), Faiss("Flat", 600), Faiss("IVF8,Flat", 600, nprobe=4)])
def test_shards_are_searched_as_one_array_is(by: search.Search, shards: Descriptors) -> None:
    np.testing.assert_allclose(matrix(by, shards), matrix(by), atol=1e-6)


def test_the_helper_for_arrays_is_the_exact_search() -> None:
    assert np.array_equal(search.exact(GALLERY, QUERIES, 5)[1], ranked(QUERIES @ GALLERY.T, 5))


def test_a_flat_index_is_the_exact_search() -> None:
    np.testing.assert_allclose(matrix(Faiss("Flat", 600)), matrix(Exact()), atol=1e-6)


def test_what_is_not_retrieved_has_no_score() -> None:
    scores, exact = matrix(Faiss("Flat", 10)), matrix(Exact())
    assert (np.isfinite(scores).sum(1) == 10).all()
    np.testing.assert_allclose(scores[np.isfinite(scores)], exact[np.isfinite(scores)], atol=1e-6)


@given(
    st.integers(1, 8), st.lists(st.lists(st.sets(st.integers(0, 19), max_size=6), min_size=3, max_size=3), max_size=3)
)
def test_the_neighbours_are_found_beside_what_each_level_ignores(k: int, levels: list[list[set[int]]]) -> None:
    gallery, ignored = (
        Descriptors([GALLERY[:20]]),
        [[np.array(sorted(each), dtype=np.int64) for each in level] for level in levels],
    )
    (scores,) = Faiss("Flat", k).scores(QUERIES[:3], gallery, ignored)
    for q, order in enumerate(ranked(QUERIES[:3] @ GALLERY[:20].T, 20)):
        ends = [[i for i in order if i not in level[q]][:k][-1] for level in levels] or [order[k - 1]]
        last = max(list(order).index(end) for end in ends)
        assert set(np.flatnonzero(scores[q] > -np.inf)) == set(order[: last + 1])


def test_one_neighbour_is_another_photo_than_the_query() -> None:
    photos, relevant = np.repeat(GALLERY[:5], 4, axis=0) + 0.1 * unit(20, seed=5), []
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    relevant = [np.array([i for i in range(q - q % 4, q - q % 4 + 4) if i != q]) for q in range(20)]
    itself = [np.array([q]) for q in range(20)]
    measures = metrics.trapezoid_and_precision([1]) | metrics.metric_learning([1])
    exact, near = (
        metrics.measured(by.scores(photos, Descriptors([photos]), [itself]), {"": (relevant, itself)}, measures)
        for by in (Exact(), Faiss("Flat", 1))
    )
    assert exact["P@1"].mean() > 0.5
    assert np.array_equal(near["P@1"], exact["P@1"]) and np.array_equal(near["recall@1"], exact["recall@1"])


def test_recall_of_a_search_leaves_out_what_is_ignored() -> None:
    itself = [np.array([q]) for q in range(600)]
    poor = Faiss("IVF64,Flat", 1, nprobe=1)
    alone = poor.recall(GALLERY, HELD, itself)["recall@1"]
    found, wanted = poor.nearest(GALLERY, HELD, 2)[1], ranked(GALLERY @ GALLERY.T, 2)
    expected = [[*f[f != q], -1][0] == w[w != q][0] for q, (f, w) in enumerate(zip(found, wanted, strict=True))]
    assert poor.recall(GALLERY, HELD)["recall@1"] > 0.95 > alone == pytest.approx(np.mean(expected))


def test_images_that_are_not_there_are_no_part_of_recall() -> None:
    assert recall(np.array([[3, -1]]), np.array([[3, -1]]))["recall@10"] == 1


def test_neighbours_that_an_inverted_file_lacks_are_marked_at_the_end() -> None:
    scores, found = Faiss("IVF8,Flat", 600, nprobe=1).nearest(QUERIES, HELD, 600)
    assert (found[:, -1] == -1).all() and np.array_equal(found == -1, np.isneginf(scores))


@pytest.mark.parametrize(
    ("by", "least"),
    [
        (Faiss("Flat"), 1.0),
        (Faiss("HNSW32"), 0.99),
        (Faiss("SQ8"), 0.9),
        (Faiss("IVF8,Flat", nprobe=8), 1.0),
        (Faiss("IVF8,Flat", nprobe=1), 0.1),
        (Faiss("IVF8,PQ8"), 0.3),
        (Faiss("OPQ8,PQ8"), 0.3),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_recall_against_exact_search(by: Faiss, least: float) -> None:
    assert all(least <= share <= 1 for share in by.recall(QUERIES, HELD).values())


def test_looking_into_more_clusters_loses_less() -> None:
    few, many = (Faiss("IVF16,Flat", nprobe=n).recall(QUERIES, HELD)["recall@100"] for n in (1, 8))
    assert few < many < 1


def test_codes_numbered_plainly_give_the_same_neighbours() -> None:
    given = faiss.index_factory(16, "PQ2x4", faiss.METRIC_INNER_PRODUCT)
    given.train(GALLERY)
    given.add(GALLERY)
    assert np.array_equal(Faiss("PQ2x4").nearest(QUERIES, HELD, 1)[0], given.search(QUERIES, 1)[0])


def test_a_graph_is_searched_as_far_as_neighbours_are_asked_for() -> None:
    few, many = (Faiss("HNSW4", n).nearest(QUERIES, HELD, 20)[1] for n in (20, 600))
    exact = Exact().nearest(QUERIES, HELD, 20)[1]
    assert recall(few, exact)["recall@10"] < recall(many, exact)["recall@10"] == 1


def test_recall_counts_which_of_the_nearest_are_found() -> None:
    found, wanted = np.array([[4, 1, 2], [7, -1, -1]]), np.array([[4, 2, 9], [8, 7, 6]])
    assert recall(found, wanted) == {"recall@1": 0.5, "recall@10": 0.5, "recall@100": 0.5}


def test_labels_say_what_decides_the_numbers() -> None:
    assert Exact().label == "exact"
    assert Faiss("IVF1024,PQ32", nprobe=4).label == "IVF1024,PQ32 nprobe=4 neighbours=1000"
    assert Faiss("HNSW32", 50).label == "HNSW32 neighbours=50"


@pytest.mark.parametrize("factory", ["Foo", "PQ7", "LSH", "IVF8,PQ5"])
def test_a_string_that_faiss_cannot_make_is_refused_by_name(factory: str) -> None:
    with pytest.raises(InputError, match=f"search.factory '{factory}' is no faiss index .* in 16 dimensions"):
        Faiss(factory).check(16, 600)


@pytest.mark.parametrize(("factory", "needed"), [("IVF1024,Flat", 1024), ("IVF16,PQ8", 256), ("OPQ8,PQ8x10", 1024)])
def test_too_few_images_for_the_clusters_are_refused(factory: str, needed: int) -> None:
    with pytest.raises(InputError, match=f"trains {needed} clusters and needs as many images, the gallery has 200"):
        Faiss(factory).check(16, 200)


def test_an_index_that_cannot_be_trained_on_the_images_is_refused() -> None:
    with pytest.raises(InputError, match="search.factory 'PRQ2x2x8' cannot be trained on 100 images"):
        matrix(Faiss("PRQ2x2x8"), Descriptors([GALLERY[:100]]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"neighbours": 0}, "search.neighbours must be a whole number from 1, got 0"),
        ({"factory": "IVF8,Flat", "nprobe": 0}, "search.nprobe must be a whole number from 1, got 0"),
        ({"factory": "HNSW32", "nprobe": 4}, "search.nprobe .* 'HNSW32' has none"),
    ],
)
def test_settings_are_checked_where_they_are_made(given: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Faiss(**given)


@pytest.mark.parametrize("factory", ["IVF8,PQ8", "HNSW16", "OPQ8,IVF8,PQ8"])
def test_an_index_that_is_opened_gives_what_it_gave(factory: str, tmp_path: Path, shards: Descriptors) -> None:
    file = str(tmp_path / "made" / "x.index")
    made = matrix(Faiss(factory, 100, index=file))
    written = Path(file).stat().st_mtime_ns
    assert np.array_equal(matrix(Faiss(factory, 100, index=file), shards), made)
    assert Path(file).stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("factory", "gallery", "said"),
    [
        ("Flat", Descriptors([GALLERY]), "factory SQ8 there, Flat here"),
        ("SQ8", Descriptors([GALLERY[:599]]), "rows 600 there, 599 here"),
        ("SQ8", Descriptors([GALLERY[:, :8]]), "dim 16 there, 8 here"),
        ("SQ8", Descriptors([GALLERY[::-1].copy()]), "descriptors [0-9a-f]{64} there"),
    ],
)
def test_an_index_of_something_else_is_refused(tmp_path: Path, factory: str, gallery: Descriptors, said: str) -> None:
    file = str(tmp_path / "x.index")
    matrix(Faiss("SQ8", index=file))
    with pytest.raises(InputError, match=f"was made of something else .*{said}"):
        matrix(Faiss(factory, index=file), gallery)


def test_an_index_of_something_else_is_refused_before_anything_is_described(tmp_path: Path) -> None:
    file = tmp_path / "x.index"
    matrix(Faiss("SQ8", index=str(file)))
    with pytest.raises(InputError, match="rows 600 there, 601 here"):
        Faiss("SQ8", index=str(file)).check(16, 601)
    assert json.loads((tmp_path / "x.index.json").read_text())["rows"] == 600


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.index"
    file.write_bytes(b"not an index")
    with pytest.raises(InputError, match="has no x.index.json"):
        Faiss("SQ8", index=str(file)).check(16, 600)
    file.unlink()
    matrix(Faiss("SQ8", index=str(file)))
    file.write_bytes(b"not an index")
    with pytest.raises(InputError, match="cannot be read as an index"):
        matrix(Faiss("SQ8", index=str(file)))


def test_clusters_of_kmeans_are_the_means_of_what_lies_together() -> None:
    rows = np.array([[0, 0], [0, 1], [9, 9], [9, 8]], dtype=np.float32)
    assert np.array_equal(np.sort(search.kmeans(rows, 2, 0), axis=0), [[0, 0.5], [9, 8.5]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_scores_as_the_cpu_does() -> None:
    assert np.allclose(matrix(Exact("cuda")), matrix(Exact("cpu")), atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_index_on_gpus_finds_what_it_finds_on_the_cpu() -> None:
    found = Faiss("Flat", neighbours=10).nearest(QUERIES, HELD, 10)[1]
    assert np.array_equal(found, Exact("cpu").nearest(QUERIES, HELD, 10)[1])


def test_scores_of_neighbours_are_at_most_1() -> None:
    rows = unit(600, 512)
    assert (rows @ rows.T).max() > 1
    assert Exact().nearest(rows, Descriptors([rows]), 1)[0].max() == 1
