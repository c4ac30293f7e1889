"""Rows read from shards are the rows of one array."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.descriptors import Descriptors, joined

ROWS = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    for i, part in enumerate((ROWS[:4], ROWS[4:5], ROWS[5:])):
        np.save(folder / f"{i}.npy", part)
    return sorted(folder.glob("*.npy"))


@given(chosen=st.lists(st.integers(0, 10), max_size=20), size=st.integers(1, 30))
def test_shards_read_as_one_array(sharded: list[Path], chosen: list[int], size: int) -> None:
    part = Descriptors(sharded).subset(chosen)
    gathered = np.full((len(chosen), 3), np.nan, dtype=np.float32)
    for indices, rows in part.blocks(size):
        gathered[indices] = rows
    assert np.array_equal(gathered, ROWS[chosen]) and np.array_equal(part.all(), ROWS[chosen])


def test_places_say_where_a_row_lies(sharded: list[Path]) -> None:
    assert np.array_equal(Descriptors(sharded, [10, 0, 4]).all(), ROWS[[10, 0, 4]])


def test_rows_are_mapped_when_they_are_read(sharded: list[Path]) -> None:
    halved = Descriptors(sharded).mapped(lambda rows: rows[:, :2], 2).mapped(lambda rows: rows / 2, 2)
    assert np.array_equal(halved.subset([3, 1]).all(), ROWS[[3, 1], :2] / 2) and halved.shape == (11, 2)


def test_parts_are_joined_one_after_the_other(sharded: list[Path]) -> None:
    parts = [Descriptors(sharded, [10, 0]), Descriptors([ROWS[3:5]]), Descriptors(sharded, [4])]
    assert np.array_equal(joined(parts).all(), ROWS[[10, 0, 3, 4, 4]])


def test_float16_shards_give_float32_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "half.npy", ROWS.astype(np.float16))
    assert Descriptors([tmp_path / "half.npy"]).all().dtype == np.float32


def test_shards_of_unlike_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows of one length, got \[2, 3\]"):
        Descriptors([ROWS, ROWS[:, :2]])


def test_a_place_outside_the_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="places must be in 0 to 10, got 0 to 11"):
        Descriptors([ROWS], [0, 11])
