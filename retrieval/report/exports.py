"""What left a run: the rows of its `export.json`, a stranger's as every file here, and their table."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from retrieval.report.checks import number
from retrieval.report.lines import Row
from retrieval.report.reading import cleaned
from retrieval.report.table import Cell, Table

TEXTS, NUMBERS = ("model", "file", "format", "dtype", "device"), ("bytes", "resolution", "threads")
MEASURED = ("cosine", "seconds")  # or null
SAID = (
    "Lowest cosine: of a file's descriptors to the model's, over three sizes, two aspect ratios, one and five images. "
    "Change: percentage points that a file loses or gains against the model itself at that size."
)


def row(item: Any) -> Row:
    """A row as it is shown; ValueError with the reason where it cannot be."""
    item = cleaned(item)
    if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in TEXTS):
        raise ValueError(f"it must be an object with the texts {', '.join(TEXTS)}")
    if not all(number(item.get(key)) and math.isfinite(item[key]) for key in NUMBERS):
        raise ValueError(f"it must have the numbers {', '.join(NUMBERS)}")
    if not all(item.get(key) is None or number(item[key]) for key in MEASURED):
        raise ValueError(f"{', '.join(MEASURED)} must be numbers or null")
    judged = item.get("judged")
    if not isinstance(judged, list) or not all(_judged(one) for one in judged):
        raise ValueError("'judged' must list benchmarks, each with a 'metric', a 'value', 'lost' and an 'interval'")
    return item


def _judged(one: Any) -> bool:
    if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in ("benchmark", "metric")):
        return False
    interval = one.get("interval")
    two = interval is None or (isinstance(interval, list) and len(interval) == 2 and all(map(number, interval)))
    return two and number(one.get("value")) and number(one.get("lost"))


def tables(rows: Iterable[Row]) -> tuple[list[Table], list[str]]:
    """A table for each model and size, and what must be known to read it."""
    found = [table(list(of_one)) for _, of_one in groupby(rows, key=lambda row: (row["model"], row["resolution"]))]
    return found, [SAID] if found else []


def table(rows: Sequence[Row]) -> Table:
    """The files of one model: size, time, agreement with it and, where they were judged, what they lose or gain."""
    asked = list(dict.fromkeys((one["benchmark"], one["metric"]) for row in rows for one in row["judged"]))
    first = rows[0]
    title = f"Files of {first['model']}, at {first['resolution']} px ({first['device']}, {first['threads']} threads)"
    header = ["file", "format", "numbers", "MB", "ms an image", "lowest cosine"]
    header += [
        said for benchmark, metric in asked for said in (f"{benchmark}, {metric} [95 %]", f"{benchmark}, change")
    ]
    return Table(title, header, [_line(row, asked) for row in rows], names=3)


def _line(row: Row, asked: Sequence[tuple[str, str]]) -> list[Cell]:
    of = {(one["benchmark"], one["metric"]): one for one in row["judged"]}
    cells = [Cell(row[key]) for key in ("file", "format", "dtype")]
    cells += [_cell(row["bytes"] / 1e6, 1), _cell(row["seconds"], 1, 1000), _cell(row["cosine"], 6)]
    for one in map(of.get, asked):
        cells += (
            [Cell("-"), Cell("-")]
            if one is None
            else [
                percent(one["value"], one["interval"]),
                Cell(change(one["lost"]), numbers={"": 0 - 100 * one["lost"]}),
            ]
        )
    return cells


def _cell(value: float | None, digits: int, times: float = 1) -> Cell:
    return Cell("-") if value is None else Cell(f"{times * value:.{digits}f}", numbers={"": times * value})


def change(lost: float) -> str:
    """Percentage points of a value that are lost, or gained where `lost` is below 0: `lost 1.20`."""
    return f"{'gained' if round(100 * lost, 2) < 0 else 'lost'} {abs(100 * lost):.2f}"


def percent(value: float | None, interval: Sequence[float] | None) -> Cell:
    """`76.4 [67.2, 84.9]`."""
    if value is None:
        return Cell("-")
    between = f" [{', '.join(f'{100 * bound:.1f}' for bound in interval)}]" if interval else ""
    return Cell(f"{100 * value:.1f}{between}", numbers={"": 100 * value})
