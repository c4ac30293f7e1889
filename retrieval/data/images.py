"""Photos: what is known of them from their headers, and how they are decoded and resized; without torch."""

import io
import logging
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError, features

from retrieval.data.contents import stamp
from retrieval.errors import InputError
from retrieval.extras import command

SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif", ".avif", ".heic", ".heif",
)  # fmt: skip
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)  # orientations of a photo whose width is stored as its height
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED_BACK = {**TURNED, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
MAX_PIXELS = 1_000_000_000  # of a photo, unless the configuration or the environment says otherwise
LIMIT = "RETRIEVAL_MAX_PIXELS"  # environment variable: worker processes inherit it, however they are started
LARGE = 178_956_970  # pixels of a photo from which `decode` may reduce it
REDUCED = 4  # how many times its target's sides such a photo keeps at least
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
Size = tuple[int, int]  # width, height, as in Pillow

Image.MAX_IMAGE_PIXELS = None  # Pillow's limit; `max_pixels` takes its place
warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata: a photo that cannot be read raises
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Photo:
    """A photo, or the part of it in `box` (left, top, right, bottom in pixels); `upright`: turned as EXIF says."""

    path: str
    box: tuple[float, float, float, float] | None = None
    upright: bool = True


class UnreadablePhoto(InputError):
    """A file that cannot be decoded; the message names it (and is all there is, to cross from worker processes)."""


def limit_pixels(most: Any) -> None:
    """Set `images.max_pixels`, in this process and those that it starts from now on. Raises InputError."""
    os.environ[LIMIT] = str(_pixels(most))


def max_pixels() -> int:
    """Pixels that a photo may have."""
    return _pixels(os.environ.get(LIMIT, MAX_PIXELS))


def _pixels(value: Any) -> int:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 1 <= number < math.inf or number % 1:
        raise InputError(f"images.max_pixels must be a whole number from 1, got {value!r}")
    return int(number)


def lacking(suffix: str) -> str | None:
    """What must be installed to read images of a suffix; None where all is there."""
    if suffix in (".heic", ".heif") and find_spec("pillow_heif") is None:
        return command("heif")
    return "install a Pillow with AVIF" if suffix == ".avif" and not features.check("avif") else None


def full_size(photo: Photo, data: bytes | None = None, known: bool = False) -> Size:
    """Width and height of the whole photo, from the header alone; data: the bytes of its file, if they were read.

    known: see `opened`.
    """
    with opened(photo, data, known) as image:
        width, height = stored_size(image)
        return (height, width) if photo.upright and orientation(image) in SIDEWAYS else (width, height)


def decode(
    photo: Photo, at_least: Size | None = None, target: Size | None = None, data: bytes | None = None
) -> Image.Image:
    """The photo in RGB, turned and cropped to its box; of an animation or several pages the first.

    at_least: a whole photo that is a JPEG may come out at a half, a quarter or an eighth of its size, no smaller than
    this; faster, as the decoder itself averages blocks of pixels, and with other pixels than resizing gives.
    target: size that it will be resized to. A whole JPEG of more than 179 megapixels, which takes gigabytes in full,
    is reduced in this way to no less than four times its target; other photos are not.
    data: the bytes of its file, if they were read.
    """
    with opened(photo, data) as image:
        return pixels(image, photo, at_least, target)


def pixels(image: Image.Image, photo: Photo, at_least: Size | None = None, target: Size | None = None) -> Image.Image:
    """`decode` of an image that is `opened`."""
    if target and not at_least and math.prod(image.size) > LARGE:
        at_least = (REDUCED * target[0], REDUCED * target[1])
    if at_least and photo.box is None:
        turned = photo.upright and orientation(image) in SIDEWAYS
        image.draft(None, (at_least[1], at_least[0]) if turned else at_least)
    rgb = to_rgb(image, photo.upright)
    if photo.box is None:
        return rgb
    left, top, right, bottom = whole_pixels(photo.box)
    if min(right - left, bottom - top) < 1 or (right - left) * (bottom - top) > max_pixels():
        raise ValueError(f"its box must hold 1 to {max_pixels():,} pixels, got {photo.box}")
    return rgb.crop((left, top, right, bottom))


@contextmanager
def opened(photo: Photo, content: bytes | None = None, known: bool = False) -> Iterator[Image.Image]:
    """Within it a photo's image, of which the header is read. Raises UnreadablePhoto, also for what happens within.

    content: the file's bytes, where they are at hand; else only a regular file is opened, as a pipe would wait. known:
    it was seen to be one.
    """
    try:
        if content is None and not known:
            stamp(photo.path)
    except InputError as error:
        raise UnreadablePhoto(str(error)) from error
    try:
        with _identified(photo.path if content is None else io.BytesIO(content)) as image:
            if math.prod(image.size) > max_pixels():
                raise ValueError(
                    f"it has {image.width:,} x {image.height:,} pixels, more than images.max_pixels = {max_pixels():,} "
                    f"(or {LIMIT} in the environment)"
                )
            yield image
    except Exception as error:  # a decoder of a broken file raises whatever comes
        raise UnreadablePhoto(f"unreadable photo {photo.path}: {error or type(error).__name__}") from error


def _identified(source: str | BinaryIO) -> Image.Image:
    """The image of a file. Raises ValueError where its kind cannot be read, naming what would read it."""
    try:
        return Image.open(source)
    except UnidentifiedImageError:
        kind = _kind(_head(source))
    if kind == "HEIC" and find_spec("pillow_heif"):
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]

        register_heif_opener()
        return Image.open(source)
    if kind and (lacks := lacking(f".{kind.lower()}")):
        raise ValueError(f"it is {kind}: {lacks} to read it")
    raise ValueError(f"it is a broken {kind}" if kind else "it is no image of a known kind")


def _head(source: str | BinaryIO) -> bytes:
    if isinstance(source, str):
        with open(source, "rb") as file:
            return file.read(64)
    source.seek(0)
    head = source.read(64)
    source.seek(0)
    return head


def _kind(head: bytes) -> str | None:
    """HEIC or AVIF, whatever the file's suffix (ISO/IEC 23008-12: a box `ftyp` and its brands come first)."""
    if head[4:8] != b"ftyp":
        return None
    brands = head[8 : int.from_bytes(head[:4], "big")]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    return "HEIC" if any(brand in brands for brand in HEIC) else None


def orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF has it. A HEIC has 1, as its decoder turns it."""
    png = image.format == "PNG" and "exif" not in image.info
    exif = Image.Image.getexif(image) if png and not _described_late(image) else image.getexif()
    return exif.get(ORIENTATION, 1)


def _described_late(image: Any) -> bool:
    """Whether a PNG's EXIF or text stands behind its pixels: Pillow decodes them to find it, and others for nothing."""
    file, late, behind = getattr(image, "fp", None), False, False
    if file is None:  # decoded
        return True
    place = file.tell()
    file.seek(8)
    while not late and len(head := file.read(8)) == 8:
        late = behind and head[4:] in (b"eXIf", b"iTXt", b"zTXt", b"tEXt")
        behind |= head[4:] == b"IDAT"
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    file.seek(place)
    return late


def stored_size(image: Any) -> Size:
    """Width and height as stored; Pillow says those of a TIFF turned."""
    turned = image.format == "TIFF" and image.tag_v2.get(ORIENTATION) in SIDEWAYS
    return (image.height, image.width) if turned else image.size


def to_rgb(image: Image.Image, upright: bool = True) -> Image.Image:
    """The image in RGB on white, turned as its EXIF data says if `upright`; pixels of more than 8 bits are refused."""
    if image.mode[0] in "IF":
        raise ValueError(f"its pixels are {image.mode}, accepted are 8-bit grey, colour, palette and CMYK")
    turns_itself = image.format == "TIFF"  # when Pillow decodes it
    turn = None if upright == turns_itself else (TURNED if upright else TURNED_BACK).get(orientation(image))
    rgb = _opaque(image) if image.has_transparency_data else image.convert("RGB")
    turned = rgb.transpose(turn) if turn is not None else rgb
    turned.info = {}  # its orientation holds no longer
    return turned


def _opaque(image: Any) -> Image.Image:
    """The image on white: what is hidden under transparency has no say."""
    if image.format == "PNG" and any("RGB;16B" in str(tile) for tile in image.tile):  # Pillow cuts the pixels alone
        image.info["transparency"] = tuple(level >> 8 for level in image.info["transparency"])
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def resized(rgb: Image.Image, size: Size) -> Image.Image:
    """The image at a size, by Lanczos; untouched if it has it."""
    return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS)


def whole_pixels(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """A box on whole pixels, as Pillow rounds it when it crops."""
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, right, bottom


def target_size(
    photo: Photo, resolution: int, multiple: int = 1, square: bool = False, whole: Size | None = None
) -> Size:
    """Size at which a photo is described: longer side at most `resolution`, never enlarged, each side a multiple.

    A box's longer side becomes resolution * max(box) / max(photo) (Radenovic et al., CVPR 2018: crop first).
    whole: the photo's `full_size`, where that is known.
    """
    left, top, right, bottom = whole_pixels(photo.box or (0, 0, 1, 1))
    part = (right - left, bottom - top)
    if min(part) < 1:
        raise InputError(f"the box of {photo.path} must hold at least one pixel, got {photo.box}")
    if square:
        return nearest(resolution, multiple), nearest(resolution, multiple)
    whole = whole or full_size(photo)
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


def fault(photo: Photo, data: bytes | None = None) -> str:
    """Why a photo cannot be decoded; "" where it can. It is decoded, as a header says nothing of what is cut off."""
    try:
        decode(photo, data=data)
    except UnreadablePhoto as error:
        return str(error)
    return ""


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
