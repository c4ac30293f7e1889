"""What rows of `results.json` and entries of `rankings.json` must be to be shown, whoever wrote them.

A row is left out where what tells it from others is wrong, or its values are no numbers: it could stand in the wrong
line. Whatever else is wrong is taken as not known. Values outside [0, 1] become NaN, which no mean and no bold hides.
"""

import math
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.report.lines import Row
from retrieval.report.reading import cleaned

ANY = {"benchmark": str, "backbone": str, "pooling": str, "resolution": int, "seed": int, "untrained": bool}
RESULT = {**ANY, "scales": list, "settings": str, "metrics": dict}
RANKING = {**ANY, "settings": str, "query": dict, "ap": float, "top": list}
WORDS = ("options", "trained_with")  # None in rows written before there was such a key
APART = {**dict.fromkeys(("head", *WORDS), str), "convention": dict}  # null or absent too
OURS = ("folder", "descriptor", "apart")  # keys that the report writes into a row
MARKS = ("right", "wrong", "junk")
P = ("mean", "min", "max")
COUNTS = (
    *("queries", "images", "skipped", "dim", "multiple", "parameters", "seconds", "poolings_in_pass", "described"),
    *("trained_seconds", "peak_memory", "steps", "tied_queries"),
)
KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
LONGEST, WIDEST = 500, 100_000  # characters of a name, pixels of a resolution


def row(item: Any, folder: Path) -> tuple[Row, list[str]]:
    """A row as the report shows it, and what is odd about it; ValueError where it cannot be shown, with the reason."""
    item = cleaned(item)
    _require(item, RESULT)
    _require(item, {key: kind for key, kind in APART.items() if item.get(key) is not None})
    scales, values = item["scales"], item["metrics"]
    if not scales or not all(number(scale) and 0 < scale < math.inf for scale in scales):
        raise ValueError(f"'scales' must be numbers above 0, got {short(scales)}")
    wrong = {name: value for name, value in values.items() if not (value is None or number(value))}
    if wrong or not values:
        raise ValueError(f"'metrics' must be numbers by name, got {short(wrong)}")
    said: list[str] = []
    known = {key: _known(key, value, folder, said) for key, value in item.items() if key not in OURS}
    crop = {"crop": True} if item.get("crop") else {}  # of rows written before there was `convention`
    absent = {"folder": str(folder), "p": None, **dict.fromkeys(WORDS)}
    own = {"head": item.get("head") or "none", "convention": item.get("convention") or crop}
    return {**absent, **known, **own, "metrics": _metrics(values, said)}, said


def entry(item: Any) -> dict[str, Any]:
    """An entry of rankings.json; ValueError where it cannot be shown, with the reason."""
    _require(item, RANKING)
    query = item["query"]
    if not (isinstance(query.get("path"), str) and _box(query.get("box"))):
        raise ValueError(f"'query' must have a path and, if any, a box [x1, y1, x2, y2], got {short(query)}")
    for found in item["top"]:
        if not (isinstance(found, dict) and isinstance(found.get("path"), str) and number(found.get("score"))):
            raise ValueError(f"each of 'top' must have a path and a score, got {short(found)}")
        if found.get("mark") not in MARKS:
            raise ValueError(f"'mark' must be one of {', '.join(MARKS)}, got {short(found.get('mark'))}")
        if not _looked(found.get("looked")):
            raise ValueError(
                f"'looked' must be a similarity and a map of the query and of the photo, got {short(found['looked'])}"
            )
    return {key: value if key in ("query", "top") else cleaned(value) for key, value in item.items()}


def number(value: Any) -> bool:
    """Whether it is a number that fits a float, NaN and infinity too."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and float(value) is not None
    except OverflowError:
        return False


def short(value: Any) -> str:
    """As Python writes it, cut off where it is long."""
    return reprlib.repr(value)


def _require(item: Any, needed: Mapping[str, type]) -> None:
    if not isinstance(item, dict):
        raise ValueError(f"it must be an object, got {short(item)}")
    for key, kind in needed.items():
        if key not in item:
            raise ValueError(f"it lacks {key!r}")
        value = item[key]
        fits = number(value) if kind is float else type(value) is kind
        if not fits or (kind is str and len(value) > LONGEST):
            raise ValueError(f"{key!r} must be {KINDS[kind]}, got {short(value)}")
    if "resolution" in needed and not 0 < item["resolution"] <= WIDEST:
        raise ValueError(f"'resolution' must be from 1 to {WIDEST:,}, got {short(item['resolution'])}")


def _metrics(values: Mapping[str, Any], said: list[str]) -> dict[str, float]:
    """Numbers in [0, 1], or NaN."""
    read = {name: math.nan if value is None else float(value) for name, value in values.items()}
    if nan := [name for name, value in read.items() if math.isnan(value)]:
        said.append(f"NaN for {', '.join(nan)}, so the mean over its seeds is NaN too")
    if outside := [f"{name} = {value}" for name, value in read.items() if not (math.isnan(value) or _share(value))]:
        said.append(f"{', '.join(outside)}, which cannot lie outside 0 to 1: shown as NaN")
    return {name: value if _share(value) else math.nan for name, value in read.items()}


def _known(key: str, value: Any, folder: Path, said: list[str]) -> Any:
    """The value, None in place of one that is not what its key must be."""
    if key == "per_query" and value is not None:
        return _per_query(value, folder, said)
    if key == "p" and value is not None and _p(value) and not all(0 < one < math.inf for one in _each(value)):
        said.append(f"p = {short(value)}, which is no number above 0")
    must, fits = OPTIONAL.get(key, ("", None))
    if value is None or fits is None or fits(value):
        return value
    said.append(f"{key!r} must be {must}, got {short(value)}, so it is not shown")
    return None


def _per_query(value: Any, folder: Path, said: list[str]) -> str | None:
    """The name of a file of the run, which a stranger's row might give as any other."""
    if not (isinstance(value, str) and Path(os.path.realpath(folder / value)).is_relative_to(os.path.realpath(folder))):
        said.append(f"'per_query' must name a file of the run, got {short(value)}, so it is not read")
        return None
    if not os.path.isfile(folder / value):
        said.append(f"values per query that are gone: {folder / value}")
    return value


def _share(value: Any) -> bool:
    return number(value) and 0 <= value <= 1


def _shares(value: Any) -> bool:
    return isinstance(value, dict) and all(one is None or _share(one) for one in value.values())


def _bounds(value: Any) -> bool:
    return isinstance(value, dict) and all(one is None or _interval(one) for one in value.values())


def _interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(one is None or _share(one) for one in value)


def _p(value: Any) -> bool:
    return number(value) or (isinstance(value, dict) and all(number(value.get(key)) for key in P))


def _each(p: Any) -> Sequence[float]:
    return [p[key] for key in P] if isinstance(p, dict) else [p]


def _count(value: Any) -> bool:
    return _finite(value) and value >= 0


def _finite(value: Any) -> bool:
    return number(value) and math.isfinite(value)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _box(value: Any) -> bool:
    """x1, y1, x2, y2, or none."""
    known = isinstance(value, list) and len(value) == 4 and all(map(_finite, value))
    return value is None or (known and value[0] <= value[2] and value[1] <= value[3])


def _looked(value: Any) -> bool:
    """Where the pooling looked: a similarity, and the shares in it as a map (h, w) of the query and one of the photo;
    or none."""
    maps = isinstance(value, dict) and all(_map(value.get(key)) for key in ("query", "photo"))
    return value is None or (maps and _finite(value.get("similarity")))


def _map(value: Any) -> bool:
    if not (isinstance(value, list) and value and all(isinstance(line, list) and line for line in value)):
        return False
    return len({len(line) for line in value}) == 1 and all(_finite(one) for line in value for one in line)


OPTIONAL: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "p": ("a number, or mean, min and max", _p),
    "macro": ("numbers from 0 to 1 by name", _shares),
    "intervals": ("[low, high] from 0 to 1 by name", _bounds),
    "training": ("an object", _object),
    "versions": ("an object", _object),
    **dict.fromkeys(COUNTS, ("a number, 0 or more", _count)),
}
