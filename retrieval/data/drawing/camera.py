"""A pinhole camera in front of a building, and pictures on upright planes seen through it.

World: x to the right along the facade, y up from the ground, z towards the viewer; the facade stands on z = 0 with its
foot's middle at the origin. Units are the facade's pixels. A projection is the (3, 4) matrix from homogeneous world
coordinates to homogeneous pixels.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Camera:
    """Angles in degrees; `azimuth` is 0 straight in front, `distance` counts from `target` (x, y) on the facade."""

    azimuth: float
    distance: float
    eye: float
    target: tuple[float, float]
    roll: float
    focal: float
    size: tuple[int, int]

    @property
    def centre(self) -> np.ndarray:
        angle = np.radians(self.azimuth)
        return np.array([self.target[0] + self.distance * np.sin(angle), self.eye, self.distance * np.cos(angle)])

    def projection(self) -> np.ndarray:
        forward = np.array([*self.target, 0.0]) - self.centre
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        cos, sin = np.cos(np.radians(self.roll)), np.sin(np.radians(self.roll))
        axes = np.stack([cos * right + sin * down, cos * down - sin * right, forward])
        width, height = self.size
        intrinsic = np.array([[self.focal, 0, width / 2], [0, self.focal, height / 2], [0, 0, 1]])
        return intrinsic @ np.hstack([axes, -axes @ self.centre[:, None]])


def project(projection: np.ndarray, points: np.ndarray) -> np.ndarray:
    """World points (N, 3) to pixels (N, 2); points behind the camera come out as NaN."""
    pixels = np.hstack([points, np.ones((len(points), 1))]) @ projection.T
    return np.where(pixels[:, 2:] > 1e-6, pixels[:, :2] / np.maximum(pixels[:, 2:], 1e-6), np.nan)


def upright(projection: np.ndarray, size: tuple[int, int], foot: tuple[float, float], scale: float = 1) -> np.ndarray:
    """The homography (3, 3) from the pixels of a picture of `size` that stands at `foot` (x, z) to the photo's."""
    width, height = size
    x, z = foot
    plane = np.array([[scale, 0, x - scale * width / 2], [0, -scale, scale * height], [0, 0, z], [0, 0, 1]])
    return projection @ plane


def seen(picture: Image.Image, homography: np.ndarray, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """A picture through a homography and its upper left corner in a photo of `size`, cropped to what the photo holds.

    Empty (1 x 1 in the photo's corner) where nothing of it is in front of the camera and inside the photo.
    """
    box = _footprint(homography, picture.size, size)
    if box is None:
        return Image.new(picture.mode, (1, 1)), (0, 0)
    left, top, right, bottom = box
    back = np.linalg.inv(np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ homography)
    coefficients = (back / back[2, 2]).ravel()[:8].tolist()
    shape = (right - left, bottom - top)
    return picture.transform(shape, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR), (left, top)


def _footprint(
    homography: np.ndarray, picture: tuple[int, int], photo: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    width, height = picture
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]]) @ homography.T
    if (corners[:, 2] < 1).any():
        return None
    pixels = corners[:, :2] / corners[:, 2:]
    left, top = np.maximum(np.floor(pixels.min(0)), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(pixels.max(0)), photo).astype(int).tolist()
    return (left, top, right, bottom) if right - left > 1 and bottom - top > 1 else None
