"""Which of two lines of a table is better, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from retrieval import statistics
from retrieval.lines import Line, Row, by_benchmark, line_of
from retrieval.page import Cell, Table
from retrieval.tables import Column, gather, levels, line_labels, main_metric
from retrieval.uncertainty import Missing, aligned, per_query

NOTE = (
    "Differences are in points, positive where the line named first is better, paired by query, seeds averaged first; "
    "95 % intervals by a percentile bootstrap that resamples landmarks; p of a two-sided test that flips the signs of "
    "the differences, alike within a landmark."
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
    return _table(f"{labels[a]}, minus {labels[b]}", _differences(rows, a, b), rows)


def against(rows: Sequence[Row], reference: str) -> tuple[Table, list[str]]:
    """`compare` of every other line with one, in one table; lines without values per query are left out and named."""
    line, labels = chosen(rows, reference), line_labels(rows)
    found, left_out = [], []
    for other in labels:
        try:
            found += _differences(rows, other, line) if other != line else []
        except Missing as error:
            left_out.append(f"Not compared: {labels[other]}: {error}.")
    if not found:
        raise ValueError("\n".join([f"nothing can be compared with {labels[line]!r}", *left_out]))
    table, said = _table(f"Each line, minus {labels[line]}", found, rows, labels)
    return table, [*said, *left_out]


class _Difference(NamedTuple):
    line: Line
    level: str
    column: Column
    of: statistics.Difference
    queries: int


def _differences(rows: Sequence[Row], a: Line, b: Line) -> list[_Difference]:
    """a - b wherever both were judged; Missing where they nowhere were."""
    found, labels = [], line_labels(rows)
    for benchmark, mine in by_benchmark(row for row in rows if line_of(row) in (a, b)).items():
        for level in levels(mine):
            grid = gather(mine, level, {main_metric(mine)})
            for column in sorted(grid.get(a, {}).keys() & grid.get(b, {}).keys(), key=lambda column: column.order):
                ours, theirs = (per_query(grid[line][column], level, column.metric) for line in (a, b))
                what = f"{labels[a]} and {labels[b]} on {benchmark} at {column.resolution} px"
                theirs = aligned(theirs, ours, what)
                of = statistics.difference(ours.values, theirs.values, ours.landmarks)
                queries = int((~np.isnan(ours.values - theirs.values)).sum())
                found.append(_Difference(a, level, column, of, queries))
    if not found:
        raise Missing(f"{labels[a]} and {labels[b]} were judged on no benchmark and resolution alike")
    return found


def _table(
    title: str, found: Sequence[_Difference], rows: Sequence[Row], labels: Mapping[Line, str] | None = None
) -> tuple[Table, list[str]]:
    """labels: of the lines, where each is to be named."""
    named_levels = any(one.level for one in found)
    words = [*(["line"] if labels else []), "benchmark", *(["level"] if named_levels else [])]
    metric = {one.column.metric for one in found}
    lines = []
    for one in found:
        benchmark = one.column.benchmark + ("" if len(metric) == 1 else f" {one.column.metric}")
        first = [*([labels[one.line]] if labels else []), benchmark, *([one.level or "-"] if named_levels else [])]
        between = f"[{points(one.of.low)}, {points(one.of.high)}]"
        numbers = [f"{one.column.resolution}", points(one.of.mean), between, p_value(one.of.p_value)]
        lines.append([Cell(text) for text in (*first, *numbers, str(one.of.landmarks), str(one.queries))])
    header = [*words, "px", "difference", "95 % interval", "p", "landmarks", "queries"]
    several = f" The {len(found)} p values are not corrected for their number." if len(found) > 1 else ""
    what = f"{', '.join(sorted(metric))}: " if len(metric) == 1 else ""
    return Table(f"{what}{title}", header, lines, len(words)), [NOTE + several]


def points(value: float) -> str:
    """A difference in hundredths, with its sign."""
    return "-" if math.isnan(value) else f"{100 * value:+.2f}"


def p_value(p: float) -> str:
    return "-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
