"""Photos: sizes from headers, crops, EXIF, what cannot be read."""

import multiprocessing
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image, features

from retrieval import evaluation, training
from retrieval.config import compose
from retrieval.data import images
from retrieval.data.images import (
    ORIENTATION,
    Photo,
    UnreadablePhoto,
    decode,
    fault,
    fit,
    full_size,
    limit_pixels,
    target_size,
    target_sizes,
)
from retrieval.data.tensors import normalised, padded, to_bytes, to_tensor
from retrieval.errors import InputError
from retrieval.export.asked import Asked

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


def quadrants() -> NDArray[np.uint8]:
    """(32, 64, 3): red, green, blue and grey quarters."""
    pixels = np.full((32, 64, 3), 128, np.uint8)
    for colour, (row, column) in enumerate(((0, 0), (0, 32), (16, 0))):
        pixels[row : row + 16, column : column + 32] = 230 * np.eye(3, dtype=np.uint8)[colour]
    return pixels


# what each orientation of EXIF means
TURNS: dict[int, Callable[[NDArray], NDArray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}
FORMATS: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 95},
    "png": {},
    "tiff": {},
    "tif": {"compression": "tiff_lzw"},
    "webp": {"lossless": True},
    "avif": {"quality": 95},
}


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_size_and_pixels_agree_in_every_orientation_and_format(
    tmp_path: Path, suffix: str, orientation: int, upright: bool
) -> None:
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(quadrants()).save(tmp_path / f"photo.{suffix}", exif=exif, **FORMATS[suffix])
    photo = Photo(str(tmp_path / f"photo.{suffix}"), upright=upright)
    expected = TURNS[orientation](quadrants()) if upright else quadrants()
    found = decode(photo)
    assert full_size(photo) == found.size == expected.shape[1::-1]
    middles = np.s_[8::16, 8::16]  # far from edges, which lossy formats blur
    np.testing.assert_allclose(np.asarray(found)[middles].astype(int), expected[middles].astype(int), atol=12)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_what_was_turned_is_not_turned_again(tmp_path: Path, suffix: str) -> None:
    turned = decode(saved(tmp_path / f"turned.{suffix}", 60, 40, orientation=6))
    assert images.to_rgb(turned).size == turned.size == (40, 60)


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "gif"])
def test_formats_without_exif_are_as_stored(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(quadrants()).save(tmp_path / f"photo.{suffix}")
    for upright in (True, False):
        photo = Photo(str(tmp_path / f"photo.{suffix}"), upright=upright)
        assert full_size(photo) == (64, 32) and np.array_equal(np.asarray(decode(photo)), quadrants())


@pytest.mark.parametrize("orientation", TURNS)
def test_a_heic_is_turned_by_its_decoder_alone(tmp_path: Path, orientation: int) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(quadrants()).save(tmp_path / "photo.heic", quality=95, exif=exif)
    sizes = {full_size(Photo(str(tmp_path / "photo.heic"), upright=upright)) for upright in (True, False)}
    shown = [np.asarray(decode(Photo(str(tmp_path / "photo.heic"), upright=upright))) for upright in (True, False)]
    assert sizes == {(shown[0].shape[1], shown[0].shape[0])} and np.array_equal(shown[0], shown[1])


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(kind: int, depth: int, pixel: bytes, transparency: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of 6 x 4 equal pixels; kind: its colour type. after: chunks behind the pixels."""
    header = struct.pack(">IIBBBBB", 6, 4, depth, kind, 0, 0, 0)
    held = chunk(b"tRNS", transparency) if transparency else b""
    data = chunk(b"IDAT", zlib.compress((b"\0" + 6 * pixel) * 4))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + held + data + after + chunk(b"IEND", b"")


def test_the_orientation_behind_the_pixels_of_a_png_is_found(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    (tmp_path / "late.png").write_bytes(png(2, 8, b"abc", after=chunk(b"eXIf", exif.tobytes()[6:])))
    photo = Photo(str(tmp_path / "late.png"))
    assert full_size(photo) == decode(photo).size == (4, 6)


def test_the_size_of_a_png_is_known_without_its_pixels(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(png(2, 8, b"abc")[:45])
    assert full_size(Photo(str(tmp_path / "cut.png"))) == (6, 4)
    with pytest.raises(UnreadablePhoto, match=r"cut\.png"):
        decode(Photo(str(tmp_path / "cut.png")))


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


@pytest.mark.parametrize("hidden", [0, 130, 255])
@pytest.mark.parametrize("alpha", [0, 64, 255])
def test_what_is_hidden_under_transparency_changes_no_pixel(tmp_path: Path, hidden: int, alpha: int) -> None:
    """Half of the picture is seen through, and looks the same whatever its colours are; white paper lies below."""
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, :3] = (20, 200, 90, alpha)
    pixels[:, 3:] = (hidden, 255 - hidden, hidden, 0)
    expected = np.full((4, 6, 3), 255.0)
    expected[:, :3] += (np.array([20, 200, 90]) - 255.0) * alpha / 255
    for name in ("a.png", "a.tiff", "a.webp"):
        Image.fromarray(pixels).save(tmp_path / name, lossless=True, exact=True)
        np.testing.assert_allclose(np.asarray(decode(Photo(str(tmp_path / name)))), expected, atol=1)


@pytest.mark.parametrize(
    ("kind", "depth", "pixel", "transparency"),
    [
        (0, 8, b"\x07", b"\0\x07"),
        (2, 8, b"abc", b"\0a\0b\0c"),
        (2, 16, b"aAbBcC", b"aAbBcC"),
        (4, 8, b"\x07\0", b""),
        (4, 16, b"\x07\x01\0\0", b""),
        (6, 8, b"abc\0", b""),
        (6, 16, b"aAbBcC\0\0", b""),
    ],
)
def test_a_transparent_png_of_any_kind_is_white(
    tmp_path: Path, kind: int, depth: int, pixel: bytes, transparency: bytes
) -> None:
    (tmp_path / "clear.png").write_bytes(png(kind, depth, pixel, transparency))
    assert (np.asarray(decode(Photo(str(tmp_path / "clear.png")))) == 255).all()


@pytest.mark.parametrize(("name", "transparency"), [("a.png", b"\0\xff"), ("a.png", 0), ("a.gif", 0)])
def test_transparent_colours_of_a_palette_are_white(tmp_path: Path, name: str, transparency: bytes | int) -> None:
    image = Image.new("P", (6, 4))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.paste(1, (3, 0, 6, 4))
    image.save(tmp_path / name, transparency=transparency)
    found = np.asarray(decode(Photo(str(tmp_path / name))))
    assert (found[:, :3] == 255).all() and (found[:, 3:] == (200, 100, 0)).all()


def test_the_first_picture_of_an_animation_is_taken(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (6, 4), "red"), Image.new("RGB", (6, 4), "blue")
    for name in ("a.gif", "a.webp", "a.tiff"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert np.array_equal(np.asarray(decode(Photo(str(tmp_path / name)))), np.asarray(first))


def test_pillow_warns_of_nothing_on_the_terminal(tmp_path: Path) -> None:
    palette = Image.new("P", (6, 4))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.save(tmp_path / "palette.png", transparency=b"\0\xff")
    exif = Image.Exif()
    exif[0x010E] = "a description" * 10
    Image.new("RGB", (6, 4)).save(tmp_path / "cut.jpg", exif=exif.tobytes()[:-60])
    code = (
        "import sys; from retrieval.data.images import Photo, decode, full_size\n"
        "for path in sys.argv[1:]: full_size(Photo(path)), decode(Photo(path))"
    )
    paths = [str(tmp_path / name) for name in ("palette.png", "cut.jpg")]
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""


def test_a_photo_of_more_pixels_than_allowed_is_named_with_its_size_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = saved(tmp_path / "large.png", 60, 40)
    monkeypatch.setenv(images.LIMIT, "2400")
    assert full_size(photo) == decode(photo).size == (60, 40)
    limit_pixels("2.399e3")
    for read in (full_size, decode):
        with pytest.raises(UnreadablePhoto, match=r"large\.png: it has 60 x 40 pixels.*images.max_pixels = 2,399"):
            read(photo)


def test_photos_beyond_the_limit_of_pillow_are_sized(tmp_path: Path) -> None:
    (tmp_path / "huge.ppm").write_bytes(b"P6 20000 15000 255\n")
    assert full_size(Photo(str(tmp_path / "huge.ppm"))) == (20_000, 15_000)


@pytest.mark.parametrize("most", [0, -1, 1.5, "many", None, True, float("inf"), float("nan")])
def test_a_limit_that_is_no_number_of_pixels_is_refused(most: object) -> None:
    with pytest.raises(InputError, match=r"images\.max_pixels must be a whole number from 1, got"):
        limit_pixels(most)


def test_a_process_that_is_started_has_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(images.LIMIT, "1")
    limit_pixels(2399)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(images.max_pixels).result() == 2399


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("train", training.fit),
        ("eval", lambda cfg: evaluation.Asked.of(cfg, set())),
        ("export", Asked.of),
    ],
)
def test_the_key_of_a_command_sets_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, use: Callable[[DictConfig], object]
) -> None:
    monkeypatch.setenv(images.LIMIT, "7e6")
    assert float(compose(name, [], tmp_path / "out").images.max_pixels) == 7e6
    with pytest.raises(InputError, match=r"images\.max_pixels must be a whole number from 1, got 0\.5"):
        use(compose(name, ["images.max_pixels=0.5"], tmp_path / "out"))


def test_a_huge_jpeg_is_reduced_to_no_less_than_four_times_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, other = saved(tmp_path / "huge.jpg", 400, 240, orientation=6), saved(tmp_path / "huge.png", 400, 240)
    assert decode(photo, target=(20, 30)).size == (240, 400)
    monkeypatch.setattr(images, "LARGE", 400 * 240 - 1)
    assert decode(photo, target=(20, 30)).size == (120, 200)
    assert decode(photo, target=(31, 50)).size == decode(photo).size == (240, 400)
    assert decode(Photo(photo.path, box=(0, 0, 200, 100)), target=(20, 30)).size == (200, 100)
    assert decode(other, target=(20, 30)).size == (400, 240)


@pytest.mark.parametrize("read", [full_size, decode])
def test_a_named_pipe_is_named_and_never_opened(tmp_path: Path, read: Callable[[Photo], object]) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    said: list[str] = []

    def refused() -> None:
        with pytest.raises(UnreadablePhoto) as error:
            read(Photo(str(tmp_path / "pipe.jpg")))
        said.append(str(error.value))

    reading = Thread(target=refused, daemon=True)  # one that waits for the pipe is left behind
    reading.start()
    reading.join(timeout=20)
    assert said and "pipe.jpg is a named pipe" in said[0]


@pytest.mark.parametrize("brand", [b"heic", b"mif1\0\0\0\0mif1heic"])
def test_a_heic_is_called_that_whatever_its_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brand: bytes
) -> None:
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    box = b"ftyp" + brand
    (tmp_path / "photo.jpg").write_bytes(struct.pack(">I", len(box) + 4) + box + bytes(100))
    with pytest.raises(UnreadablePhoto, match=r"photo\.jpg: it is HEIC: pip install '.+\[heif\]' to read it"):
        full_size(Photo(str(tmp_path / "photo.jpg")))


def test_a_heic_named_jpg_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    Image.fromarray(quadrants()).save(tmp_path / "photo.heic")
    (tmp_path / "photo.heic").rename(tmp_path / "photo.jpg")
    assert decode(Photo(str(tmp_path / "photo.jpg"))).size == (64, 32)


def test_bytes_are_decoded_as_their_file_is(tmp_path: Path) -> None:
    photo = saved(tmp_path / "photo.png", 60, 40, orientation=6)
    with images.opened(photo, Path(photo.path).read_bytes()) as image:
        assert images.pixels(image, photo).tobytes() == decode(photo).tobytes()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_photo_or_unreadable(content: bytes) -> None:
    for start in (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM", b"P6 9 9 255\n"):
        try:
            with images.opened(Photo("photo"), start + content) as image:
                images.pixels(image, Photo("photo"))
        except UnreadablePhoto as error:
            assert "photo" in str(error)


def test_sixteen_bit_pixels_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UnreadablePhoto, match=r"deep\.png: its pixels are I;16"):
        decode(Photo(str(tmp_path / "deep.png")))


def test_the_path_of_an_unreadable_photo_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    assert fault(Photo(str(tmp_path / "broken.jpg"))).startswith(f"unreadable photo {tmp_path / 'broken.jpg'}: ")


def test_a_photo_cut_short_is_a_fault(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.jpg", 300, 200)
    cut = Photo(str(tmp_path / "cut.jpg"))
    Path(cut.path).write_bytes(Path(whole.path).read_bytes()[:700])
    assert fault(cut) and not fault(whole)


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
