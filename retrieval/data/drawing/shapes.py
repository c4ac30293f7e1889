"""Polygons of one material, and what any building is put together from: openings, rows.

Units are arbitrary: x to the right, y up from the ground. `relief` is how far a polygon stands out, in grey levels
of 0 to 255; light falls on its edges.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

WALL, ROOF, TRIM, GLASS, AIR = range(5)
Points = list[tuple[float, float]]


class Shape(NamedTuple):
    points: Points
    material: int
    relief: float


def box(left: float, bottom: float, right: float, top: float) -> Points:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def disc(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> Points:
    angles = np.radians(np.linspace(start, stop, 25))
    return list(zip(x + rx * np.cos(angles), y + ry * np.sin(angles), strict=True))


def opening(kind: str, x: float, sill: float, width: float, height: float) -> Points:
    """The outline of a window or door of a kind, `x` its axis."""
    half = width / 2
    spring = sill + max(height - (1.3 if kind == "pointed" else 1) * half, 0)
    if kind == "circular":
        return disc(x, sill + height / 2, half, half)
    if kind == "pointed":
        return [
            (x - half, sill),
            (x + half, sill),
            (x + half, spring),
            (x + half * 0.6, spring + 0.8 * half),
            (x, sill + height),
            (x - half * 0.6, spring + 0.8 * half),
            (x - half, spring),
        ]
    if kind == "round-headed":
        return [(x - half, sill), (x + half, sill), *disc(x, spring, half, half, 0, 180)]
    return box(x - half, sill, x + half, sill + height)


def window(kind: str, x: float, sill: float, width: float, height: float, relief: float) -> Iterator[Shape]:
    if kind == "paired":
        for side in (-1, 1):
            yield from window("round-headed", x + side * width * 0.3, sill, width * 0.48, height, relief)
        return
    frame = 0.14 * width
    yield Shape(opening(kind, x, sill - frame, width + 2 * frame, height + 2 * frame), TRIM, relief + 10)
    yield Shape(opening(kind, x, sill, width, height), GLASS, relief - 40)
    if kind in ("rectangular", "ribbon"):
        yield Shape(box(x - 0.06 * width, sill, x + 0.06 * width, sill + height), TRIM, relief - 20)


def row(
    left: float,
    right: float,
    base: float,
    height: float,
    share: float,
    pitch: float,
    material: int,
    relief: float,
) -> Iterator[Shape]:
    """Merlons, balusters, columns: as many as fit, each taking `share` of its pitch."""
    count = max(2, round((right - left) / pitch))
    for x in np.linspace(left, right, count, endpoint=False):
        margin = (1 - share) * (right - left) / count / 2
        yield Shape(box(x + margin, base, x + (right - left) / count - margin, base + height), material, relief)
