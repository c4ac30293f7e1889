"""Photographs of a building in its street: from some viewpoint, in some light, among others and behind things."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from retrieval.data.drawing.camera import Camera, project, seen, upright
from retrieval.data.drawing.facade import Facade
from retrieval.data.drawing.scenery import WEATHERS, Light, light, occluder, paving, sky, weathered

SIZES = ((384, 288), (288, 384), (384, 256), (256, 384), (320, 320), (352, 264), (264, 352), (320, 240), (240, 320))
Neighbours = Callable[[], Facade]


@dataclass(frozen=True)
class Photo:
    """A photo and what the photographer knows about it.

    `visible` is the share of the building that is inside the frame and behind nothing, `extent` the larger of its
    whole height and width over the photo's, `azimuth` the viewing angle in degrees, `box` the (x1, y1, x2, y2) in
    pixels around its front inside the frame.
    """

    image: Image.Image
    visible: float
    extent: float
    azimuth: float
    weather: str
    box: tuple[float, float, float, float]


def photograph(building: Facade, neighbours: Neighbours, rng: np.random.Generator) -> Photo:
    """Takes a photo of a building; `neighbours()` gives the facades around it."""
    camera, now = _viewpoint(building, rng), light(str(rng.choice(WEATHERS)), rng)
    projection, palette = camera.projection(), _palette(rng)
    scene = _surroundings(camera, projection, now, rng)
    _street(scene, projection, neighbours, building, now, rng)
    outline = _stand(scene, projection, building, (0, 0), palette, now, 10)
    hidden = _crowd(scene, projection, camera, now, rng)
    return Photo(
        image=_developed(scene, now, rng),
        visible=_visible(building, projection, hidden),
        extent=_extent(building, projection, camera.size),
        azimuth=abs(camera.azimuth),
        weather=now.weather,
        box=outline,
    )


def _viewpoint(building: Facade, rng: np.random.Generator) -> Camera:
    """Mostly a view with the building well in the frame; one in eight is a careless shot."""
    size = SIZES[rng.integers(len(SIZES))]
    spread = 3.5 if rng.random() < 0.125 else 1
    azimuth = float(np.clip(rng.normal() * 17, -58, 58))
    focal = max(size) * rng.uniform(0.9, 1.4)
    fitting = focal * max(building.height / size[1], building.width * np.cos(np.radians(azimuth)) / size[0])
    distance = fitting * np.exp(rng.normal() * 0.22 * spread) + 0.5 * building.width * abs(np.sin(np.radians(azimuth)))
    aim = np.clip(0.5 + rng.normal() * 0.07 * spread, 0.2, 0.8)
    target = (rng.normal() * 0.09 * spread * building.width, float(aim) * building.height)
    eye = rng.uniform(15, 60) + 0.3 * building.height * rng.random()
    return Camera(azimuth, float(distance), eye, target, rng.normal() * 2.5, focal, size)


def _palette(rng: np.random.Generator) -> np.ndarray:
    """Colours (4, 3) of wall, roof, trim and glass; one range for every building, drawn anew for every photo."""

    def between(first: tuple[float, ...], second: tuple[float, ...]) -> np.ndarray:
        return np.array(first) + rng.random() * (np.array(second) - np.array(first))

    wall = between((0.80, 0.66, 0.48), (0.72, 0.70, 0.67)) * rng.uniform(0.88, 1.1)
    roof = between((0.62, 0.33, 0.24), (0.36, 0.39, 0.43)) * rng.uniform(0.9, 1.1)
    trim = between((0.93, 0.89, 0.80), (0.82, 0.82, 0.82)) * rng.uniform(0.95, 1.05)
    return np.stack([wall, roof, trim, between((0.16, 0.19, 0.25), (0.27, 0.27, 0.28))]).astype(np.float32)


def _lit(facade: Facade, palette: np.ndarray, now: Light) -> np.ndarray:
    """A facade in colour, (H, W, 3) float32: shading on the slopes of its relief, shadows behind them, lamps inside."""
    colours = palette.copy()
    colours[3] += now.lamps * np.array([0.9, 0.68, 0.3], np.float32)
    across, up = np.zeros_like(facade.relief), np.zeros_like(facade.relief)
    across[:, 1:-1] = facade.relief[:, 2:] - facade.relief[:, :-2]
    up[1:-1] = facade.relief[2:] - facade.relief[:-2]
    x, y = now.sun
    shade = np.clip(1 + 1.6 * (x * across + y * up) - 0.12 * (1 - y), 0.35, 1.5)
    thrown = np.roll(facade.relief, (round(5 * y), round(5 * x)), (0, 1)) > facade.relief + 0.12
    shade[thrown] *= 1 - 0.45 * np.hypot(x, y)
    tones = (colours * now.colour / 255).astype(np.float32)
    # Row by row, so that BLAS starts no threads: they cost more than they give.
    return (facade.materials.astype(np.float32) @ tones) * shade[..., None]


def _stand(
    scene: Image.Image,
    projection: np.ndarray,
    facade: Facade,
    foot: tuple[float, float],
    palette: np.ndarray,
    now: Light,
    depth: int,
    haze: float = 0,
) -> tuple[float, float, float, float]:
    """Puts a building into the scene, its side walls first; gives the box (x1, y1, x2, y2) around its front.

    The side walls are the outline pasted `depth` times, each nearer: any outline gets its depth that way.
    """
    colour = _lit(facade, palette, now)
    mist = now.veil + (1 - now.veil) * haze
    colour += mist * (now.horizon.astype(np.float32) - colour)
    mask = Image.fromarray(facade.outline)
    front = _picture(colour)
    front.putalpha(mask)
    side = palette[0] * 0.55 * now.colour
    fill = tuple((np.clip(side + mist * (now.horizon - side), 0, 1) * 255).astype(int).tolist())
    x, z = foot
    for layer in range(depth, 0, -1):
        plane = upright(projection, front.size, (x, z - 8 * layer), facade.scale)
        wall, corner = seen(mask, plane, scene.size)
        scene.paste(fill, (*corner, corner[0] + wall.width, corner[1] + wall.height), wall)
    picture, corner = seen(front, upright(projection, front.size, foot, facade.scale), scene.size)
    scene.paste(picture, corner, picture)
    left, top, right, bottom = picture.getchannel(3).point([0] * 128 + [255] * 128).getbbox() or (0, 0, 1, 1)
    return float(corner[0] + left), float(corner[1] + top), float(corner[0] + right), float(corner[1] + bottom)


def _surroundings(camera: Camera, projection: np.ndarray, now: Light, rng: np.random.Generator) -> Image.Image:
    """The sky and, below the horizon, the ground: each pixel's ray meets the plane y = 0 somewhere."""
    scene = sky(now, camera.size, rng)
    width, height = camera.size
    grid = np.mgrid[:height:2, :width:2].astype(np.float32)
    back = np.linalg.inv(projection[:, :3]).astype(np.float32)
    rays = back[:, :1] * grid[1].ravel() + back[:, 1:2] * grid[0].ravel() + back[:, 2:]
    falling = np.maximum(-rays[1], 1e-6)
    reach = np.minimum(camera.centre[1] / falling, 1e5)
    x, z = (camera.centre[axis] + reach * rays[axis] for axis in (0, 2))
    floor = np.asarray(paving(rng), np.float32)[z.astype(int) % 256, x.astype(int) % 256] / 255 * now.colour
    far = np.clip(np.hypot(x, z) / 6000, 0, 1)[:, None]
    floor += (now.veil * 0.6 + (1 - now.veil * 0.6) * far) * (now.horizon - floor)
    ground = _picture(floor.reshape(*grid[0].shape, 3)).resize(camera.size, Image.Resampling.BILINEAR)
    below = Image.fromarray((rays[1] < -1e-6).reshape(grid[0].shape)).convert("L")
    scene.paste(ground, (0, 0), below.resize(camera.size, Image.Resampling.BILINEAR))
    return scene


def _picture(colours: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(colours, 0, 1) * 255).astype(np.uint8))


def _street(
    scene: Image.Image,
    projection: np.ndarray,
    neighbours: Neighbours,
    building: Facade,
    now: Light,
    rng: np.random.Generator,
) -> None:
    """Other buildings: small ones far behind, and at times one on either side."""
    for x in rng.uniform(-900, 900, rng.integers(1, 4)):
        _stand(scene, projection, neighbours(), (float(x), rng.uniform(-900, -500)), _palette(rng), now, 0, 0.65)
    for side in (-1, 1):
        if rng.random() < 0.5:
            other = neighbours()
            x = side * (building.width / 2 + rng.uniform(0, 60) + other.width / 2)
            _stand(scene, projection, other, (x, rng.uniform(-90, 30)), _palette(rng), now, 3)


def _crowd(
    scene: Image.Image, projection: np.ndarray, camera: Camera, now: Light, rng: np.random.Generator
) -> Image.Image:
    """Puts things in front of the building, far ones first; gives the mask (L) of what they hide."""
    hidden = Image.new("L", scene.size)
    for near in np.sort(rng.uniform(0.05, 0.55, rng.poisson(2.2))):
        picture, height = occluder(rng)
        colour = np.asarray(picture.convert("RGB"), np.float32) / 255 * now.colour
        colour = colour + 0.5 * now.veil * (now.horizon - colour)
        solid = _picture(colour)
        solid.putalpha(picture.getchannel(3))
        foot = near * camera.centre[[0, 2]] + np.array([rng.normal() * 0.35 * camera.distance * (1 - near), 0])
        shown, corner = seen(
            solid, upright(projection, solid.size, (float(foot[0]), float(foot[1])), height / solid.height), scene.size
        )
        scene.paste(shown, corner, shown)
        hidden.paste(255, (*corner, corner[0] + shown.width, corner[1] + shown.height), shown.getchannel(3))
    return hidden


def _developed(scene: Image.Image, now: Light, rng: np.random.Generator) -> Image.Image:
    """The lens and the sensor: blur, what falls through the air, noise, exposure, contrast, colour balance."""
    blurred = scene.filter(ImageFilter.BoxBlur(float(rng.choice([0.0, 0.3, 0.6, 1.2]))))
    photo = weathered(np.asarray(blurred, np.float32) / 255, now, rng)
    photo += rng.standard_normal(photo.shape[:2], np.float32)[..., None] * np.float32(rng.uniform(0.004, 0.025))
    # Exposure, contrast and colour balance are curves: a table over 256 levels each.
    gain, gamma = rng.uniform(0.88, 1.18), rng.uniform(0.8, 1.15)
    levels = np.clip(np.arange(256)[None] / 255 * gain, 0, 1) ** gamma * rng.uniform(0.93, 1.07, (3, 1))
    curved = _picture(photo).point((np.clip(levels, 0, 1) * 255).astype(int).ravel().tolist())
    return ImageEnhance.Color(curved).enhance(rng.uniform(0.5, 1.15))


def _visible(building: Facade, projection: np.ndarray, hidden: Image.Image) -> float:
    """The share of the building's front that falls inside the photo and is not hidden."""
    height, width = building.outline.shape
    rows, columns = np.nonzero(building.outline[::8, ::8] > 127)
    world = np.stack([columns * 8 - width / 2, height - rows * 8.0, np.zeros(len(rows))], 1)
    pixels = project(projection, world)
    inside = np.all((pixels >= 0) & (pixels < hidden.size), axis=1)
    x, y = pixels[inside].astype(int).T
    return float((np.asarray(hidden)[y, x] < 128).sum() / len(rows))


def _extent(building: Facade, projection: np.ndarray, size: tuple[int, int]) -> float:
    """How large the whole building comes out, in or beyond the frame, as a share of the photo's side."""
    half = building.width / 2
    corners = np.array([[x, y, 0] for x in (-half, half) for y in (0, building.height)])
    return float((np.ptp(project(projection, corners), axis=0) / size).max())
