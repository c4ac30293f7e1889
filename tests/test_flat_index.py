"""The Flat index without faiss: the same file, the same scores, the same order."""

import re
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import faiss_index, flat_index
from retrieval.descriptors import BLOCK, Descriptors
from retrieval.errors import InputError
from retrieval.flat_index import HEADER, FlatIndex


def rows(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def of_faiss(held: np.ndarray) -> faiss.Index:
    return faiss_index.filled("Flat", Descriptors([held]), 0, "factory")


@given(count=st.integers(0, 9), dim=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_file_is_that_of_faiss(tmp_path_factory: pytest.TempPathFactory, count: int, dim: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("index")
    held = rows(count, dim, seed)
    flat_index.write(FlatIndex(held), folder / "ours")
    faiss_index.write(of_faiss(held), folder / "theirs")
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()
    np.testing.assert_array_equal(flat_index.read(folder / "theirs", "the index").rows, held)


@given(st.data())
def test_scores_and_order_are_those_of_faiss_also_of_equals(data: st.DataObject) -> None:
    whole = st.lists(st.integers(-2, 2), min_size=3, max_size=3)  # products of whole numbers have no rounding
    held = np.array(data.draw(st.lists(whole, min_size=1, max_size=30)), np.float32)
    asked = np.array(data.draw(st.lists(whole, min_size=1, max_size=25)), np.float32)
    k = data.draw(st.integers(1, len(held)))
    scores, found = flat_index.nearest(FlatIndex(held), asked, k)
    expected = faiss_index.nearest(of_faiss(held), asked, len(held))  # of all: at an edge faiss takes any of equals
    np.testing.assert_array_equal(found, expected[1][:, :k])
    np.testing.assert_array_equal(scores, expected[0][:, :k])


def test_scores_of_unit_rows_are_those_of_faiss() -> None:
    held, asked = rows(2 * BLOCK + 3, 48), rows(7, 48, seed=1)
    ours, theirs = flat_index.nearest(FlatIndex(held), asked, 50), faiss_index.nearest(of_faiss(held), asked, 50)
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-6)


def test_a_score_is_the_inner_product_rounded_once() -> None:
    held, asked = rows(200, 33), rows(9, 33, seed=1)
    scores, found = flat_index.nearest(FlatIndex(held), asked, 200)
    exact = (asked.astype(np.float64) @ held.T.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(scores, np.take_along_axis(exact, found, 1))


def test_beyond_the_last_row_nothing_is_found() -> None:
    scores, found = FlatIndex(rows(2)).search(rows(1), 4)
    assert found[0, 2:].tolist() == [-1, -1] and np.isneginf(scores[0, 2:]).all()


def test_rows_are_added_after_those_there_are() -> None:
    index = flat_index.filled("Flat", Descriptors([rows(5)]), 0, "factory")
    flat_index.add(index, Descriptors([rows(4, seed=1)]))
    assert index.ntotal == 9 and flat_index.nearest(index, rows(4, seed=1)[3:], 1)[1] == 8


def test_rows_that_stay_keep_their_order_when_others_are_removed() -> None:
    index, theirs = FlatIndex(rows(9)), of_faiss(rows(9))
    flat_index.remove(index, np.array([4, 0, 8]))
    theirs.remove_ids(np.array([0, 4, 8]))
    np.testing.assert_array_equal(index.rows, theirs.reconstruct_n(0, 6))


@pytest.mark.parametrize("factory", ["HNSW32", "SQ8", "IVF2,Flat", "flat"])
def test_another_index_names_the_extra_that_has_faiss(factory: str) -> None:
    said = f"factory '{factory}' is not accepted here: accepted is Flat; any other index needs faiss: pip install"
    with pytest.raises(InputError, match=re.escape(f"{said} 'image-retrieval-poolings[search]'")):
        flat_index.check(factory, 16, 100, "factory")


@pytest.mark.parametrize("factory", ["SQ8", "HNSW4", "L2"])
def test_the_file_of_another_index_names_the_extra_that_has_faiss(tmp_path: Path, factory: str) -> None:
    made = faiss.IndexFlatL2(16) if factory == "L2" else faiss_index.empty(factory, 16, "factory")
    faiss.write_index(made, str(tmp_path / "index"))
    with pytest.raises(InputError, match=re.escape("needs faiss: pip install 'image-retrieval-poolings[search]'")):
        flat_index.read(tmp_path / "index", "the index")


@given(st.integers(0, HEADER.size + 4 * 16 * 3))
def test_a_file_that_is_cut_off_or_longer_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("index") / "index"
    flat_index.write(FlatIndex(rows(3)), path)
    content = path.read_bytes()
    cut = content[:length] if length < len(content) else content + b"\0"
    path.write_bytes(cut)
    with pytest.raises(InputError, match="the index .* (cut off or damaged|needs faiss)"):
        flat_index.read(path, "the index")


@pytest.mark.parametrize(
    "changed",
    [{1: 0}, {1: -16}, {1: 32}, {2: -3}, {2: 1 << 40}, {2: 4}, {5: 0}, {6: 1}, {7: 1 << 50}, {7: 47}],
    ids=str,
)
def test_a_header_that_is_not_of_its_rows_is_refused(tmp_path: Path, changed: dict[int, int]) -> None:
    flat_index.write(FlatIndex(rows(3)), path := tmp_path / "index")
    content = path.read_bytes()
    values = [changed.get(i, value) for i, value in enumerate(HEADER.unpack(content[: HEADER.size]))]
    path.write_bytes(HEADER.pack(*values) + content[HEADER.size :])
    with pytest.raises(InputError, match="cut off or damaged"):
        flat_index.read(path, "the index")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the index .* cannot be read as an index of faiss: No such file"):
        flat_index.read(tmp_path / "none", "the index")
