"""Weather and light, sky and ground, and what stands in front of buildings."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WEATHERS = ("sun", "sun", "sun", "haze", "overcast", "overcast", "dusk", "night", "fog", "rain", "snow")


@dataclass(frozen=True)
class Light:
    """Colours are RGB in [0, 1]; `sun` is where shadows point (x, y), its length their strength."""

    weather: str
    sun: tuple[float, float]
    colour: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    veil: float
    lamps: float


def light(weather: str, rng: np.random.Generator) -> Light:
    """The light of a moment in some weather."""
    strength, gain, veil, lamps = {
        "sun": (1.0, 1.05, 0.0, 0.0), "haze": (0.6, 1.0, 0.15, 0.0), "overcast": (0.35, 0.95, 0.05, 0.0),
        "dusk": (0.7, 0.85, 0.1, 0.25), "night": (0.3, 0.6, 0.0, 0.5), "fog": (0.2, 0.95, 0.45, 0.0),
        "rain": (0.25, 0.8, 0.2, 0.1), "snow": (0.3, 0.95, 0.25, 0.0),
    }[weather]  # fmt: skip
    warmth = rng.uniform(-0.12, 0.12) + (0.15 if weather in ("dusk", "night") else 0)
    colour = gain * rng.uniform(0.9, 1.1) * np.array([1 + warmth, 1 + rng.uniform(-0.06, 0.06), 1 - warmth])
    blue = rng.uniform(0, 1) * (weather in ("sun", "haze", "dusk", "night"))
    grey = np.full(3, rng.uniform(0.6, 0.9))
    zenith = gain * ((1 - blue) * grey + blue * np.array([0.30, 0.52, 0.85]))
    glow = np.array([0.95, 0.6, 0.4]) if weather == "dusk" else np.array([0.92, 0.92, 0.9])
    horizon = gain * (0.5 * grey + 0.5 * glow) * np.array([1 + warmth / 2, 1, 1 - warmth / 2])
    angle = rng.uniform(-1.2, 1.2)
    sun = (strength * np.sin(angle), strength * np.cos(angle))
    return Light(weather, sun, colour, zenith, horizon, veil * rng.uniform(0.7, 1.15), lamps)


def noise(rng: np.random.Generator, size: tuple[int, int], grain: int) -> np.ndarray:
    """Smooth noise (H, W) float32 in [0, 1] whose blotches are about `grain` pixels."""
    width, height = size
    coarse = rng.integers(0, 256, (height // grain + 3, width // grain + 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.float32) / 255


def sky(weather: Light, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """The sky with clouds; drawn at a third of its `size`, it has no fine detail."""
    small = (size[0] // 3, size[1] // 3)
    down = np.linspace(0, 1, small[1])[:, None, None] ** rng.uniform(0.6, 1.6)
    gradient = (1 - down) * weather.zenith + down * weather.horizon
    clouds = 0.6 * noise(rng, small, 16) + 0.4 * noise(rng, small, 6)
    cover = np.clip((clouds - rng.uniform(0.35, 0.75)) * 3, 0, 0.9)[..., None]
    colours = gradient * (1 - cover) + cover * 0.92 * weather.horizon
    return Image.fromarray((np.clip(colours, 0, 1) * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def paving(rng: np.random.Generator) -> Image.Image:
    """A square piece of ground (256, 256), RGB: grass, slabs, cobbles or tarmac."""
    y, x = np.ogrid[:256, :256]
    kind = rng.choice(["grass", "slabs", "cobbles", "tarmac"])
    tone = 0.75 + 0.25 * noise(rng, (256, 256), 5)
    if kind in ("slabs", "cobbles"):
        side = 32 if kind == "slabs" else 10
        tone = np.where((y % side < 2) | ((x + y // side % 2 * side // 2) % side < 2), 0.6, tone)
    colour = {"grass": (0.36, 0.46, 0.24), "slabs": (0.66, 0.62, 0.56), "cobbles": (0.52, 0.5, 0.48)}
    base = np.array(colour.get(str(kind), (0.36, 0.37, 0.39))) * rng.uniform(0.8, 1.2)
    return Image.fromarray((np.clip(tone[..., None] * base, 0, 1) * 255).astype(np.uint8))


def occluder(rng: np.random.Generator) -> tuple[Image.Image, float]:
    """A thing that stands in front of buildings, RGBA, and its height in world units."""
    kind = rng.choice(["tree", "tree", "person", "person", "person", "vehicle", "lamp", "bush"])
    picture = Image.new("RGBA", (96, 160))
    draw, (low, high) = OCCLUDERS[str(kind)]
    draw(ImageDraw.Draw(picture), rng)
    cropped = picture.crop(picture.getbbox())
    return cropped.filter(ImageFilter.SMOOTH), rng.uniform(low, high)


def _paint(rng: np.random.Generator, low: int = 20, high: int = 200) -> tuple[int, int, int, int]:
    red, green, blue = rng.integers(low, high, 3).tolist()
    return red, green, blue, 255


def _leaves(draw: ImageDraw.ImageDraw, rng: np.random.Generator, centre: tuple[float, float], spread: float) -> None:
    hue = np.array([rng.uniform(0.25, 0.6), rng.uniform(0.4, 0.6), rng.uniform(0.12, 0.28)])
    for x, y, radius, tone in np.clip(rng.normal(size=(70, 4)), -1.8, 1.8):
        px, py, r = centre[0] + spread * 0.42 * x, centre[1] + spread * 0.42 * y, spread * (0.2 + 0.05 * abs(radius))
        shade = (np.clip(hue * (0.62 + 0.14 * tone - 0.1 * y), 0, 1) * 255).astype(int).tolist()
        draw.ellipse((px - r, py - r, px + r, py + r), fill=(*shade, 255))


def _tree(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.polygon([(43, 160), (53, 160), (50, 70), (46, 70)], fill=(70, 52, 40, 255))
    if rng.random() < 0.25:
        for branch in range(14):
            tip = (48 + rng.normal() * 22, 12 + branch * 5)
            draw.line([(48, 60 + branch * 5), tip], fill=(70, 52, 40, 255), width=2)
    else:
        _leaves(draw, rng, (48, 50), rng.uniform(26, 38))


def _bush(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _leaves(draw, rng, (48, 130), 30)


def _person(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    coat, legs, skin = _paint(rng), _paint(rng, 20, 90), _paint(rng, 90, 220)
    draw.polygon([(38, 90), (58, 90), (56, 158), (50, 158), (48, 100), (44, 158), (38, 158)], fill=legs)
    draw.rounded_rectangle((34, 38, 62, 98), 10, fill=coat)
    draw.ellipse((40, 16, 56, 38), fill=skin)


def _vehicle(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    paint, tall = _paint(rng, 40, 230), int(rng.choice([90, 112]))
    draw.rounded_rectangle((2, 122, 94, 150), 6, fill=paint)
    draw.polygon([(14, 126), (22, tall), (76, tall), (88, 126)], fill=paint)
    for x in (27, 52):
        draw.rectangle((x, tall + 5, x + 20, 122), fill=(60, 72, 84, 255))
    for x in (20, 74):
        draw.ellipse((x - 10, 140, x + 10, 160), fill=(28, 28, 30, 255))


def _lamp(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    metal = _paint(rng, 20, 70)
    draw.rectangle((46, 30, 50, 160), fill=metal)
    draw.polygon([(38, 30), (58, 30), (54, 8), (42, 8)], fill=metal)
    draw.ellipse((43, 12, 53, 28), fill=(240, 225, 170, 255))


def weathered(photo: np.ndarray, weather: Light, rng: np.random.Generator) -> np.ndarray:
    """Falling rain or snow over a photo (H, W, 3) float32."""
    if weather.weather not in ("rain", "snow"):
        return photo
    height, width, _ = photo.shape
    layer = Image.new("L", (width, height))
    draw, slant = ImageDraw.Draw(layer), rng.normal() * 4
    for x, y, size in rng.random((150, 3)) * (width, height, 1):
        if weather.weather == "rain":
            draw.line([(x, y), (x + slant * size, y + 5 + 12 * size)], fill=int(40 + 60 * size))
        else:
            draw.ellipse((x, y, x + 1 + 3 * size, y + 1 + 3 * size), fill=int(120 + 120 * size))
    fallen = np.asarray(layer, np.float32)[..., None] / 255
    return photo * (1 - fallen) + fallen * 0.95


# How each is drawn, and the least and greatest height in world units.
OCCLUDERS = {
    "tree": (_tree, (120, 280)),
    "bush": (_bush, (40, 80)),
    "person": (_person, (38, 48)),
    "vehicle": (_vehicle, (60, 110)),
    "lamp": (_lamp, (110, 180)),
}
