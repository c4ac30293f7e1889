"""Which of two lines of a table is better, and how sure that is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from retrieval import statistics
from retrieval.report.lines import Line, Row, by_benchmark, line_of
from retrieval.report.table import Cell, Table
from retrieval.report.tables import Column, gather, levels, line_labels, main_metric
from retrieval.report.uncertainty import Missing, aligned, per_query

EACH = "each line"
NOTE = (
    "Differences are in points, above 0 where the line named is better than the one taken away; paired by query, seeds "
    "averaged first. 95 % intervals: percentile bootstrap that resamples landmarks. P value: two-sided test that flips "
    "the signs of the differences, alike within a landmark."
)


def chosen(rows: Sequence[Row], text: str) -> Line:
    """The one line whose label is `text` or, where none is, holds it; ValueError with the labels otherwise."""
    labels = line_labels(rows)
    fitting = [line for line, label in labels.items() if label == text]
    fitting = fitting or [line for line, label in labels.items() if text in label]
    if len(fitting) != 1:
        which = f"{len(fitting)} lines of the tables fit" if fitting else "no line of the tables fits"
        shown = [labels[line] for line in fitting or labels]
        raise ValueError("\n  ".join([f"{which} {text!r}; choose by one of", *shown]))
    return fitting[0]


def compare(rows: Sequence[Row], first: str, second: str) -> tuple[Table, list[str]]:
    """How far one line is better than another, by benchmark, level and resolution, with notes.

    Raises ValueError where a label fits no line or several, or the two were not judged on the same queries.
    """
    a, b = chosen(rows, first), chosen(rows, second)
    labels = line_labels(rows)
    if a == b:
        raise ValueError(f"two lines are compared, {first!r} and {second!r} both fit {labels[a]!r}")
    return _compared(rows, [a], b, labels[a])


def against(rows: Sequence[Row], reference: str) -> tuple[Table, list[str]]:
    """`compare` of every other line with one, in one table; raises as that does."""
    line = chosen(rows, reference)
    return _compared(rows, [other for other in line_labels(rows) if other != line], line, EACH)


class _Difference(NamedTuple):
    line: Line
    level: str
    column: Column
    of: statistics.Difference
    queries: int


def _compared(rows: Sequence[Row], lines: Sequence[Line], reference: Line, what: str) -> tuple[Table, list[str]]:
    labels = line_labels(rows)
    found: list[_Difference] = []
    missing: list[str] = []
    for line in lines:
        before = len(found) + len(missing)
        for level, column, ours, theirs in _cells(rows, line, reference):
            where = f"{labels[line]} and {labels[reference]} on {column.benchmark} at {column.resolution} px"
            try:
                found.append(_difference(line, level, column, ours, theirs))
            except Missing as error:
                missing.append(f"Not compared: {where}: {error}.")
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        if before == len(found) + len(missing):
            missing.append(f"Not compared: {labels[line]} and {labels[reference]} share no benchmark and resolution.")
    if not found:
        raise ValueError("\n".join(missing or [f"there is no line besides {labels[reference]}"]))
    title = f"of {what} minus that of {labels[reference]}"
    table = _pivoted(title, found, labels) if what == EACH else _table(title, found)
    count = f"{table.title}: {len(found)} P values, not corrected for their number."
    sizes = [f"{one.column.benchmark}: {one.queries} queries of {one.of.landmarks} landmarks" for one in found]
    compared = f"Compared on {', '.join(dict.fromkeys(sizes))}." if what == EACH else ""
    return table, [NOTE, *filter(None, [compared, count if len(found) > 1 else ""]), *dict.fromkeys(missing)]


def _cells(rows: Sequence[Row], a: Line, b: Line) -> Iterator[tuple[str, Column, list[Row], list[Row]]]:
    """Level, column and the rows of each line, wherever both were judged, by the main metric of each benchmark."""
    for mine in by_benchmark(row for row in rows if line_of(row) in (a, b)).values():
        for level in levels(mine):
            grid = gather(mine, level, {main_metric(mine)})
            ours, theirs = grid.get(a, {}), grid.get(b, {})
            for column in sorted(ours.keys() & theirs.keys(), key=lambda column: column.order):
                yield level, column, ours[column], theirs[column]


def _difference(line: Line, level: str, column: Column, ours: list[Row], theirs: list[Row]) -> _Difference:
    a = per_query(ours, level, column.metric)
    b = aligned(per_query(theirs, level, column.metric), a)
    of = statistics.difference(a.values, b.values, a.landmarks)
    return _Difference(line, level, column, of, int((~np.isnan(a.values[0])).sum()))


def _table(title: str, found: Sequence[_Difference]) -> Table:
    """A line a difference. title: without its metric."""
    leveled, alike = any(one.level for one in found), len({one.column.metric for one in found}) == 1
    words = ["benchmark", *(["level"] if leveled else [])]
    lines = []
    for one in found:
        level = [one.level.capitalize() or "-"] if leveled else []
        numbers = [f"{one.column.resolution}", points(one.of.mean), between(one), p_value(one.of.p_value)]
        benchmark = one.column.benchmark if alike else f"{one.column.benchmark} {one.column.metric}"
        texts = [benchmark, *level, *numbers, str(one.of.landmarks), str(one.queries)]
        lines.append([Cell(text) for text in texts])
    header = [*words, "px", "difference", "95 % interval", "P value", "landmarks", "queries"]
    return Table(f"{_metrics(found)} {title}", header, lines, len(words))


def _pivoted(title: str, found: Sequence[_Difference], labels: Mapping[Line, str]) -> Table:
    """A line for each line compared, a column for each benchmark, level and resolution."""
    columns = list(dict.fromkeys((one.level, one.column) for one in found))
    lines = []
    for line in dict.fromkeys(one.line for one in found):
        of = {(one.level, one.column): one for one in found if one.line == line}
        lines.append([Cell(labels[line]), *(_said(of[column]) if column in of else Cell("-") for column in columns)])
    header = [
        "line",
        *(", ".join([*([level.capitalize()] if level else []), column.title]) for level, column in columns),
    ]
    return Table(f"{_metrics(found)} {title}", header, lines, 1)


def _said(one: _Difference) -> Cell:
    text = f"{points(one.of.mean)} {between(one)}, P value {p_value(one.of.p_value)}"
    ends = {"low": 100 * one.of.low, "high": 100 * one.of.high}
    return Cell(text, numbers={"mean": 100 * one.of.mean, **ends, "P value": one.of.p_value})


def _metrics(found: Sequence[_Difference]) -> str:
    metrics = {one.column.metric for one in found}
    return metrics.pop() if len(metrics) == 1 else "Score"


def between(one: _Difference) -> str:
    """The interval of a difference."""
    return f"[{points(one.of.low)}, {points(one.of.high)}]"


def points(value: float) -> str:
    """A difference in hundredths, with its sign."""
    return "-" if math.isnan(value) else f"{100 * value:+.2f}"


def p_value(p: float) -> str:
    return "-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
