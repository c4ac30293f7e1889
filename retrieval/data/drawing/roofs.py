"""Roofs over a block, caps on a tower."""

from collections.abc import Iterator

import numpy as np

from retrieval.data.drawing.shapes import AIR, GLASS, ROOF, TRIM, WALL, Points, Shape, box, disc, opening, row, window


def roof(kind: str, left: float, right: float, eaves: float, relief: float) -> Iterator[Shape]:
    """What covers a block from `left` to `right` whose wall ends at `eaves`."""
    return ROOFS[kind](left, right, eaves, relief)


def _parapet(left: float, right: float, eaves: float, relief: float) -> Iterator[Shape]:
    yield from row(left, right, eaves, 10, 0.5, 12, TRIM, relief)
    yield Shape(box(left, eaves + 11, right, eaves + 15), TRIM, relief + 20)


def _battlements(left: float, right: float, eaves: float, relief: float) -> Iterator[Shape]:
    yield from row(left, right, eaves, 16, 0.6, 22, WALL, relief + 10)


def _gable(left: float, right: float, eaves: float, relief: float) -> Iterator[Shape]:
    axis, rise = (left + right) / 2, _rise(left, right)
    yield Shape([(left - 5, eaves), (right + 5, eaves), (axis, eaves + rise + 6)], ROOF, relief + 30)
    yield Shape([(left + 4, eaves), (right - 4, eaves), (axis, eaves + rise - 4)], WALL, relief)
    yield from window("circular", axis, eaves + 0.25 * rise, 0.3 * rise, 0.3 * rise, relief)


def _stepped(left: float, right: float, eaves: float, relief: float) -> Iterator[Shape]:
    for step in range(5):
        inset = 0.1 * step * (right - left)
        top = eaves + (step + 1) * _rise(left, right) / 5
        yield Shape(box(left + inset, eaves, right - inset, top), WALL, relief + 6 * step)


def _barrel(left: float, right: float, eaves: float, relief: float) -> Iterator[Shape]:
    axis, half, rise = (left + right) / 2, (right - left) / 2 - 8, _rise(left, right)
    yield Shape(disc(axis, eaves, half + 12, rise, 0, 180), ROOF, relief)
    yield Shape(disc(axis, eaves, half, rise - 12, 0, 180), GLASS, relief - 30)
    for angle in range(30, 180, 30):
        rib = disc(axis, eaves, half, rise - 12, angle - 2, angle + 2)
        yield Shape([*rib, (axis, eaves)], TRIM, relief)


def _sawtooth(left: float, right: float, eaves: float, relief: float) -> Iterator[Shape]:
    teeth = max(2, round((right - left) / 60))
    pitch = (right - left) / teeth
    for axis in left + pitch * (np.arange(teeth) + 0.5):
        yield Shape([(axis - pitch / 2, eaves), (axis + pitch / 2, eaves), (axis, eaves + 0.7 * pitch)], WALL, relief)
        yield from window("circular", axis, eaves + 0.12 * pitch, 0.22 * pitch, 0.22 * pitch, relief)


def _lean_to(left: float, right: float, eaves: float, relief: float) -> Iterator[Shape]:
    inner, outer = (left, right) if left + right > 0 else (right, left)
    yield Shape([(outer, eaves), (inner, eaves), (inner, eaves + 34)], ROOF, relief)


def _hip(left: float, right: float, eaves: float, relief: float) -> Iterator[Shape]:
    width, rise = right - left, _rise(left, right)
    yield _slope(left, right, eaves, 0.28 * width, 0.8 * rise, relief)
    for x in (left + 0.33 * width, right - 0.33 * width):
        yield Shape(box(x - 5, eaves + 0.6 * rise, x + 5, eaves + 1.1 * rise), WALL, relief)


def _mansard(left: float, right: float, eaves: float, relief: float) -> Iterator[Shape]:
    inset, rise = 0.08 * (right - left), _rise(left, right)
    yield _slope(left, right, eaves, inset, 0.8 * rise, relief)
    yield Shape(box(left + inset, eaves + 0.8 * rise, right - inset, eaves + 0.8 * rise + 5), TRIM, relief)
    for x in np.arange(left + inset + 14, right - inset - 8, 34):
        top = eaves + 0.5 * rise
        yield Shape(box(x - 9, eaves + 6, x + 9, top), WALL, relief)
        yield Shape([(x - 12, top), (x + 12, top), (x, top + 0.25 * rise)], TRIM, relief)
        yield Shape(box(x - 5, eaves + 9, x + 5, top - 0.05 * rise), GLASS, relief - 30)


def _slope(left: float, right: float, eaves: float, inset: float, rise: float, relief: float) -> Shape:
    foot, ridge = [(left - 5, eaves), (right + 5, eaves)], [(right - inset, eaves + rise), (left + inset, eaves + rise)]
    return Shape(foot + ridge, ROOF, relief - 20)


def _rise(left: float, right: float) -> float:
    return min(0.45 * (right - left), 70)


def cap(kind: str, x: float, base: float, width: float, relief: float) -> Iterator[Shape]:
    """What sits on a tower or a crossing whose top is `base` and whose axis is `x`."""
    half = width / 2
    if kind in ("pyramid", "cone", "spire"):
        rise = width * {"pyramid": 0.7, "cone": 1.3, "spire": 2.4}[kind]
        yield from _spire(x, base, half * (1.25 if kind == "cone" else 1.05), rise, relief)
    elif kind in ("dome", "onion"):
        yield Shape(box(x - half * 0.9, base, x + half * 0.9, base + 0.25 * width), WALL, relief)
        yield from dome(x, base + 0.25 * width, half, kind, relief)
    elif kind == "battlements":
        yield Shape(box(x - half * 1.15, base - 0.2 * width, x + half * 1.15, base), WALL, relief + 20)
        yield from row(x - half * 1.15, x + half * 1.15, base, 0.22 * width, 0.6, width / 3, WALL, relief + 20)
    elif kind == "belfry":
        yield Shape(box(x - half, base, x + half, base + width), WALL, relief)
        for side in (-0.45, 0.45):
            yield Shape(opening("round-headed", x + side * half, base + 0.12 * width, 0.3 * width, 0.7 * width), AIR, 0)
        yield from _spire(x, base + width, half * 1.15, 0.5 * width, relief)
    else:
        yield Shape(box(x - half * 1.1, base - 4, x + half * 1.1, base + 4), TRIM, relief + 20)
        yield Shape(box(x - 1.5, base, x + 1.5, base + 1.4 * width), TRIM, relief)
        yield Shape([(x, base + 1.4 * width), (x + width, base + 1.2 * width), (x, base + width)], ROOF, relief)


def dome(x: float, base: float, half: float, kind: str, relief: float) -> Iterator[Shape]:
    """A round or an onion dome with its finial; nested outlines make it look round."""
    for step in range(7):
        across = half * (1 - step / 7) * (1.2 if kind == "onion" else 1)
        outline = disc(x, base, across, 1.1 * half, 0, 180)
        yield Shape(_onion(x, base, across, half) if kind == "onion" else outline, ROOF, relief - 60 + 14 * step)
    top = base + half * (2 if kind == "onion" else 1.1)
    yield Shape(box(x - 1.5, top - 4, x + 1.5, top + 0.5 * half), TRIM, relief)
    yield Shape(disc(x, top + 0.2 * half, 0.1 * half, 0.1 * half), TRIM, relief + 20)


def _onion(x: float, base: float, across: float, half: float) -> Points:
    middle = base + 0.6 * half
    right, left = (disc(x, middle, across, 0.6 * half, *angles) for angles in ((-30, 60), (120, 210)))
    return [(x - 0.7 * across, base), (x + 0.7 * across, base), *right, (x, base + 2 * half), *left]


def _spire(x: float, base: float, half: float, rise: float, relief: float) -> Iterator[Shape]:
    yield Shape([(x - half, base), (x + half, base), (x, base + rise)], ROOF, relief - 30)
    yield Shape([(x - half * 0.4, base), (x + half * 0.4, base), (x, base + rise)], ROOF, relief)
    yield Shape(box(x - 1, base + rise - 3, x + 1, base + rise + 10), TRIM, relief)


ROOFS = {
    "parapet": _parapet,
    "battlements": _battlements,
    "gable": _gable,
    "stepped": _stepped,
    "barrel": _barrel,
    "sawtooth": _sawtooth,
    "lean-to": _lean_to,
    "hip": _hip,
    "mansard": _mansard,
}
