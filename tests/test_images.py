"""Photos: sizes from headers, crops, EXIF, what cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retrieval.data.images import (
    ORIENTATION,
    Photo,
    UnreadablePhoto,
    decode,
    fit,
    full_size,
    target_size,
    target_sizes,
    unreadable,
)
from retrieval.data.tensors import normalised, padded, to_bytes, to_tensor
from retrieval.errors import InputError

sides = st.integers(1, 3000)


def saved(path: Path, width: int, height: int, orientation: int = 1) -> Photo:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", (width, height), "red").save(path, exif=exif)
    return Photo(str(path))


@given(sides, sides, st.integers(1, 2000))
def test_fitted_sizes_are_those_of_pillows_thumbnail(width: int, height: int, resolution: int) -> None:
    image = Image.new("1", (width, height))
    image.thumbnail((resolution, resolution))
    assert fit((width, height), resolution) == image.size


@given(sides, sides, st.integers(14, 2000), st.sampled_from([14, 16, 32]))
def test_sides_are_multiples(width: int, height: int, resolution: int, multiple: int) -> None:
    assert all(side % multiple == 0 and side > 0 for side in fit((width, height), resolution, multiple))


def test_the_size_of_a_turned_photo_is_known_from_its_header(tmp_path: Path) -> None:
    photo = saved(tmp_path / "turned.jpg", 60, 40, orientation=6)
    assert full_size(photo) == decode(photo).size == (40, 60)


def test_a_photo_is_left_as_stored_where_the_benchmark_says_so(tmp_path: Path) -> None:
    photo = Photo(saved(tmp_path / "turned.jpg", 60, 40, orientation=6).path, upright=False)
    assert full_size(photo) == decode(photo).size == (60, 40)


def test_a_box_is_cropped_first_and_shrunk_in_proportion(tmp_path: Path) -> None:
    path = saved(tmp_path / "query.jpg", 400, 200).path
    assert target_size(Photo(path, box=(10.4, 0, 110.4, 50)), resolution=200) == (50, 25)


def test_a_box_without_pixels_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "query.jpg", 40, 20).path
    with pytest.raises(InputError, match="at least one pixel"):
        target_size(Photo(path, box=(5, 5, 5, 9)), resolution=20)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_pixels_of_every_usual_kind_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    Image.new(mode, (8, 6)).save(path)
    assert decode(Photo(str(path))).mode == "RGB"


def test_sixteen_bit_pixels_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UnreadablePhoto, match=r"deep\.png: its pixels are I;16"):
        decode(Photo(str(tmp_path / "deep.png")))


def test_the_path_of_an_unreadable_photo_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(UnreadablePhoto, match=r"broken\.jpg"):
        unreadable([Photo(str(tmp_path / "broken.jpg"))], "refuse")


def test_skipping_finds_photos_cut_short(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.jpg", 300, 200)
    cut = Photo(str(tmp_path / "cut.jpg"))
    Path(cut.path).write_bytes(Path(whole.path).read_bytes()[:700])
    assert unreadable([whole, cut], "skip") == [cut.path]


def test_other_ways_with_unreadable_photos_are_refused() -> None:
    with pytest.raises(InputError, match="'refuse' or 'skip', got 'ignore'"):
        unreadable([], "ignore")


@pytest.mark.parametrize(("least", "size"), [((100, 60), (100, 60)), ((101, 60), (200, 120)), ((9, 9), (50, 30))])
def test_a_draft_is_the_smallest_part_of_a_jpeg_that_is_large_enough(
    tmp_path: Path, least: tuple[int, int], size: tuple[int, int]
) -> None:
    assert decode(saved(tmp_path / "photo.jpg", 400, 240), least).size == size


def test_a_draft_of_a_turned_photo_is_large_enough_both_ways(tmp_path: Path) -> None:
    assert decode(saved(tmp_path / "turned.jpg", 400, 240, orientation=6), (60, 110)).size == (120, 200)


def test_a_box_is_never_cut_from_a_draft(tmp_path: Path) -> None:
    path = saved(tmp_path / "photo.jpg", 400, 240).path
    assert decode(Photo(path, box=(0, 0, 200, 100)), (20, 10)).size == (200, 100)


def test_a_photo_that_is_no_jpeg_has_no_draft(tmp_path: Path) -> None:
    assert decode(saved(tmp_path / "photo.png", 400, 240), (100, 60)).size == (400, 240)


def test_sizes_read_by_threads_come_in_the_order_of_the_photos(tmp_path: Path) -> None:
    photos = [saved(tmp_path / f"{i}.png", 10 + i, 5) for i in range(40)]
    assert target_sizes(photos, 100) == [(10 + i, 5) for i in range(40)]


def test_bytes_normalised_later_are_the_tensor_normalised_at_once() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    later, at_once = normalised(to_bytes(image)[None], mean, std)[0], to_tensor(image, mean, std)
    expected = (np.asarray(image, dtype=np.float32) / 255 - np.float32(mean)) / np.float32(std)
    assert torch.equal(later, at_once) and np.array_equal(at_once.permute(1, 2, 0).numpy(), expected)


def test_padded_photos_stand_at_the_top_left_of_zeros() -> None:
    photos = [torch.rand(3, 4, 6), torch.rand(3, 5, 2)]
    pixels, sizes = padded(photos)
    assert pixels.shape == (2, 3, 5, 6) and sizes is not None and sizes.tolist() == [[4, 6], [5, 2]]
    for photo, place in zip(photos, pixels, strict=True):
        assert torch.equal(place[:, : photo.shape[1], : photo.shape[2]], photo)
    assert pixels.sum() == pytest.approx(sum(photo.sum().item() for photo in photos), rel=1e-5)


def test_photos_of_one_size_are_not_padded() -> None:
    assert padded([torch.rand(3, 4, 6), torch.rand(3, 4, 6)]).sizes is None


@pytest.mark.parametrize("square", [False, True])
def test_a_box_without_a_pixel_is_refused_at_any_ratio(photos: Path, square: bool) -> None:
    photo = Photo(str(photos / "arch" / "0.jpg"), (0.0, 0.0, 0.3, 0.3))
    with pytest.raises(InputError, match="at least one pixel"):
        target_size(photo, 96, square=square)
