"""A table by any keys of the rows: a mean over seeds in each cell, and over nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from retrieval.errors import near
from retrieval.report.configs import config_of
from retrieval.report.lines import EVALUATED, SIZES, Row, natural
from retrieval.report.points import Point, points
from retrieval.report.spread import cell, fewer, highest, rounded
from retrieval.report.table import Cell, Table
from retrieval.report.tables import LEVELS, order_of
from retrieval.subjects import CHOICES, KEYS

ROWS, COLUMNS = ("backbone", "pooling"), ("benchmark", "level", "resolution")  # where none are asked for
# What a row is split by, as far as it must be: these, in their order, then what has a dot, then the last ones.
FIRST = ("untrained", "backbone", "pooling", "options", "head", "trained_with", *CHOICES, "resolutions", "crop", *KEYS)
THEN = ("benchmark", "metric", "level", "resolution", *EVALUATED, *SIZES)
LAST = ("descriptor", "settings", "apart")
PLAIN = ("untrained", "benchmark", "metric", "level", "backbone", "pooling", "options", "descriptor", "apart")


class Asked(NamedTuple):
    """The keys whose values name the rows of a table, and its columns; the metrics shown, none for the main ones."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[str]


Key = tuple[str, ...]
Cells = dict[Key, dict[Key, list[Point]]]


def pivot(rows: Sequence[Row], asked: Asked) -> tuple[Table, list[str]]:
    """The table, and notes: which rows were split, and by what. Raises ValueError for a key or metric that no row has,
    or that cannot be asked for."""
    found = list(points(rows, asked.values))
    by_rows, by_columns = _keys(asked, found)
    groups: dict[Key, list[Point]] = {}
    for point in found:
        groups.setdefault(tuple(map(point.says, by_rows)), []).append(point)
    cells: Cells = {}
    splits: dict[str, list[str]] = {}
    for group in sorted(groups, key=lambda group: _order(by_rows, group)):
        keys = needed(groups[group], by_columns)
        for key in keys:
            splits.setdefault(key, []).append(", ".join(group))
        cells |= _cells(groups[group], by_rows, by_columns, keys)
    shown = sorted({point.facts["metric"] for point in found}, key=order_of)
    bold = "Bold in the table by keys: the best value of its benchmark, level and resolution."
    said = [bold, *_split(splits), *_without_config(rows, [*by_rows, *by_columns])]
    return _table(cells, by_rows, by_columns, bool(splits), shown), said


def needed(group: Sequence[Point], by_columns: Sequence[str]) -> list[str]:
    """The keys that a group of points must be split by so that those of one cell differ in seed alone."""
    keys: list[str] = []
    while clash := _clash(group, [*by_columns, *keys]):
        keys.append(next(key for key in _splitting(clash) if _separates(key, clash, group)))
    return keys


def _separates(key: str, clash: Sequence[Point], group: Sequence[Point]) -> bool:
    """Whether the points of a clash differ under a key, and none of the group do that differ in seed alone."""
    kinds = {(point.is_of, point.says(key)) for point in group}
    return len({point.says(key) for point in clash}) > 1 and len(kinds) == len({point.is_of for point in group})


def _keys(asked: Asked, found: Sequence[Point]) -> tuple[list[str], list[str]]:
    """The keys of rows and columns; `untrained` and `metric` join them where there are both, or several."""
    by_rows = list(asked.rows or [key for key in ROWS if key not in asked.columns])
    by_columns = list(asked.columns or [key for key in COLUMNS if key not in by_rows])
    known = {key for point in found for key in point.facts}
    both = [*by_rows, *by_columns]
    for key in both:
        if key == "seed":
            raise ValueError("a table cannot be by seed: each of its cells is a mean over seeds")
        if key not in known:
            raise ValueError(f"no row has the key {key!r}: {near(key, known)}")
        if both.count(key) > 1:
            raise ValueError(f"a key is of the rows or of the columns, once: {key} is there {both.count(key)} times")
    mixed = {key for key in ("untrained", "metric") if len({point.facts[key] for point in found}) > 1}
    by_rows += [key for key in ("untrained",) if key in mixed and key not in both]
    return by_rows, by_columns + [key for key in ("metric",) if key in mixed and key not in both]


def _clash(group: Sequence[Point], keys: Sequence[str]) -> list[Point]:
    """The points of a cell that are no repetition of each other by seed; empty where there is no such cell."""
    cells: dict[Key, list[Point]] = {}
    for point in group:
        cells.setdefault(tuple(map(point.says, keys)), []).append(point)
    return next((cell for cell in cells.values() if len({point.is_of for point in cell}) > 1), [])


def _splitting(clash: Sequence[Point]) -> list[str]:
    """Keys in the order in which a cell may be split by them: those that a reader knows best come first."""
    known = dict.fromkeys(key for point in clash for key in point.facts)
    return [*FIRST, *THEN, *(key for key in known if "." in key), *LAST]


def _cells(group: Sequence[Point], by_rows: Sequence[str], by_columns: Sequence[str], keys: Sequence[str]) -> Cells:
    """The cells of a group, split by keys: after the words that name a row stands what it was split by."""
    cells: Cells = {}
    for point in sorted(group, key=lambda point: (_order(keys, tuple(map(point.says, keys))), point.seed)):
        own = tuple(map(point.says, keys))
        row = *map(point.says, by_rows), ", ".join(filter(None, map(_titled, keys, own))) or "-", *own
        cells.setdefault(row, {}).setdefault(tuple(map(point.says, by_columns)), []).append(point)
    return cells


def _table(cells: Cells, by_rows: Sequence[str], by_columns: Sequence[str], split: bool, shown: Sequence[str]) -> Table:
    columns = sorted({column for of in cells.values() for column in of}, key=lambda column: _order(by_columns, column))
    best, lines = _best([of_cell for of in cells.values() for of_cell in of.values()]), []
    for row, of in cells.items():
        seeds = max(map(len, of.values()))
        line = [*map(Cell, row[: len(by_rows) + split]), Cell(str(seeds))]
        for column in columns:
            values = _values(of.get(column, ()))
            leads = bool(values) and rounded(values) == best[_judged(of[column])]
            line.append(cell(values, leads, fewer(len(values), seeds)) if values else Cell("-"))
        lines.append(line)
    titles = [", ".join(filter(None, map(_titled, by_columns, column))) or shown[0] for column in columns]
    words = [*("weights" if key == "untrained" else key for key in by_rows), *(["split by"] if split else [])]
    by = ", ".join(key for key in by_rows if key != "untrained" or len(by_rows) == 1) or ", ".join(by_columns)
    return Table(f"{', '.join(shown)} by {by}", [*words, "seeds", *titles], lines, len(words))


def _best(cells: Sequence[Sequence[Point]]) -> dict[tuple[Any, ...], str]:
    """The highest mean, as printed, wherever cells were judged alike."""
    alike: dict[tuple[Any, ...], list[list[float]]] = {}
    for of_cell in cells:
        alike.setdefault(_judged(of_cell), []).append(_values(of_cell))
    return {judged: highest(each) for judged, each in alike.items()}


def _judged(of_cell: Sequence[Point]) -> tuple[Any, ...]:
    """A cell's benchmark with its photos, its resolution, level and metric."""
    first = of_cell[0]
    return *first.is_of[1:], first.judged_on


def _split(splits: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        f"Split by {key}, as a mean is over seeds alone: {'; '.join(dict.fromkeys(rows))}."
        for key, rows in splits.items()
    ]


def _without_config(rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """What is said of runs whose config cannot be asked for a key."""
    of_config = [key for key in keys if "." in key and not key.startswith(("convention.", "versions."))]
    folders = dict.fromkeys(row["folder"] for row in rows if of_config and not config_of(row))
    return [f"{folder} has no config.yaml that can be read: {', '.join(of_config)} is not known." for folder in folders]


def _values(of_cell: Sequence[Point]) -> list[float]:
    return [point.value for point in of_cell]


def _titled(key: str, value: str) -> str:
    """A value as the title of a column, or what a row is split by, says it; "" where there is nothing to say."""
    if key in PLAIN:
        return "" if value == "-" else value
    if value == "-":
        return f"no {key}"
    return f"{value} px" if key == "resolution" else f"{key}={value}"


def _order(keys: Sequence[str], values: Key) -> list[Any]:
    """Levels and metrics in the order of a report, numbers as numbers, nothing at the end."""
    return [_place(key, value) for key, value in zip(keys, values, strict=True)]


def _place(key: str, value: str) -> Any:
    if key == "level":
        level = value.lower().replace("-", "")
        return (*LEVELS, level).index(level), level
    if key == "metric":
        return order_of(value)
    try:
        return 0, float(value), []
    except ValueError:
        return 1 + (value == "-"), 0.0, natural(value)
