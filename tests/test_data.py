"""Folders of photos, held-out landmarks, batches, tuples, augmentation."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from retrieval.backbones import TimmBackbone
from retrieval.benchmarks.folder import SameLandmark
from retrieval.callbacks import HeldOut
from retrieval.data import images
from retrieval.data.augment import Augment
from retrieval.data.batching import BalancedBatches, Batches, Draw, LandmarkBatches, TupleBatches
from retrieval.data.files import Listing, below
from retrieval.data.folder import read
from retrieval.data.images import UnreadablePhoto, by_shape
from retrieval.data.module import FolderData, hold_out, refuse_sizes
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.poolings import GlobalMax

Capture = pytest.CaptureFixture[str]
TWO = {"_target_": "retrieval.data.batching.LandmarkBatches", "landmarks": 2, "photos": 2}
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


@pytest.fixture
def broken(photos: Path, tmp_path: Path) -> Path:
    """A copy of the photos, of which dome/0.jpg is cut short."""
    shutil.copytree(photos, tmp_path / "photos")
    cut = tmp_path / "photos/dome/0.jpg"
    cut.write_bytes(cut.read_bytes()[:700])
    return tmp_path / "photos"


def test_no_photo_is_opened_at_the_start(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.Image, "open", lambda *_: pytest.fail("opened"))
    assert len(read(broken).photos) == 20


def test_verifying_refuses_a_photo_cut_short_at_the_start(broken: Path) -> None:
    with pytest.raises(UnreadablePhoto, match=r"dome/0\.jpg"):
        read(broken, verify=True)


def test_what_was_verified_is_not_decoded_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    read(root, verify=True, cache=tmp_path)
    (root / "arch/0.jpg").touch()  # another stamp, the same bytes
    shutil.copy(photos / "arch/1.jpg", root / "arch/new.jpg")
    monkeypatch.setattr(images, "decode", lambda *_, **__: pytest.fail("decoded"))
    assert len(read(root, verify=True, cache=tmp_path).photos) == 21


def test_a_verified_photo_that_changed_is_decoded_again(photos: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    read(root, verify=True, cache=tmp_path)
    (root / "arch/0.jpg").write_bytes(b"no photo")
    with pytest.raises(UnreadablePhoto, match=r"arch/0\.jpg"):
        read(root, verify=True, cache=tmp_path)


def test_other_ways_with_unreadable_photos_are_refused(photos: Path) -> None:
    with pytest.raises(InputError, match="'refuse' or 'skip', got 'ignore'"):
        read(photos, on_unreadable="ignore")


def test_files_that_are_left_out_are_counted_aloud(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    (tmp_path / "dome" / "0.txt").write_bytes(b"of no known kind")
    (tmp_path / "loose.jpg").write_bytes(b"in no folder")
    (tmp_path / ".tower").mkdir()
    read(tmp_path)
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path}: 3 files or folders left out: ") and said.count("\n") == 1
    assert all(reason in said for reason in ("1 .txt", "1 hidden", "1 outside a landmark's folder"))


def drawn(*paths: Path) -> None:
    """The same tiny picture at each path, in the format of its suffix."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "red").save(path, {".jfif": "JPEG"}.get(path.suffix))


def names(root: Path, paths: list[str]) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in paths]


def test_every_kind_of_image_is_listed(tmp_path: Path, capsys: Capture) -> None:
    kinds = ["bmp", "gif", "jfif", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp"]
    kinds += ["avif"] if features.check("avif") else []
    drawn(*(tmp_path / "arch" / f"0.{kind}" for kind in kinds))
    (tmp_path / "arch" / "0.png").rename(tmp_path / "arch" / "0.PNG")
    assert len(below(tmp_path)) == len(kinds) == len(read(tmp_path).photos)
    assert capsys.readouterr().err == ""


def test_images_that_cannot_be_read_here_are_counted_with_what_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    drawn(tmp_path / "a.jpg")
    for name in ("b.heic", "c.HEIC", "d.heif"):
        (tmp_path / name).touch()
    assert names(tmp_path, below(tmp_path)) == ["a.jpg"]
    said = capsys.readouterr().err
    assert said.startswith(
        f"{tmp_path}: 3 files or folders left out: 2 .heic (pip install 'image-retrieval-poolings[heif]' to read them)"
    )
    monkeypatch.setattr(images, "find_spec", lambda name: "found")
    assert len(below(tmp_path)) == 4


def test_linked_folders_and_photos_are_listed_at_any_depth(tmp_path: Path, capsys: Capture) -> None:
    drawn(tmp_path / "away" / "deep" / "b.jpg", tmp_path / "root" / "a.jpg")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "away")
    (tmp_path / "root" / "c.jpg").symlink_to(tmp_path / "root" / "a.jpg")
    assert names(tmp_path / "root", below(tmp_path / "root")) == ["a.jpg", "c.jpg", "linked/deep/b.jpg"]
    assert capsys.readouterr().err == ""


def test_a_linked_folder_is_a_landmark(photos: Path, tmp_path: Path) -> None:
    for landmark in ("arch", "dome"):
        (tmp_path / landmark).symlink_to(photos / landmark)
    assert Counter(read(tmp_path).labels) == {"arch": 5, "dome": 5}


@pytest.mark.parametrize("target", [".", "..", "inner", "inner/back"])
def test_links_that_lead_round_end_and_no_photo_comes_twice(tmp_path: Path, capsys: Capture, target: str) -> None:
    root = tmp_path / "root"
    drawn(root / "inner" / "a.jpg", tmp_path / "beside.jpg")
    (root / "inner" / "back").symlink_to(root)
    (root / "aaa").symlink_to(root / target)
    assert names(root, below(root)) == ["inner/a.jpg"]
    assert "2 linked folders that are listed already, or lead back up" in capsys.readouterr().err


def test_one_line_counts_all_that_is_left_out_and_escapes_what_a_name_holds(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "a\nb"
    drawn(root / "a.jpg", root / ".b.jpg", root / ".git" / "c.jpg")
    for name in ("d.txt", "e.txt", "f.pdf", "g", "h.x\x1b"):
        (root / name).touch()
    os.mkfifo(root / "pipe")
    assert names(root, below(root)) == ["a.jpg"]
    assert capsys.readouterr().err == (
        f"{tmp_path}/a\\nb: 8 files or folders left out: 2 .txt, 2 hidden, 2 without suffix, 1 .pdf, 1 .x\\x1b\n"
    )


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, capsys: Capture) -> None:
    listing = Listing()
    assert listing.photos(tmp_path / "none") == []
    listing.tell(tmp_path)
    assert f"1 folders that cannot be read ({tmp_path}/none: No such file or directory)" in capsys.readouterr().err


def test_a_named_pipe_among_the_photos_is_named_and_not_opened(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    os.mkfifo(tmp_path / "dome" / "pipe.jpg")
    assert read(tmp_path, on_unreadable="skip", verify=True).skipped == 1
    with pytest.raises(UnreadablePhoto, match=r"dome/pipe\.jpg is a named pipe"):
        read(tmp_path, verify=True)


def test_an_unreadable_photo_that_is_verified_is_skipped_and_counted_if_asked(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    (tmp_path / "dome" / "0.jpg").write_bytes(b"no photo")
    everything = read(tmp_path, on_unreadable="skip", verify=True)
    assert (len(everything.photos), everything.skipped) == (19, 1)


def epoch(root: Path, on_unreadable: str, workers: int, capsys: Capture) -> tuple[list[str], list[torch.Tensor], str]:
    """Paths, pixels and what is said of the batches of an epoch."""
    sampler = {"_target_": "retrieval.data.batching.LandmarkBatches", "landmarks": 4, "photos": 5}
    data = FolderData(str(root), on_unreadable, seed=0, sampler=sampler, resolution=32, workers=workers)
    batches = list(data.train_dataloader())
    pixels = [pixels for batch in batches for pixels in batch.pixels]
    return [path for batch in batches for path in batch.paths], pixels, capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 2])
def test_another_photo_of_its_landmark_stands_in_for_one_that_cannot_be_decoded(
    broken: Path, workers: int, capsys: Capture
) -> None:
    (paths, pixels, said), again = epoch(broken, "skip", workers, capsys), epoch(broken, "skip", 0, capsys)
    assert Counter(Path(path).parent.name for path in paths) == dict.fromkeys(("arch", "bridge", "castle", "dome"), 5)
    assert Counter(paths)[str(broken / "dome/1.jpg")] == 2 and str(broken / "dome/0.jpg") not in paths
    assert paths == again[0] and all(map(torch.equal, pixels, again[1]))
    assert said.count("dome/0.jpg") == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_cannot_be_decoded_ends_the_epoch_in_one_line(broken: Path, workers: int, capsys: Capture) -> None:
    with pytest.raises(UnreadablePhoto) as told:
        epoch(broken, "refuse", workers, capsys)
    assert str(told.value).startswith(f"unreadable photo {broken / 'dome/0.jpg'}") and "\n" not in str(told.value)


def test_a_landmark_without_a_photo_that_can_be_decoded_is_refused(broken: Path, capsys: Capture) -> None:
    for path in (broken / "dome").iterdir():
        path.write_bytes(b"no photo")
    with pytest.raises(UnreadablePhoto, match="unreadable photo .*dome"):
        epoch(broken, "skip", 0, capsys)


def indices(sampler: LandmarkBatches, epoch: int = 0) -> Iterator[list[int]]:
    return (list(chain.from_iterable(units)) for units in sampler.units(epoch))


@given(st.integers(2, 6), st.integers(2, 5), st.lists(st.integers(2, 9), min_size=6, max_size=9))
def test_every_batch_has_p_landmarks_with_k_photos_each(p: int, k: int, sizes: list[int]) -> None:
    labels = [landmark for landmark, size in enumerate(sizes) for _ in range(size)]
    for batch in indices(LandmarkBatches(labels, 1, p, k)):
        counts = Counter(labels[index] for index in batch)
        assert len(counts) == p and set(counts.values()) == {k}


def test_photos_of_a_batch_differ_where_a_landmark_has_enough() -> None:
    assert len(set(next(indices(LandmarkBatches([0] * 4 + [1] * 4, 0, 2, 4))))) == 8


@given(st.integers(4, 9), st.integers(2, 4), st.integers(0, 9))
def test_no_photo_comes_twice_in_a_batch_that_has_enough(size: int, k: int, seed: int) -> None:
    sampler = LandmarkBatches([i % 5 for i in range(5 * size)], seed, 4, k)
    assert all(len(set(batch)) == 4 * k for epoch in range(3) for batch in indices(sampler, epoch))


@given(st.integers(2, 6), st.integers(0, 9))
def test_landmarks_come_equally_often(p: int, seed: int) -> None:
    seen = Counter(
        i % 7 for batch in indices(LandmarkBatches([i % 7 for i in range(70)], seed, p, 2)) for i in batch[::2]
    )
    assert max(seen.values()) - min(seen.values() if len(seen) == 7 else [0]) <= 1


@given(st.integers(2, 9), st.lists(st.integers(1, 50), min_size=9, max_size=12), st.integers(0, 9))
def test_balanced_batches_take_every_landmark_equally_often(size: int, sizes: list[int], seed: int) -> None:
    labels = [landmark for landmark, count in enumerate(sizes) for _ in range(count)]
    batches = [[labels[i] for i in batch] for batch in indices(BalancedBatches(labels, seed, size))]
    seen = Counter(chain.from_iterable(batches))
    assert all(len(set(batch)) == size for batch in batches)
    assert max(seen.values()) - min(seen.get(landmark, 0) for landmark in range(len(sizes))) <= 1


def test_an_epoch_draws_as_many_photos_as_there_are() -> None:
    assert len(LandmarkBatches([i % 7 for i in range(70)], 0, 5, 4)) == 4


def test_epochs_differ_and_a_seed_reproduces_them() -> None:
    first, again = (LandmarkBatches([i % 5 for i in range(50)], 4, 3, 2) for _ in range(2))
    assert [*indices(first, 1)] == [*indices(again, 1)] != [*indices(first, 0)]


def test_more_landmarks_a_batch_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match=r"sampler\.landmarks = 9 is more than the 5 landmarks"):
        LandmarkBatches([i % 5 for i in range(50)], 0, 9, 2)


def test_the_landmarks_of_google_are_grouped_in_seconds() -> None:
    labels = [i % 81_313 for i in range(300_000)]
    assert len(next(indices(BalancedBatches(labels, 0, 64)))) == 64


@given(st.integers(0, 11), st.integers(0, 3))
def test_an_epoch_goes_on_at_any_batch_as_if_it_had_not_stopped(position: int, epoch: int) -> None:
    whole, rest = (Batches(LandmarkBatches([i % 5 for i in range(50)], 4, 2, 2), [32, 64], 4) for _ in range(2))
    whole.start, rest.start = (epoch, 0), (epoch, position)
    assert list(whole)[position:] == list(rest)


def test_a_batch_has_one_resolution_and_an_epoch_all() -> None:
    batches = list(Batches(LandmarkBatches([i % 5 for i in range(200)], 4, 2, 2), [32, 64, 96], 4))
    assert all(len({draw.resolution for draw in batch}) == 1 for batch in batches)
    assert {batch[0].resolution for batch in batches} == {32, 64, 96}


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_share_a_batch_by_whole_landmarks(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    labels = [i % 5 for i in range(50)]
    (whole, *_) = Batches(LandmarkBatches(labels, 4, 4, 3), [32], 4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    (part, *_) = Batches(LandmarkBatches(labels, 4, 4, 3), [32], 4)
    assert part == whole[6 * rank : 6 * rank + 6]


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"sampler\.landmarks must be a multiple of the 3 processes .* got 4"):
        LandmarkBatches([i % 5 for i in range(50)], 0, 4, 2)


@given(st.lists(st.integers(0, 8), min_size=30, max_size=60), st.integers(0, 3))
def test_a_pair_without_a_list_is_two_photos_of_a_landmark(labels: list[int], epoch: int) -> None:
    labels += list(range(9)) * 2
    sampler = TupleBatches(labels, 3, None, queries=20, pool=10, negatives=2, tuples=4)
    queries, positives, pool = sampler.chosen(epoch)
    assert all(labels[q] == labels[p] and q != p for q, p in zip(queries, positives, strict=True))
    assert len(queries) == 20 == len(set(queries.tolist())) and len(pool) == 10 == len(set(pool.tolist()))


def test_pairs_of_a_list_are_kept_together() -> None:
    pairs = np.arange(0, 40, 2), np.arange(1, 41, 2)
    sampler = TupleBatches([i // 2 for i in range(40)], 3, pairs, queries=9, pool=10, negatives=2, tuples=4)
    queries, positives, _ = sampler.chosen(1)
    assert len(queries) == 8 and (positives == queries + 1).all()


def test_tuples_that_were_not_mined_are_not_trained_on() -> None:
    sampler = TupleBatches([i % 9 for i in range(90)], 3, None, queries=8, pool=10, negatives=2, tuples=4)
    sampler.mined_for = 0, np.zeros((8, 4), np.int64)
    with pytest.raises(ValueError, match="epoch 1 has no tuples yet"):
        next(sampler.units(1))


def test_more_negatives_than_other_landmarks_are_refused() -> None:
    with pytest.raises(InputError, match="need 6 landmarks to train on, there are 4"):
        TupleBatches([i % 4 for i in range(40)], 3, None, queries=8, negatives=5, tuples=4)


def test_a_native_photo_keeps_its_aspect_ratio(photos: Path) -> None:
    image = Image.open(photos / "arch" / "0.jpg")  # 96 x 64
    assert Augment("native", bucket=1, crop=1, flip=False, jitter=0)(image, 48, 0).size == (48, 32)


def test_native_sides_are_multiples_of_the_bucket_and_of_what_the_backbone_needs(photos: Path) -> None:
    image = Image.open(photos / "arch" / "0.jpg")
    assert Augment("native", bucket=32, crop=0.5, multiple=14)(image, 90, 0).size == (84, 42)


def test_a_whole_native_photo_has_the_pixels_that_evaluation_sees(photos: Path) -> None:
    image = Image.open(photos / "arch" / "0.jpg").convert("RGB")
    seen = Augment("native", bucket=1, crop=1, flip=False, jitter=0)(image, 48, 0)
    assert seen.tobytes() == images.resized(image, (48, 32)).tobytes()


def test_photos_of_one_shape_stand_in_one_tensor_and_the_order_is_kept(photos: Path) -> None:
    words = {"aspect": "native", "bucket": 1, "crop": 1, "flip": False, "jitter": 0, "resolution": 64, "workers": 0}
    data = FolderData(str(photos), seed=0, sampler=TWO, **words)
    batch = next(iter(data.train_dataloader()))
    placed = dict(zip(batch.order.tolist(), (photo for part in batch.pixels for photo in part), strict=True))
    assert len({part.shape[2:] for part in batch.pixels}) == len(batch.pixels) and len(placed) == 4
    for i, path in enumerate(batch.paths):
        with Image.open(path) as image:
            assert placed[i].shape[1:] == images.fit(image.size, 64)[::-1]


@given(st.lists(st.sampled_from("abc")), st.integers(1, 4))
def test_batches_of_equal_shape_hold_every_photo_once(shapes: list[str], size: int) -> None:
    batches = by_shape(shapes, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(shapes)))
    assert all(len(batch) <= size and len({shapes[i] for i in batch}) == 1 for batch in batches)


def test_whole_landmarks_are_held_out(photos: Path) -> None:
    data = FolderData(str(photos), seed=0, sampler=TWO, validation=2)
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
    data = FolderData(str(photos), seed=0, sampler=TWO, resolution=32)
    dataset = data.train_dataloader().dataset
    first = dataset[Draw(3, 7, 32)][0]
    torch.rand(5)
    assert torch.equal(first, dataset[Draw(3, 7, 32)][0])
    assert not torch.equal(first, dataset[Draw(3, 8, 32)][0])


def test_the_number_of_workers_changes_no_pixel(photos: Path) -> None:
    def batches(workers: int) -> list[torch.Tensor]:
        data = FolderData(str(photos), seed=0, sampler=TWO, workers=workers, resolution=32)
        return [batch.pixels[0] for batch in islice(data.train_dataloader(), 3)]

    assert all(torch.equal(a, b) for a, b in zip(batches(0), batches(1), strict=True))


def test_crops_that_the_backbone_cannot_take_are_refused(photos: Path) -> None:
    data = FolderData(str(photos), seed=0, sampler=TWO, resolution=100)
    with pytest.raises(InputError, match="multiples of 16, got data.resolution = 100; nearest: 96"):
        refuse_sizes(data.augment, data.resolutions, TimmBackbone("test_vit"))


def test_held_out_photos_that_cannot_be_decoded_are_left_out(broken: Path) -> None:
    backbone = TimmBackbone("test_resnet")
    model = Embedder(backbone, GlobalMax(backbone.dim), torch.nn.Identity())
    module = SimpleNamespace(embedder=model, device="cpu")
    values = []
    for root in (broken, broken):
        held_out = HeldOut(SameLandmark(read(root, "skip")), Extract([48], workers=0), 48)
        values.append(held_out.value(module))
        assert len(held_out.benchmark.gallery) == 19
        (broken / "dome/0.jpg").unlink(missing_ok=True)
    assert values[0] == values[1]
