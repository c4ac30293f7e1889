"""Re-ranking follows its formulas, loses no image, and says what it knew."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from retrieval import rerank
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.descriptors import Descriptors
from retrieval.errors import InputError
from retrieval.rerank import AlphaQE, DatabaseAugmentation, Diffusion, KReciprocal, Ranking, Step, SuperGlobal, ranking
from retrieval.rerank.diffusion import affinity, diffused, normalised, sources
from retrieval.search import Exact, Faiss

STEPS: list[Step] = [
    AlphaQE(5),
    AlphaQE(5, alpha=0),
    DatabaseAugmentation(3),
    DatabaseAugmentation(3, alpha=2),
    KReciprocal(4, 2),
    KReciprocal(4, 2, shortlist=9),
    Diffusion(5, 3),
    Diffusion(5, 3, shortlist=9),
    SuperGlobal(12, 3),
]
FIRST = [KReciprocal(4, 2, shortlist=9), Diffusion(5, 3, shortlist=9), SuperGlobal(9, 3)]  # re-rank 9 images
JUNK_AWARE: list[Callable[..., Step]] = [AlphaQE, Diffusion, KReciprocal, SuperGlobal]


def name(value: Any) -> str | None:
    return value.label if hasattr(value, "label") else getattr(value, "__name__", None)


def unit(rows: NDArray) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def drawn(images: int = 30, queries: int = 4, dim: int = 6, seed: int = 0) -> Ranking:
    """Photos of three landmarks, loosely alike."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, dim))
    rows = unit(centres[rng.integers(0, 3, images + queries)] + rng.normal(size=(images + queries, dim)))
    return Ranking(rows[:queries], Descriptors([rows[queries:]]), Exact("cpu"))


def scores(asked: Ranking) -> NDArray[np.float32]:
    return np.concatenate(list(asked.blocks()))


def orders(asked: Ranking) -> NDArray[np.int64]:
    return np.argsort(-scores(asked), axis=1, kind="stable")


def circle(*degrees: float) -> NDArray[np.float32]:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


# Every step


@pytest.mark.parametrize("path", sorted((CONFIGS / "rerank").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_builds_and_keeps_its_own_name(path: Any) -> None:
    assert path.read_text().startswith(f"# @package rerank.{path.stem}\n")
    step = build(load_yaml(path))
    assert step.label.split()[0] == path.stem and step.junk_known is False
    assert np.isfinite(scores(step(drawn()))).all()


@pytest.mark.parametrize("step", STEPS, ids=name)
def test_scores_are_one_order_of_all_images(step: Step) -> None:
    found = scores(step(drawn()))
    assert found.shape == (4, 30) and found.dtype == np.float32 and np.isfinite(found).all()
    assert all(len(np.unique(row)) == 30 for row in found)


@pytest.mark.parametrize("step", FIRST, ids=name)
def test_images_beyond_the_shortlist_follow_in_their_former_order(step: Step) -> None:
    before, after = orders(drawn()), orders(step(drawn()))
    assert np.array_equal(after[:, 9:], before[:, 9:])
    assert np.array_equal(np.sort(after[:, :9]), np.sort(before[:, :9])) and not np.array_equal(after, before)


@pytest.mark.parametrize("step", STEPS, ids=name)
@given(seed=st.integers(0, 1000))
def test_permuting_the_gallery_permutes_the_scores(step: Step, seed: int) -> None:
    plain = drawn(seed=seed)
    order = np.random.default_rng(seed).permutation(30)
    moved = replace(plain, gallery=plain.gallery.subset(order))
    np.testing.assert_allclose(scores(step(moved)), scores(step(plain))[:, order], atol=1e-5)


@pytest.mark.parametrize("step", STEPS, ids=name)
def test_a_query_is_re_ranked_as_if_it_were_alone(step: Step) -> None:
    alone = np.concatenate([scores(step(replace(drawn(), queries=drawn().queries[[q]]))) for q in range(4)])
    np.testing.assert_allclose(scores(step(drawn())), alone, atol=1e-5)


@pytest.mark.parametrize("step", [s for s in STEPS if not isinstance(s, DatabaseAugmentation)], ids=name)
def test_large_galleries_are_related_a_shortlist_at_a_time(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = scores(step(drawn()))
    monkeypatch.setattr(ranking, "SHARED", 0)
    np.testing.assert_allclose(scores(step(drawn())), shared, atol=1e-5)


@pytest.mark.parametrize("step", STEPS, ids=name)
def test_what_an_index_did_not_retrieve_stays_unretrieved(step: Step) -> None:
    found = scores(step(replace(drawn(), search=Faiss("Flat", 7))))
    assert (np.isfinite(found).sum(1) == 7).all()


@pytest.mark.parametrize("before", STEPS, ids=name)
@pytest.mark.parametrize("after", STEPS, ids=name)
def test_steps_follow_one_another_and_lose_no_image(before: Step, after: Step) -> None:
    assert len(np.unique(orders(rerank.apply([before, after], drawn()))[0])) == 30


def test_a_step_starts_from_the_order_that_the_step_before_it_left() -> None:
    mended = replace(drawn(), order=[np.array([21, 3])] * 4)
    assert np.array_equal(AlphaQE(2, 0)(mended).queries, unit(drawn().queries + drawn().gallery.take([21, 3]).sum(0)))
    assert all(set(first[:2]) <= {21, 3} for first in SuperGlobal(2, 1)(mended).order or ())


@pytest.mark.parametrize("step", FIRST, ids=name)
def test_a_chain_that_would_lose_an_order_is_refused(step: Step) -> None:
    with pytest.raises(InputError, match="database_augmentation first"):
        rerank.check([step, DatabaseAugmentation()], Exact("cpu"))
    rerank.check([DatabaseAugmentation(), AlphaQE(), step], Exact("cpu"))


def test_one_index_file_for_two_galleries_is_refused() -> None:
    with pytest.raises(InputError, match="leave out index"):
        rerank.check([DatabaseAugmentation()], Faiss("Flat", index="x"))


def test_a_row_says_what_was_done() -> None:
    assert rerank.label([]) is None
    assert rerank.label([DatabaseAugmentation(4), AlphaQE(10)]) == "database_augmentation k=4, alpha_qe k=10 alpha=3"
    assert SuperGlobal(junk="removed").label == "superglobal M=400 K=9 beta=0.15 junk=removed"


@pytest.mark.parametrize(
    ("step", "given", "said"),
    [
        (AlphaQE, {"k": -1}, r"rerank.alpha_qe.k must be a whole number from 0, got -1"),
        (AlphaQE, {"alpha": "x"}, r"rerank.alpha_qe.alpha must be a number from 0, got 'x'"),
        (AlphaQE, {"junk": True}, r"rerank.alpha_qe.junk must be 'kept' or 'removed', got True"),
        (DatabaseAugmentation, {"k": 2.5}, r"rerank.database_augmentation.k must be a whole number from 0, got 2.5"),
        (DatabaseAugmentation, {"alpha": -1}, r"rerank.database_augmentation.alpha must be a number from 0, got -1"),
        (KReciprocal, {"weight": 1.5}, r"rerank.k_reciprocal.weight must be a number from 0 to 1, got 1.5"),
        (KReciprocal, {"k1": 0}, r"rerank.k_reciprocal.k1 must be a whole number from 1, got 0"),
        (Diffusion, {"alpha": 1}, r"rerank.diffusion.alpha must be a number from 0 to 0.9999, got 1"),
        (Diffusion, {"gamma": float("nan")}, r"rerank.diffusion.gamma must be a number from 0, got nan"),
        (SuperGlobal, {"M": 0}, r"rerank.superglobal.M must be a whole number from 1, got 0"),
    ],
)
def test_parameters_are_checked_where_they_are_made(step: Callable[..., Step], given: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        step(**given)


# Junk


@pytest.mark.parametrize("step", JUNK_AWARE, ids=name)
def test_a_step_that_knows_the_junk_says_so_and_differs(step: Callable[..., Step]) -> None:
    asked = replace(drawn(), ignored=list(orders(drawn())[:, :3]))
    assert step(junk="removed").junk_known and not step(junk="kept").junk_known
    assert not np.array_equal(orders(step(junk="removed")(asked)), orders(step(junk="kept")(asked)))


@pytest.mark.parametrize("step", [s for s in JUNK_AWARE if s is not AlphaQE], ids=name)
def test_removed_junk_follows_the_shortlist_and_lets_the_next_images_in(step: Callable[..., Step]) -> None:
    before, size = orders(drawn()), {SuperGlobal: "M"}.get(step, "shortlist")  # type: ignore[arg-type]
    after = orders(step(junk="removed", **{size: 9})(replace(drawn(), ignored=list(before[:, [0, 4]]))))
    assert np.array_equal(after[:, 9:11], before[:, [0, 4]])
    assert np.array_equal(np.sort(after[:, :9]), np.sort(before[:, [1, 2, 3, 5, 6, 7, 8, 9, 10]]))


@pytest.mark.parametrize("step", JUNK_AWARE, ids=name)
def test_removing_junk_that_nobody_named_is_refused(step: Callable[..., Step]) -> None:
    with pytest.raises(InputError, match="junk=removed needs a benchmark that says which images are junk"):
        step(junk="removed")(drawn())


# Expansion


def test_alpha_query_expansion_by_hand() -> None:
    asked = Ranking(circle(0), Descriptors([circle(60, 90, 180)]), Exact("cpu"))
    expected = circle(0) + 0.5**3 * circle(60)
    np.testing.assert_allclose(AlphaQE(2)(asked).queries, unit(expected), atol=1e-6)
    np.testing.assert_allclose(AlphaQE(1, alpha=0)(asked).queries, circle(30), atol=1e-6)


def test_an_image_opposite_the_query_has_no_weight() -> None:
    asked = Ranking(circle(0), Descriptors([circle(60, 180)]), Exact("cpu"))
    np.testing.assert_allclose(AlphaQE(2)(asked).queries, AlphaQE(1)(asked).queries, atol=1e-6)


@pytest.mark.parametrize("step", [AlphaQE(0), DatabaseAugmentation(0)], ids=name)
def test_no_neighbours_change_nothing(step: Step) -> None:
    assert np.array_equal(scores(step(drawn())), scores(drawn()))


def test_database_augmentation_by_hand() -> None:
    asked = Ranking(circle(0), Descriptors([circle(0, 60, 180)]), Exact("cpu"))
    by_rank = DatabaseAugmentation(2)(asked).gallery.all()  # the nearest weighs 1/2, the next 0
    np.testing.assert_allclose(by_rank[0], unit(circle(0) + circle(60) / 2)[0], atol=1e-6)
    np.testing.assert_allclose(by_rank[2], unit(circle(180) + circle(60) / 2)[0], atol=1e-6)
    by_similarity = DatabaseAugmentation(2, alpha=3)(asked).gallery.all()
    np.testing.assert_allclose(by_similarity[1], unit(circle(60) + circle(0) / 8)[0], atol=1e-6)
    np.testing.assert_allclose(by_similarity[2], circle(180)[0], atol=1e-6)


def test_an_image_is_no_neighbour_of_itself_even_where_copies_stand_before_it() -> None:
    asked = Ranking(circle(0), Descriptors([circle(0, 0, 0, 90)]), Exact("cpu"))
    np.testing.assert_allclose(DatabaseAugmentation(1, 0)(asked).gallery.all(), circle(0, 0, 0, 45), atol=1e-6)


def test_a_gallery_is_augmented_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = DatabaseAugmentation(4)(drawn()).gallery.all()
    monkeypatch.setattr("retrieval.rerank.expansion.CHUNK", 7)
    np.testing.assert_allclose(DatabaseAugmentation(4)(drawn()).gallery.all(), whole, atol=1e-6)


# k-reciprocal encoding


def slow_k_reciprocal(query: NDArray, gallery: NDArray, k1: int, k2: int, weight: float) -> list[float]:
    """Zhong et al., CVPR 2017, with Python's sets."""
    vectors = np.concatenate([query[None], gallery]).astype(float)
    everyone = range(len(vectors))
    squared = ((vectors[:, None] - vectors[None]) ** 2).sum(2)
    distance = squared / squared.max(1, keepdims=True)
    ranked = [sorted(everyone, key=lambda j: (distance[i, j], j)) for i in everyone]

    def mutual(i: int, k: int) -> set[int]:
        return {j for j in ranked[i][: k + 1] if i in ranked[j][: k + 1]}

    encoded = []
    for i in everyone:
        members = mutual(i, k1)
        for candidate in mutual(i, k1):
            half = mutual(candidate, round(k1 / 2))
            if len(half & mutual(i, k1)) > 2 / 3 * len(half):
                members = members | half
        total = sum(np.exp(-distance[i, j]) for j in members)
        encoded.append([np.exp(-distance[i, j]) / total if j in members else 0 for j in everyone])
    mean = [np.mean([encoded[j] for j in ranked[i][:k2]], axis=0) for i in everyone]
    far = [1 - np.minimum(mean[0], mean[j]).sum() / np.maximum(mean[0], mean[j]).sum() for j in everyone]
    return [(1 - weight) * far[j] + weight * distance[0, j] for j in everyone[1:]]


@given(seed=st.integers(0, 300), k1=st.integers(1, 12), k2=st.integers(1, 5), weight=st.sampled_from([0.1, 0.3, 1]))
def test_k_reciprocal_encoding_is_the_slow_reference(seed: int, k1: int, k2: int, weight: float) -> None:
    asked = drawn(18, 2, seed=seed)
    step = KReciprocal(k1, k2, weight)
    for query, found in zip(asked.queries, step(asked).order or (), strict=True):
        slow = np.array(slow_k_reciprocal(query, asked.gallery.all(), k1, k2, weight))
        assert len(found) == 18 and all(slow[a] <= slow[b] + 1e-5 for a, b in pairwise(found))


# Diffusion


def test_affinity_joins_mutual_neighbours_by_hand() -> None:
    rows = circle(0, 60, 90, 330)
    found = affinity(rows @ rows.T, 2, 3).toarray()  # 2: itself and one other
    edges = {(1, 2): np.cos(np.radians(30)) ** 3, (0, 3): np.cos(np.radians(30)) ** 3}
    expected = np.zeros((4, 4))
    for (i, j), value in edges.items():
        expected[i, j] = expected[j, i] = value
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_sided_neighbours_are_not_joined() -> None:
    rows = circle(0, 10, 30)  # 30's nearest is 10, whose nearest is 0
    assert affinity(rows @ rows.T, 2, 1).nonzero()[0].tolist() == [0, 1]


def test_a_query_starts_diffusion_from_its_nearest() -> None:
    assert np.allclose(sources(np.array([0.5, 0.9, -0.2, 0.1], np.float32), 2, 2), [0.25, 0.81, 0, 0])
    assert np.allclose(sources(np.array([0.5, -0.2], np.float32), 9, 2), [0.25, 0])


@given(seed=st.integers(0, 300), k=st.integers(2, 8), alpha=st.sampled_from([0.5, 0.9, 0.99]))
def test_diffusion_is_the_closed_form(seed: int, k: int, alpha: float) -> None:
    rows = drawn(14, 1, seed=seed).gallery.all()
    graph, y = normalised(affinity(rows @ rows.T, k, 3)), sources(rows @ rows[0], 4, 3)
    weights = affinity(rows @ rows.T, k, 3).toarray()
    degrees = weights.sum(1)
    scale = np.diag([d**-0.5 if d > 0 else 0 for d in degrees])
    expected = np.linalg.solve(np.eye(14) - alpha * scale @ weights @ scale, y)
    np.testing.assert_allclose(diffused(graph, y, alpha), expected, rtol=1e-3, atol=1e-4)


def test_an_image_without_neighbours_leaves_no_infinity() -> None:
    assert np.array_equal(normalised(sparse.csr_array((3, 3))).toarray(), np.zeros((3, 3)))


# SuperGlobal


def slow_superglobal(query: NDArray, gallery: NDArray, M: int, K: int, beta: float) -> list[int]:
    """Shao et al., ICCV 2023, an image at a time."""
    first = sorted(range(len(gallery)), key=lambda i: -gallery[i] @ query)[:M]
    refined = {}
    for i in first:
        near = sorted((j for j in first if j != i), key=lambda j: -gallery[i] @ gallery[j])[:K]
        weights = [1, *(beta * gallery[i] @ gallery[j] for j in near)]
        refined[i] = sum(w * gallery[j] for w, j in zip(weights, [i, *near], strict=True)) / sum(weights)
    nearest = sorted(first, key=lambda i: -refined[i] @ query)[: K + 1]
    expanded = np.max([refined[i] for i in nearest], axis=0)
    return sorted(first, key=lambda i: -(refined[i] @ query + refined[i] @ expanded) / 2)


@given(seed=st.integers(0, 300), M=st.integers(1, 25), K=st.integers(0, 9), beta=st.sampled_from([0, 0.15, 1]))
def test_superglobal_is_the_slow_reference(seed: int, M: int, K: int, beta: float) -> None:
    asked = drawn(20, 2, seed=seed)
    found = SuperGlobal(M, K, beta)(asked).order or ()
    assert [list(row) for row in found] == [slow_superglobal(q, asked.gallery.all(), M, K, beta) for q in asked.queries]


# What it is for


def two_landmarks() -> Ranking:
    """A query at the edge of its landmark, images 0 to 4; another landmark, 5 to 7, is nearer than the far edge, 4."""
    right = np.pad(circle(20, 30, 40, 50, 60), ((0, 0), (0, 2)))
    other = np.pad(circle(55, 55, 55)[:, [0, 1]], ((0, 0), (0, 2)))[:, [0, 2, 1, 3]]
    other[:, 3] = [-0.1, 0, 0.1]
    gallery = unit(np.concatenate([right, other]))
    return Ranking(np.pad(circle(0), ((0, 0), (0, 2))), Descriptors([gallery]), Exact("cpu"))


@pytest.mark.parametrize(
    "steps",
    [
        [AlphaQE(4)],
        [DatabaseAugmentation(2, 0)],
        [DatabaseAugmentation(2), AlphaQE(4)],
        [KReciprocal(4, 2)],
        [Diffusion(4, 2)],
        [SuperGlobal(8, 2, 1.0)],
    ],
    ids=rerank.label,
)
def test_a_far_image_of_the_landmark_comes_before_another_landmark(steps: Sequence[Step]) -> None:
    assert orders(two_landmarks())[0, 4] != 4
    assert set(orders(rerank.apply(steps, two_landmarks()))[0, :5]) == set(range(5))
