"""The picture of a building's front, without colours: shares of materials and relief.

Colour comes from whoever photographs it, so that two buildings can differ in structure only.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from retrieval.data.drawing.architecture import Design, building
from retrieval.data.drawing.shapes import AIR, ROOF, WALL, Shape

SIDE = 448  # pixels of the longer side


@dataclass(frozen=True)
class Facade:
    """The front of a building, cropped to its outline, the ground at the lowest row.

    `materials` (H, W, 4) uint8 holds shares of wall, roof, trim and glass, darkened by their texture; `outline` (H, W)
    uint8 is 255 on the building; `relief` (H, W) float32 in [0, 1] is how far each point stands out.
    """

    materials: np.ndarray
    outline: np.ndarray
    relief: np.ndarray
    scale: int = 1  # world units of a pixel

    @property
    def width(self) -> int:
        return self.outline.shape[1] * self.scale

    @property
    def height(self) -> int:
        return self.outline.shape[0] * self.scale


def facade(d: Design) -> Facade:
    """Draws the front of a building, its longer side `SIDE` pixels."""
    shapes = list(building(d))
    corners = np.array([point for shape in shapes for point in shape.points])
    (left, _), (right, top) = corners.min(0), corners.max(0)
    scale = SIDE / max(right - left, top)
    width, height = round((right - left) * scale), round(top * scale)
    materials, relief = _rasterise(shapes, left, top, 2 * scale, (2 * width, 2 * height))
    shares = np.asarray(materials.reduce(2), np.float32)
    outline = np.minimum(shares.sum(2), 255).astype(np.uint8)
    shares[..., WALL] *= _laid(d.masonry, height, width)
    shares[..., ROOF] *= _tiled(d.tiles, height, width)
    return Facade(shares.astype(np.uint8), outline, np.asarray(relief.reduce(2), np.float32) / 255)


def halved(full: Facade) -> Facade:
    """The same front with half the pixels, for buildings that stand around."""
    materials = np.asarray(Image.frombytes("CMYK", full.outline.shape[::-1], full.materials.tobytes()).reduce(2))
    outline, relief = (np.asarray(Image.fromarray(each).reduce(2)) for each in (full.outline, full.relief))
    return Facade(materials, outline, relief, 2 * full.scale)


def _rasterise(
    shapes: list[Shape], left: float, top: float, scale: float, size: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    # CMYK because it is Pillow's only mode of four channels that are all treated alike.
    materials, relief = Image.new("CMYK", size), Image.new("L", size)
    on_materials, on_relief = ImageDraw.Draw(materials), ImageDraw.Draw(relief)
    for points, material, height in shapes:
        pixels = [((x - left) * scale, (top - y) * scale) for x, y in points]
        on_materials.polygon(pixels, fill=tuple(255 * (material == each) for each in range(4)))
        on_relief.polygon(pixels, fill=0 if material == AIR else int(height))
    return materials, relief.filter(ImageFilter.BoxBlur(1))


def _laid(masonry: str, height: int, width: int) -> np.ndarray:
    """The brightness (H, W) in [0, 1] of a wall of a kind of masonry."""
    y, x = np.mgrid[:height, :width]
    if masonry == "plaster":
        return np.full((height, width), 0.93)
    if masonry == "striped":
        return np.where(y // 14 % 2, 1.0, 0.52)
    if masonry == "chequered":
        return np.where((y // 16 + x // 16) % 2, 1.0, 0.56)
    if masonry == "diapered":
        return np.where(((x + y) % 32 < 8) | ((x - y) % 32 < 8), 0.55, 0.98)
    if masonry == "boarded":
        return np.where(x % 18 < 5, 0.55, 0.97)
    course, length = {"brick": (6, 14), "ashlar": (20, 42)}[masonry]
    shifted = x + (y // course % 2) * (length // 2)
    tone = 0.7 + 0.3 * _scattered(y // course, shifted // length)
    return np.where((y % course == 0) | (shifted % length == 0), 0.6, tone)


def _tiled(tiles: str, height: int, width: int) -> np.ndarray:
    """The brightness (H, W) in [0, 1] of a roof of a kind of tiles."""
    y, x = np.mgrid[:height, :width]
    if tiles == "sheets":
        return np.where(x % 16 < 2, 0.6, 0.95)
    if tiles == "pantiles":
        return 0.8 + 0.2 * np.cos(x * 2 * np.pi / 9) * (y % 9 > 1)
    return np.where(y % 7 == 0, 0.6, 0.8 + 0.2 * _scattered(y // 7, (x + y // 7 % 2 * 5) // 10))


def _scattered(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each stone that looks random and is always the same."""
    return np.modf(np.abs(np.sin(row * 12.9898 + column * 78.233)) * 43758.5453)[0]
