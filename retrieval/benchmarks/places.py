"""Place recognition: photos with positions. A photo is found if one taken near it stands among the first k.

As in Pittsburgh, Tokyo 24/7 and MSLS (Arandjelovic et al., CVPR 2016; Berton et al., CVPR 2022): recall@k within
25 metres. Queries that no gallery photo is near to are left out and counted.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from retrieval import metrics
from retrieval.benchmarks.ranked import NONE, Ranked
from retrieval.data import columns, files
from retrieval.data.images import Photo
from retrieval.errors import InputError, flag
from retrieval.metrics import Indices
from retrieval.terminal import printable

METRES = (("x", "y"), ("utm_east", "utm_north"), ("easting", "northing"))
DEGREES = (("longitude", "latitude"), ("lon", "lat"), ("lng", "lat"))
EARTH = 6_371_008.8  # metres, mean radius
KS = (1, 5, 10)
CELL = 4  # side of a cell in radii
Positions = NDArray[np.float64]  # (N, 2): x, y in metres or longitude, latitude in degrees


class Places(Ranked):
    """Queries and gallery: CSV files with columns `path` and x, y (metres) or latitude, longitude (degrees).

    radius: metres within which a gallery photo shows the same place, that distance included. root: what the paths are
    below; None is each file's own folder. Queries near to each other are not independent: `landmarks` are cells of
    four radii by four. upright: photos are turned as their EXIF data says. A photo that is in both files does not find
    itself.
    """

    def __init__(
        self, queries: str, gallery: str, radius: float = 25, root: str | None = None, upright: bool = True
    ) -> None:
        if isinstance(radius, str) or not radius > 0:
            raise InputError(f"radius must be positive, in metres, got {radius}")
        (asked, at, kind), (found, there, other) = (placed(file, root, upright) for file in (queries, gallery))
        if kind is not other:
            raise InputError(f"{queries} and {gallery} must both have metres, or both latitude and longitude")
        files.present([*asked, *found])
        index = {photo: i for i, photo in enumerate(found)}
        itself = [np.array([index[photo]]) if photo in index else NONE for photo in asked]
        relevant = within(at, there, float(radius), degrees=kind is DEGREES)
        relevant = [np.setdiff1d(images, own) for images, own in zip(relevant, itself, strict=True)]
        kept = [i for i, images in enumerate(relevant) if len(images)]
        if len(kept) < len(asked):
            left_out = f"{len(asked) - len(kept)} of {len(asked)} queries are left out, none is within {radius} m"
            tqdm.write(printable(f"{queries}: {left_out}"))
        super().__init__(
            queries=[asked[i] for i in kept],
            gallery=found,
            landmarks=cells(at[kept], CELL * float(radius), degrees=kind is DEGREES),
            levels={"": ([relevant[i] for i in kept], [itself[i] for i in kept])},
            measures={name: f for name, f in metrics.metric_learning(KS).items() if name.startswith("recall")},
            convention={"radius": float(radius), "queries_left_out": len(asked) - len(kept), "upright": upright},
        )


def placed(file: str, root: str | None, upright: bool) -> tuple[list[Photo], Positions, tuple[tuple[str, str], ...]]:
    """The photos of a CSV file, their positions, and METRES or DEGREES."""
    names = columns.header(file)
    kind, pair = next(((k, p) for k in (METRES, DEGREES) for p in k if set(p) <= set(names)), (None, ("", "")))
    if kind is None:
        accepted = ", ".join("/".join(p) for p in (*METRES, *DEGREES))
        raise InputError(f"{file} must have the columns of a position ({accepted}), it has {', '.join(names)}")
    table = columns.read(file, ("path", *pair))
    if len(set(table["path"])) < len(table["path"]):
        raise InputError(
            f"a photo may stand in {file} once, {len(table['path']) - len(set(table['path']))} stand again"
        )
    positions = np.array([[number(file, text) for text in table[name]] for name in pair]).T.reshape(-1, 2)
    limits = np.array([180, 90]) if kind is DEGREES else np.inf
    if outside := np.flatnonzero((np.abs(positions) > limits).any(1)).tolist():
        raise InputError(
            f"{file}: {table['path'][outside[0]]} is at {positions[outside[0]].tolist()}, no place on Earth"
        )
    folder = Path(file).parent if root is None else Path(root)
    return (
        [Photo(files.named(folder, name), upright=flag("upright", upright)) for name in table["path"]],
        positions,
        kind,
    )


def number(file: str, text: str) -> float:
    """A finite number of a position."""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{file}: a position must be two finite numbers, got {text!r}")
    return value


def within(queries: Positions, gallery: Positions, radius: float, degrees: bool) -> list[Indices]:
    """Gallery rows at most `radius` metres from each query, ascending.

    The gallery is sorted by y, so that only the photos of a strip are measured.
    """
    distance: Callable[[Positions, Positions], NDArray] = haversine if degrees else euclidean
    order = np.argsort(gallery[:, 1], kind="stable")
    y = gallery[order, 1]
    margin = (np.degrees(radius / EARTH) if degrees else radius) * (1 + 1e-9) + 1e-9  # nothing is lost to rounding
    lows, highs = (np.searchsorted(y, queries[:, 1] + side) for side in (-margin, margin))
    rows = [order[low:high] for low, high in zip(lows, highs, strict=True)]
    return [np.sort(r[distance(q, gallery[r]) <= radius]) for q, r in zip(queries, rows, strict=True)]


def euclidean(a: Positions, b: Positions) -> NDArray:
    """Metres between a (2,) and each of b (n, 2)."""
    return np.hypot(*(b - a).T)


def haversine(a: Positions, b: Positions) -> NDArray:
    """Metres on the sphere between a (2,) and each of b (n, 2), longitude and latitude in degrees:
    2 R asin sqrt(sin²(Δφ/2) + cos φ1 cos φ2 sin²(Δλ/2))."""
    (longitude, latitude), (longitudes, latitudes) = np.radians(a), np.radians(b).T
    across = np.cos(latitude) * np.cos(latitudes) * np.sin((longitudes - longitude) / 2) ** 2
    return 2 * EARTH * np.arcsin(np.sqrt(np.minimum(1, np.sin((latitudes - latitude) / 2) ** 2 + across)))


def cells(positions: Positions, side: float, degrees: bool) -> list[str]:
    """The square of `side` metres in which each position lies; on the sphere, in rows of equal latitude."""
    x, y = positions.T
    if degrees:
        y = np.radians(y) * EARTH
        middle = (np.floor(y / side) + 0.5) * side / EARTH  # one length of a degree for the whole row
        x = np.radians(x) * EARTH * np.cos(middle)
    return [f"{column:.0f} {row:.0f}" for column, row in zip(np.floor(x / side), np.floor(y / side), strict=True)]
