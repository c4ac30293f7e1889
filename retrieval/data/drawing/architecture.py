"""Buildings from a small grammar: a design is a handful of genes, a building the polygons that they ask for."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from retrieval.data.drawing.roofs import cap, dome, roof
from retrieval.data.drawing.shapes import AIR, GLASS, ROOF, TRIM, WALL, Shape, box, disc, opening, row, window


def gene(*choices: Any) -> Any:
    return field(metadata={"choices": choices})


@dataclass(frozen=True)
class Design:
    """What makes one building differ from another; every gene names the values it may take."""

    bays: int = gene(1, 2, 3, 4, 5, 6, 7, 9)
    bay: float = gene(26.0, 32.0, 40.0)
    storeys: int = gene(1, 1, 2, 2, 3, 4)
    storey: float = gene(44.0, 54.0, 70.0)
    ground: str = gene("arcade", "colonnade", "portal", "portico", "doors", "gate")
    steps: int = gene(0, 0, 2, 4)
    window: str = gene("rectangular", "round-headed", "pointed", "circular", "paired", "ribbon")
    window_size: float = gene(0.4, 0.55, 0.7)
    roof: str = gene("parapet", "gable", "hip", "mansard", "battlements", "stepped", "sawtooth", "barrel")
    crown: str = gene("none", "none", "none", "pediment", "dome", "lantern", "belfry", "spire", "onion")
    towers: str = gene("none", "none", "left", "right", "both", "both", "between", "four")
    tower_height: float = gene(1.15, 1.4, 1.8, 2.3)
    tower_width: float = gene(0.7, 0.9, 1.2)
    cap: str = gene("pyramid", "spire", "cone", "dome", "onion", "battlements", "belfry", "flag")
    wings: str = gene("none", "none", "left", "right", "both")
    wing_bays: int = gene(1, 2, 3)
    wing_roof: str = gene("parapet", "hip", "gable", "battlements", "lean-to")
    ornament: str = gene("none", "rose", "clock", "banners", "balcony", "buttresses", "pilasters", "timber")
    courses: bool = gene(True, False)
    masonry: str = gene("plaster", "brick", "ashlar", "striped", "chequered", "diapered", "boarded")
    tiles: str = gene("slates", "pantiles", "sheets")


def design(rng: np.random.Generator) -> Design:
    """A building drawn at random."""
    return Design(**{each.name: _pick(rng, each.metadata["choices"]) for each in fields(Design)})


def sibling(original: Design, rng: np.random.Generator, changes: int = 4) -> Design:
    """A look-alike: the same building but for `changes` genes."""
    changed = [fields(Design)[gene] for gene in rng.permutation(len(fields(Design)))[:changes]]
    others = {each.name: [c for c in each.metadata["choices"] if c != getattr(original, each.name)] for each in changed}
    return replace(original, **{name: _pick(rng, choices) for name, choices in others.items()})


def building(d: Design) -> Iterator[Shape]:
    """The polygons of a building, from back to front."""
    base, half = 5.0 * d.steps, d.bays * d.bay / 2
    eaves = base + d.storeys * d.storey
    yield from _steps(d.steps, half)
    yield from _crown(d, eaves)
    yield from _wings(d, base, half)
    yield from _block(d, -half, half, base, d.storeys, d.bays, d.roof, 90)
    yield from _ground(d, base, half)
    yield from _ornament(d, base, half, eaves)
    for x in _tower_axes(d, half):
        yield from _tower(d, x, base, eaves)


def _pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def _steps(count: int, half: float) -> Iterator[Shape]:
    for step in range(count):
        reach = half + 6 * (count - step)
        yield Shape(box(-reach, 5 * step, reach, 5 * step + 5), TRIM, 60 + 30 * (step % 2))


def _block(
    d: Design, left: float, right: float, base: float, storeys: int, bays: int, kind: str, relief: float
) -> Iterator[Shape]:
    eaves = base + storeys * d.storey
    yield from roof(kind, left, right, eaves, relief)
    yield Shape(box(left, base, right, eaves), WALL, relief)
    yield from _windows(d, left, right, base, range(storeys), bays, relief)
    for storey in range(1, storeys + 1 if d.courses else 1):
        yield Shape(box(left, base + storey * d.storey - 5, right, base + storey * d.storey), TRIM, relief + 20)
    yield Shape(box(left - 3, eaves - 4, right + 3, eaves + 3), TRIM, relief + 30)


def _windows(
    d: Design, left: float, right: float, base: float, storeys: range, bays: int, relief: float
) -> Iterator[Shape]:
    pitch = (right - left) / bays
    width = (0.94 if d.window == "ribbon" else d.window_size) * pitch
    height = min({"ribbon": 0.4, "circular": 9.9}.get(d.window, 0.66) * d.storey, 0.66 * d.storey)
    for storey in storeys:
        for bay in range(bays):
            yield from window(
                d.window,
                left + (bay + 0.5) * pitch,
                base + (storey + 0.17) * d.storey,
                min(width, 0.9 * height),
                height,
                relief,
            )


def _wings(d: Design, base: float, half: float) -> Iterator[Shape]:
    storeys, width = max(1, d.storeys - 1), d.wing_bays * d.bay
    if d.wings in ("left", "both"):
        yield from _block(d, -half - width, -half, base, storeys, d.wing_bays, d.wing_roof, 60)
    if d.wings in ("right", "both"):
        yield from _block(d, half, half + width, base, storeys, d.wing_bays, d.wing_roof, 60)


def _tower_axes(d: Design, half: float) -> list[float]:
    edge = half + 0.3 * d.tower_width * d.bay
    inner = half * 0.45
    return {
        "none": [],
        "left": [-edge],
        "right": [edge],
        "both": [-edge, edge],
        "between": [0.0],
        "four": [-edge, -inner, inner, edge],
    }[d.towers]


def _tower(d: Design, x: float, base: float, eaves: float) -> Iterator[Shape]:
    half, top = 0.5 * d.tower_width * d.bay, base + (eaves - base) * d.tower_height + 20
    yield from cap(d.cap, x, top, 2 * half, 130)
    if d.cap in ("cone", "onion", "dome"):
        for step in range(6):  # a round shaft: its relief rises towards the axis
            yield Shape(box(x - half * (1 - step / 7), base, x + half * (1 - step / 7), top), WALL, 70 + 14 * step)
    else:
        yield Shape(box(x - half, base, x + half, top), WALL, 130)
    kind = "round-headed" if d.window in ("paired", "ribbon") else d.window
    for sill in np.arange(base + 0.3 * d.storey, top - 0.5 * d.storey, d.storey):
        yield from window(kind, x, sill, 0.6 * half, min(0.5 * d.storey, 1.6 * half), 140)
    yield Shape(box(x - half - 3, top - 6, x + half + 3, top), TRIM, 160)


def _crown(d: Design, eaves: float) -> Iterator[Shape]:
    """What rises over the middle of the roof; drawn behind it, so its foot reaches down to the eaves."""
    width = min(0.5 * d.bays * d.bay, 110)
    drum = eaves + 60
    if d.crown in ("dome", "onion"):
        yield Shape(box(-width / 2, eaves, width / 2, drum), WALL, 80)
        for x in np.linspace(-0.36, 0.36, 4):
            yield from window("round-headed", x * width, eaves + 36, 0.1 * width, 18, 80)
        yield Shape(box(-width / 2 - 3, drum - 4, width / 2 + 3, drum + 2), TRIM, 110)
        yield from dome(0, drum, width / 2, d.crown, 130)
    elif d.crown in ("spire", "belfry"):
        yield Shape(box(-width / 4, eaves, width / 4, drum), WALL, 80)
        yield from cap(d.crown, 0, drum, width / 2, 110)
    elif d.crown == "lantern":
        for step, share in enumerate((1.0, 0.7, 0.4)):
            low = drum - 20 + 26 * step
            yield Shape(box(-share * width / 2, eaves, share * width / 2, low + 26), WALL, 80 + 10 * step)
            yield Shape(box(-share * width / 2 - 3, low + 22, share * width / 2 + 3, low + 26), TRIM, 110)
        yield Shape(disc(0, drum + 58, 0.2 * width, 0.2 * width, 0, 180), ROOF, 110)
    elif d.crown == "pediment":
        yield Shape([(-width * 0.8, drum - 20), (width * 0.8, drum - 20), (0, drum + 24)], TRIM, 120)
        yield Shape([(-width * 0.62, drum - 15), (width * 0.62, drum - 15), (0, drum + 16)], WALL, 90)
        yield Shape(box(-width * 0.75, eaves, width * 0.75, drum - 20), WALL, 90)


def _ground(d: Design, base: float, half: float) -> Iterator[Shape]:
    """The lowest storey's front, drawn over its windows."""
    high, width = 0.86 * d.storey, 2 * half / d.bays
    if d.ground in ("arcade", "colonnade"):
        yield Shape(box(-half, base, half, base + high + 6), WALL if d.ground == "arcade" else GLASS, 90)
        for x in -half + width * (np.arange(d.bays) + 0.5):
            if d.ground == "arcade":
                yield Shape(opening("round-headed", x, base, 0.86 * width, high), TRIM, 110)
                yield Shape(opening("round-headed", x, base, 0.68 * width, high - 0.09 * width), GLASS, 30)
        if d.ground == "colonnade":
            yield from row(-half, half, base, high, 0.34, width / 1.5, TRIM, 130)
            yield Shape(box(-half - 3, base + high, half + 3, base + high + 8), TRIM, 140)
    elif d.ground == "portico":
        yield from _portico(base, min(half, 1.6 * d.bay), high)
    else:
        yield from _doors(d, base, half, high)


def _portico(base: float, half: float, high: float) -> Iterator[Shape]:
    yield Shape(box(-half, base, half, base + high), GLASS, 60)
    yield from row(-half, half, base, high, 0.4, half / 2, TRIM, 160)
    yield Shape([(-half - 8, base + high), (half + 8, base + high), (0, base + high + 0.5 * half)], TRIM, 170)
    yield Shape([(-half + 6, base + high + 4), (half - 6, base + high + 4), (0, base + high + 0.38 * half)], WALL, 140)


def _doors(d: Design, base: float, half: float, high: float) -> Iterator[Shape]:
    axes = np.linspace(-half, half, 5)[1::2].tolist() if d.ground == "doors" else [0.0]
    wide = min(d.bay * {"doors": 0.6, "portal": 0.9, "gate": 1.5}[d.ground], 1.8 * half)
    kind = "pointed" if d.ground == "portal" else "round-headed"
    for x in axes:
        yield Shape(box(x - 0.7 * wide, base, x + 0.7 * wide, base + high + 8), WALL, 110)
        inside = AIR if d.ground == "gate" else GLASS
        for share, material, relief in ((1.15, TRIM, 130), (0.95, WALL, 100), (0.8, inside, 20)):
            yield Shape(opening(kind, x, base, share * wide, high * (0.85 + 0.13 * share)), material, relief)


def _ornament(d: Design, base: float, half: float, eaves: float) -> Iterator[Shape]:
    high = eaves - 0.42 * d.storey if d.storeys > 1 else eaves + 10
    if d.ornament == "rose":
        yield from _rose(high, min(0.62 * d.storey, 0.8 * half))
    elif d.ornament == "clock":
        radius = min(0.4 * d.storey, 0.7 * half)
        yield Shape(disc(0, high, 1.2 * radius, 1.2 * radius), ROOF, 130)
        yield Shape(disc(0, high, radius, radius), TRIM, 120)
        yield Shape([(-2, high), (2, high), (0, high + 0.8 * radius)], GLASS, 120)
        yield Shape([(0, high - 2), (0, high + 2), (0.6 * radius, high)], GLASS, 120)
    elif d.ornament == "balcony":
        yield Shape(box(-0.5 * half, base + d.storey, 0.5 * half, base + d.storey + 5), TRIM, 180)
        yield from row(-0.5 * half, 0.5 * half, base + d.storey + 5, 14, 0.5, 8, TRIM, 170)
        yield Shape(box(-0.5 * half, base + d.storey + 18, 0.5 * half, base + d.storey + 22), TRIM, 180)
    elif d.ornament != "none":
        for x in np.linspace(-half, half, d.bays + 1):
            yield from _upright(d, x, base, eaves)


def _rose(y: float, radius: float) -> Iterator[Shape]:
    yield Shape(disc(0, y, radius, radius), TRIM, 120)
    yield Shape(disc(0, y, 0.85 * radius, 0.85 * radius), GLASS, 50)
    for angle in np.radians(np.arange(0, 180, 30)):
        across = np.array([np.cos(angle), np.sin(angle)]) * 0.9 * radius
        aside = np.array([-np.sin(angle), np.cos(angle)]) * 0.06 * radius
        spoke = [across + aside, across - aside, -across - aside, -across + aside]
        yield Shape([(float(px), y + float(py)) for px, py in spoke], TRIM, 80)
    yield Shape(disc(0, y, 0.25 * radius, 0.25 * radius), TRIM, 100)


def _upright(d: Design, x: float, base: float, eaves: float) -> Iterator[Shape]:
    """One of the verticals between two bays: a buttress, a pilaster, a hanging banner or a timber post."""
    if d.ornament == "buttresses":
        yield Shape([(x - 6, base), (x + 6, base), (x + 4, eaves - 8), (x, eaves + 16), (x - 4, eaves - 8)], WALL, 170)
    elif d.ornament == "pilasters":
        yield Shape(box(x - 4, base, x + 4, eaves), TRIM, 130)
        yield Shape(box(x - 7, eaves - 8, x + 7, eaves), TRIM, 140)
    elif d.ornament == "banners":
        low = base + 0.45 * (eaves - base)
        yield Shape([(x - 5, eaves - 6), (x - 5, low), (x, low + 8), (x + 5, low), (x + 5, eaves - 6)], ROOF, 120)
    else:
        for level in range(2 * d.storeys):
            rail = base + 0.5 * d.storey * (level + 1)
            yield Shape(box(x - 9, rail - 4, x + 9, rail), ROOF, 110)
        yield Shape(box(x - 3, base, x + 3, eaves), ROOF, 120)
