"""Photos: what is known of them from their headers, and how they are decoded and resized; without torch."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from retrieval.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)  # orientations of a photo whose width is stored as its height
Size = tuple[int, int]  # width, height, as in Pillow


@dataclass(frozen=True)
class Photo:
    """A photo, or the part of it in `box` (left, top, right, bottom in pixels); `upright`: turned as EXIF says."""

    path: str
    box: tuple[float, float, float, float] | None = None
    upright: bool = True


class UnreadablePhoto(InputError):
    """A file that cannot be decoded; the message names it (and is all there is, to cross from worker processes)."""


def full_size(photo: Photo) -> Size:
    """Width and height of the whole photo, from the header alone."""
    try:
        with Image.open(photo.path) as image:
            turned = photo.upright and image.getexif().get(ORIENTATION, 1) in SIDEWAYS
            width, height = image.size
            return (height, width) if turned else (width, height)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise UnreadablePhoto(f"unreadable photo {photo.path}: {error}") from error


def decode(photo: Photo, at_least: Size | None = None) -> Image.Image:
    """The photo in RGB, turned and cropped to its box.

    at_least: a whole photo that is a JPEG may come out at a half, a quarter or an eighth of its size, no smaller than
    this; faster, as the decoder itself averages blocks of pixels, and with other pixels than resizing gives.
    """
    try:
        with Image.open(photo.path) as image:
            if at_least and photo.box is None:
                turned = photo.upright and image.getexif().get(ORIENTATION, 1) in SIDEWAYS
                image.draft(None, (at_least[1], at_least[0]) if turned else at_least)
            rgb = to_rgb(image, photo.upright)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise UnreadablePhoto(f"unreadable photo {photo.path}: {error}") from error
    return rgb.crop(whole_pixels(photo.box)) if photo.box else rgb


def to_rgb(image: Image.Image, upright: bool = True) -> Image.Image:
    """The image in RGB, turned as its EXIF data says if `upright`; pixels of more than 8 bits are refused."""
    if image.mode[0] in "IF":
        raise ValueError(f"its pixels are {image.mode}, accepted are 8-bit grey, colour, palette and CMYK")
    return (ImageOps.exif_transpose(image) if upright else image).convert("RGB")


def resized(rgb: Image.Image, size: Size) -> Image.Image:
    """The image at a size, by Lanczos; untouched if it has it."""
    return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS)


def whole_pixels(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """A box on whole pixels, as Pillow rounds it when it crops."""
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, right, bottom


def target_size(photo: Photo, resolution: int, multiple: int = 1, square: bool = False) -> Size:
    """Size at which a photo is described: longer side at most `resolution`, never enlarged, each side a multiple.

    A box's longer side becomes resolution * max(box) / max(photo) (Radenovic et al., CVPR 2018: crop first).
    """
    left, top, right, bottom = whole_pixels(photo.box or (0, 0, 1, 1))
    part = (right - left, bottom - top)
    if min(part) < 1:
        raise InputError(f"the box of {photo.path} must hold at least one pixel, got {photo.box}")
    if square:
        return nearest(resolution, multiple), nearest(resolution, multiple)
    whole = full_size(photo)
    if photo.box is None:
        return fit(whole, resolution, multiple)
    return fit(part, resolution * max(part) / max(whole), multiple)


def target_sizes(photos: Sequence[Photo], resolution: int, multiple: int = 1, square: bool = False) -> list[Size]:
    """`target_size` of each; threads read the headers, as a disk far away answers many at once."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda photo: target_size(photo, resolution, multiple, square), photos))


def fit(size: Size, longer: float, multiple: int = 1) -> Size:
    """`size` shrunk until its longer side is at most `longer`, rounded as Pillow's thumbnail does."""
    (wide, high), limit = size, max(1, int(longer))
    aspect = wide / high
    if max(size) > limit and wide > high:
        wide, high = limit, min(_whole(limit / aspect), key=lambda side: abs(aspect - limit / side))
    elif max(size) > limit:
        wide, high = min(_whole(limit * aspect), key=lambda side: abs(aspect - side / limit)), limit
    return nearest(wide, multiple), nearest(high, multiple)


def _whole(side: float) -> tuple[int, int]:
    return max(1, math.floor(side)), max(1, math.ceil(side))


def nearest(side: int, multiple: int) -> int:
    """The multiple nearest to a side, at least one."""
    return max(multiple, round(side / multiple) * multiple)


def found(root: Path) -> list[Path]:
    """Image files directly in a folder, sorted by name; hidden files are left out."""
    return sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def unreadable(photos: Sequence[Photo], on_unreadable: str) -> list[str]:
    """Paths of the photos to be left out; every photo is decoded, as a header says nothing of what is cut off.

    on_unreadable: 'refuse' raises UnreadablePhoto at the first fault; 'skip' names them on the terminal.
    """
    if on_unreadable not in ("refuse", "skip"):
        raise InputError(f"on_unreadable must be 'refuse' or 'skip', got {on_unreadable!r}")
    skipped = []
    with ThreadPoolExecutor() as pool:
        for fault in tqdm(pool.map(_fault, photos), "checking photos", len(photos), leave=False, disable=None):
            if fault and on_unreadable == "refuse":
                raise fault[1]
            if fault:
                tqdm.write(f"skipped: {fault[1]}")
                skipped.append(fault[0])
    return skipped


def _fault(photo: Photo) -> tuple[str, UnreadablePhoto] | None:
    try:
        decode(photo)
    except UnreadablePhoto as error:
        return photo.path, error
    return None


def by_shape(shapes: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """Batches of indices of equal shape, at most `batch_size` each, in a fixed order."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, shape in enumerate(shapes):
        groups[shape].append(index)
    return [group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)]


def by_size(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Batches of indices of sizes that differ little, in a fixed order: sorted by width, then height, and cut."""
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
