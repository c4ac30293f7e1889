"""Hard negatives: those of a plain sort; the same tuples however many processes look for them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed as dist
from torch import multiprocessing

from retrieval import embedder
from retrieval.data.batching import TupleBatches
from retrieval.data.images import Photo, UnreadablePhoto
from retrieval.descriptors import Indices, Rows
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract, describe
from retrieval.mining import Mined, changed, hard_negatives, mine
from retrieval.together import describe_together

EXTRACT = Extract([64], workers=0, batch_size=4, device="cpu")


def model() -> Embedder:
    torch.manual_seed(0)
    parts = {"backbone": {"_target_": "retrieval.backbones.TimmBackbone", "name": "test_resnet"}}
    parts |= {"pooling": {"_target_": "retrieval.poolings.GeM"}, "head": {"_target_": "torch.nn.Identity"}}
    return embedder.from_config(parts)


@pytest.fixture(scope="module")
def listed(photos: Path) -> list[Photo]:
    """Five photos of each of four landmarks in turn."""
    return [Photo(str(path)) for path in sorted(photos.rglob("*.jpg"))]


LABELS = [landmark for landmark in range(4) for _ in range(5)]


def sampler(pool: int = 20, negatives: int = 2, queries: int = 6, seed: int = 0) -> TupleBatches:
    return TupleBatches(LABELS, seed, queries=queries, pool=pool, negatives=negatives, tuples=2)


def sorted_and_walked(
    queries: Rows, pool: Rows, query_clusters: Indices, pool_clusters: Indices, count: int
) -> Indices:
    """The rule as it is told: sort the whole pool for each query, walk, take what is of a cluster not met yet."""
    found = []
    for query, cluster in zip(queries, query_clusters, strict=True):
        met, taken = {cluster}, []
        for row in np.argsort(-(pool @ query), kind="stable"):
            if len(taken) < count and pool_clusters[row] not in met:
                met.add(pool_clusters[row])
                taken.append(row)
        found.append(taken)
    return np.array(found, dtype=np.int64).reshape(len(queries), count)


@st.composite
def searches(draw: st.DrawFn) -> tuple[Rows, Rows, Indices, Indices, int]:
    """Small whole numbers, so that products are exact and many are equal; the pool may lack clusters of queries."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    asked, held, count = draw(st.integers(0, 5)), draw(st.integers(0, 30)), draw(st.integers(1, 4))
    kinds, largest = draw(st.integers(1, 8)), draw(st.integers(0, 3))
    rows = (rng.integers(-largest, largest + 1, (size, 3)).astype(np.float32) for size in (asked, held))
    return *rows, rng.integers(kinds, size=asked), rng.integers(kinds, size=held), count


@given(searches())
def test_negatives_are_those_of_a_plain_sort_or_too_few(search: tuple[Rows, Rows, Indices, Indices, int]) -> None:
    *_, query_clusters, pool_clusters, count = search
    if any(len({*pool_clusters.tolist()} - {cluster}) < count for cluster in query_clusters.tolist()):
        with pytest.raises(InputError, match="larger sampler.pool"):
            hard_negatives(*search)
    else:
        assert np.array_equal(hard_negatives(*search), sorted_and_walked(*search))


def test_descriptors_of_real_numbers_find_what_a_plain_sort_finds() -> None:
    rng = np.random.default_rng(0)
    queries, pool = (rng.normal(size=(size, 64)).astype(np.float32) for size in (40, 700))
    search = queries, pool, rng.integers(30, size=40), rng.integers(30, size=700), 20
    assert np.array_equal(hard_negatives(*search), sorted_and_walked(*search))


def test_a_pool_with_too_few_clusters_is_refused_by_what_it_lacks() -> None:
    rows = np.eye(3, dtype=np.float32)
    said = (
        "2 negatives of a query are of as many clusters, and for a query of cluster 7 the pool of 3 photos has 1 others"
    )
    with pytest.raises(InputError, match=rf"{said} \(1 of 2 queries .*sampler.pool, or fewer sampler.negatives"):
        hard_negatives(rows[:2], rows, np.array([5, 7]), np.array([7, 8, 7]), 2)


def test_too_few_clusters_are_refused_before_any_photo_is_described() -> None:
    nowhere = [Photo(f"nowhere/{i}.jpg") for i in range(len(LABELS))]
    with pytest.raises(InputError, match="larger sampler.pool"):
        mine(model(), nowhere, sampler(pool=2), 0, 64, EXTRACT, {})


def test_a_tuple_is_a_query_its_positive_and_the_hardest_photos_of_other_landmarks(listed: list[Photo]) -> None:
    network, chosen = model(), sampler(pool=12)
    queries, positives, pool = chosen.chosen(3)
    rows = describe(network, listed, 64, batch_size=4)
    wanted = sorted_and_walked(rows[queries], rows[pool], chosen.labels[queries], chosen.labels[pool], 2)
    mined = mine(network, listed, chosen, 3, 64, EXTRACT, {})
    assert np.array_equal(mined.tuples, np.column_stack([queries, positives, pool[wanted]]))
    assert mined.tuples.dtype == np.int64


def test_statistics_are_similarities_within_the_tuples(listed: list[Photo]) -> None:
    network = model()
    mined = mine(network, listed, sampler(), 0, 64, EXTRACT, {})
    rows = describe(network, listed, 64, batch_size=4)[mined.tuples]
    to_query = (rows[:, :1] * rows[:, 1:]).sum(2)
    assert mined.statistics == pytest.approx(
        {
            "mining/positive": to_query[:, 0].mean(),
            "mining/hardest": to_query[:, 1].mean(),
            "mining/negative": to_query[:, 1:].mean(),
            "mining/harder_than_positive": (to_query[:, 1] > to_query[:, 0]).mean(),
            "mining/clusters": len({LABELS[i] for i in mined.tuples[:, 2:].ravel()}),
            "mining/seconds": mined.statistics["mining/seconds"],
        },
        abs=1e-5,
    )


def test_changed_negatives_are_those_that_a_query_did_not_have_the_last_time() -> None:
    before = {7: [1, 2], 8: [3, 4]}
    negatives = np.array([[2, 5], [4, 3], [1, 2]])  # one of two is new, none is, never mined before
    assert changed(np.array([7, 8, 9]), negatives, before) == {"mining/changed": 0.25}
    assert changed(np.array([9]), negatives[2:], before) == {}


def test_the_last_negatives_of_every_query_are_carried_from_epoch_to_epoch(listed: list[Photo]) -> None:
    network, before, chosen = model(), {}, sampler(queries=20)  # every photo is a query
    first = mine(network, listed, chosen, 0, 64, EXTRACT, before)
    assert before == {row[0]: row[2:] for row in first.tuples.tolist()} and "mining/changed" not in first.statistics
    again = mine(network, listed, chosen, 1, 64, EXTRACT, before)
    assert again.statistics["mining/changed"] == 0  # the same network and, of all photos, the same pool


def test_each_photo_is_described_once(listed: list[Photo], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Photo] = []

    def noted(network: Embedder, photos: list[Photo], *how: object, once: bool) -> Rows:
        asked.extend(photos)
        return describe_together(network, photos, *how, once=once)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("retrieval.mining.describe_together", noted)
    mine(model(), listed, sampler(), 0, 64, EXTRACT, {})
    assert sorted(asked, key=str) == sorted(listed, key=str)


@pytest.mark.parametrize("workers", [0, 1])
def test_describing_leaves_a_training_as_it_was(listed: list[Photo], workers: int) -> None:
    network = model()
    network.backbone.frozen_statistics = True
    network.train()
    modes, state = [module.training for module in network.modules()], torch.get_rng_state()
    describe_together(network, listed, 64, Extract([64], workers=workers), "cpu")
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    assert [module.training for module in network.modules()] == modes


def test_photos_are_described_at_one_scale_and_not_compiled_whatever_they_are_judged_by(
    listed: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", None)
    network, several = model(), Extract([64], scales=(1.0, 0.5), workers=0, compile=True)
    assert np.allclose(describe_together(network, listed, 64, several, "cpu"), describe(network, listed, 64), atol=1e-6)


def test_an_unreadable_photo_is_named(listed: list[Photo], tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(Path(listed[3].path).read_bytes()[:600])
    with pytest.raises(UnreadablePhoto, match=r"cut\.jpg"):
        mine(model(), [*listed[:3], Photo(str(cut)), *listed[4:]], sampler(), 0, 64, EXTRACT, {})


def worked(rank: int, backend: str, processes: int, folder: Path, listed: list[Photo]) -> None:
    """One of several processes, which keeps what it finds in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(backend, f"file://{folder / 'meeting'}", rank=rank, world_size=processes)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found("cuda" if backend == "nccl" else "cpu", listed)))
    dist.destroy_process_group()


def found(device: str, listed: list[Photo]) -> tuple[list[Rows], list[Mined], dict[int, list[int]]]:
    """Rows of all photos and of fewer than there are processes, tuples of two epochs, and what they leave behind."""
    network, before = model().to(device), {}
    rows = [describe_together(network, some, 64, EXTRACT, device) for some in (listed, listed[:1])]
    mined = [mine(network, listed, sampler(), epoch, 64, EXTRACT, before) for epoch in (0, 1)]
    return rows, mined, before


def same(one: Mined, other: Mined) -> bool:
    """Of what was found, all but how long it took."""
    left, right = ({**mined.statistics, "mining/seconds": 0} for mined in (one, other))
    return np.array_equal(one.tuples, other.tuples) and left == right


def test_two_processes_both_have_the_rows_and_the_tuples_of_one(listed: list[Photo], tmp_path: Path) -> None:
    multiprocessing.spawn(worked, ("gloo", 2, tmp_path, listed), 2)  # pyright: ignore[reportPrivateImportUsage]
    rows, mined, before = found("cpu", listed)
    for rank in range(2):
        its_rows, its_mined, its_before = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        assert all(map(np.array_equal, rows, its_rows)) and all(map(same, mined, its_mined)) and before == its_before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_processes_with_gpus_exchange_what_they_found(listed: list[Photo], tmp_path: Path) -> None:
    multiprocessing.spawn(worked, ("nccl", 1, tmp_path, listed), 1)  # pyright: ignore[reportPrivateImportUsage]
    rows, mined, _ = pickle.loads((tmp_path / "0.pickle").read_bytes())
    on_cpu, mined_on_cpu, _ = found("cpu", listed)
    assert all((a * b).sum(1).min() > 0.9999 for a, b in zip(rows, on_cpu, strict=True))
    assert [one.tuples.shape for one in mined] == [one.tuples.shape for one in mined_on_cpu]
