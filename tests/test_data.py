"""Folders of photos, held-out landmarks, batches, augmentation."""

import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrieval.config import InputError
from retrieval.data.batching import LandmarkBatches, by_shape
from retrieval.data.folder import read
from retrieval.data.images import UnreadablePhoto
from retrieval.data.module import FolderData, hold_out

Capture = pytest.CaptureFixture[str]
HALF = (0.5, 0.5, 0.5)
NAMES = [f"landmark{i}" for i in range(10)]


def test_a_folder_is_read_in_a_fixed_order(photos: Path) -> None:
    everything = read(photos)
    assert everything.landmarks == ["arch", "bridge", "castle", "dome"]
    assert [Path(p.path).parent.name for p in everything.photos] == everything.labels


def test_an_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of photos at"):
        read(tmp_path / "absent")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "arch").mkdir()
    with pytest.raises(InputError, match="holds no photos: expected <landmark>/<image>"):
        read(tmp_path)


def test_a_landmark_with_one_photo_is_refused(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    for path in sorted((tmp_path / "dome").iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match=r"at least two readable photos.*dome \(1\)"):
        read(tmp_path)


def test_a_photo_cut_short_is_refused_at_the_start(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    cut = tmp_path / "dome" / "0.jpg"
    cut.write_bytes(cut.read_bytes()[:700])
    with pytest.raises(UnreadablePhoto, match=r"dome/0\.jpg"):
        read(tmp_path)


def test_files_that_are_left_out_are_counted_aloud(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    (tmp_path / "dome" / "0.heic").write_bytes(b"of no known kind")
    (tmp_path / "loose.jpg").write_bytes(b"in no folder")
    read(tmp_path)
    assert "2 files or folders are left out" in capsys.readouterr().out


def test_an_unreadable_photo_is_skipped_and_counted_if_asked(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    (tmp_path / "dome" / "0.jpg").write_bytes(b"no photo")
    everything = read(tmp_path, on_unreadable="skip")
    assert (len(everything.photos), everything.skipped) == (19, 1)


@given(st.integers(2, 6), st.integers(2, 5), st.lists(st.integers(2, 9), min_size=6, max_size=9))
def test_every_batch_has_p_landmarks_with_k_photos_each(p: int, k: int, sizes: list[int]) -> None:
    labels = [landmark for landmark, size in enumerate(sizes) for _ in range(size)]
    for batch in LandmarkBatches(labels, p, k, seed=1):
        counts = Counter(labels[index] for index, _ in batch)
        assert len(counts) == p and set(counts.values()) == {k}


def test_photos_of_a_batch_differ_where_a_landmark_has_enough() -> None:
    batch = next(iter(LandmarkBatches([0] * 4 + [1] * 4, 2, 4, seed=0)))
    assert len({index for index, _ in batch}) == 8


@given(st.integers(4, 9), st.integers(2, 4), st.integers(0, 9))
def test_no_photo_comes_twice_in_a_batch_that_has_enough(size: int, k: int, seed: int) -> None:
    batches = LandmarkBatches([i % 5 for i in range(5 * size)], 4, k, seed)
    assert all(len({index for index, _ in batch}) == 4 * k for _ in range(3) for batch in batches)


@given(st.integers(2, 6), st.integers(0, 9))
def test_landmarks_come_equally_often(p: int, seed: int) -> None:
    batches = LandmarkBatches([i % 7 for i in range(70)], p, 2, seed)
    seen = Counter(index % 7 for batch in batches for index, _ in batch[::2])
    assert max(seen.values()) - min(seen.values() if len(seen) == 7 else [0]) <= 1


def test_an_epoch_draws_as_many_photos_as_there_are() -> None:
    assert len(LandmarkBatches([i % 7 for i in range(70)], 5, 4, seed=0)) == 4


def test_epochs_differ_and_a_seed_reproduces_them() -> None:
    def epochs() -> list[list[list[tuple[int, int]]]]:
        batches = LandmarkBatches([i % 5 for i in range(50)], 3, 2, seed=4)
        return [list(batches), list(batches)]

    first, again = epochs(), epochs()
    assert first == again and first[0] != first[1]


def test_more_landmarks_a_batch_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="landmarks_per_batch = 9 is more than the 5 landmarks"):
        LandmarkBatches([i % 5 for i in range(50)], 9, 2, seed=0)


@given(st.lists(st.sampled_from("abc")), st.integers(1, 4))
def test_batches_of_equal_shape_hold_every_photo_once(shapes: list[str], size: int) -> None:
    batches = by_shape(shapes, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(shapes)))
    assert all(len(batch) <= size and len({shapes[i] for i in batch}) == 1 for batch in batches)


def test_whole_landmarks_are_held_out(photos: Path) -> None:
    data = FolderData(str(photos), 0, HALF, HALF, validation=2, landmarks_per_batch=2, photos_per_landmark=2)
    assert data.validation is not None
    assert len(data.validation.landmarks) == 2
    assert not set(data.validation.landmarks) & set(data.train.landmarks)


@given(st.integers(2, 8))
def test_groups_stay_on_one_side(count: int) -> None:
    chosen = set(hold_out(NAMES, count, [NAMES[:3]]))
    assert len(chosen) == count and len(chosen & set(NAMES[:3])) in (0, 3)


def test_groups_that_make_the_number_exactly_are_found() -> None:
    assert len(hold_out(NAMES, 3, [NAMES[:4], NAMES[4:7], NAMES[7:]])) == 3


def test_as_many_landmarks_as_whole_groups_cannot_make_are_refused() -> None:
    with pytest.raises(InputError, match="in whole groups; got 3 of 10"):
        hold_out(NAMES, 3, [NAMES[:5], NAMES[5:]])


def test_a_group_of_unknown_landmarks_is_refused() -> None:
    with pytest.raises(InputError, match="no landmark of this folder: 'landmark77'"):
        hold_out(NAMES, 3, [["landmark77"]])


def test_augmentation_depends_on_the_draw_alone(photos: Path) -> None:
    data = FolderData(str(photos), 0, HALF, HALF, resolution=32, landmarks_per_batch=2, photos_per_landmark=2)
    first = data.dataset[3, 7][0]
    torch.rand(5)
    assert torch.equal(first, data.dataset[3, 7][0])
    assert not torch.equal(first, data.dataset[3, 8][0])


def test_the_number_of_workers_changes_no_pixel(photos: Path) -> None:
    def batches(workers: int) -> list[torch.Tensor]:
        small = {"resolution": 32, "landmarks_per_batch": 2, "photos_per_landmark": 2}
        data = FolderData(str(photos), 0, HALF, HALF, workers=workers, **small)
        return [pixels for pixels, _, _ in islice(data.train_dataloader(), 3)]

    assert all(torch.equal(a, b) for a, b in zip(batches(0), batches(1), strict=True))


def test_crops_that_the_backbone_cannot_take_are_refused(photos: Path) -> None:
    data = FolderData(str(photos), 0, HALF, HALF, resolution=100, landmarks_per_batch=2, photos_per_landmark=2)
    with pytest.raises(InputError, match="multiples of 16, got data.resolution = 100; nearest: 96"):
        data.check(multiple=16, fixed_size=None)
