"""How sure the numbers of a table are: intervals and means over landmarks, from what each query scored."""

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile
from zlib import error as BadStream

import numpy as np
from numpy.typing import NDArray

from retrieval import metrics, statistics
from retrieval.report.lines import Row, by_benchmark
from retrieval.report.spread import cell
from retrieval.report.table import Cell, Table
from retrieval.report.tables import (
    Grid,
    columns_of,
    gather,
    levels,
    main_metric,
    named,
    opening,
    titled,
    values,
)

INTERVALS = (
    "Intervals: 95 %, percentile bootstrap that resamples landmarks, since photos of one landmark are not independent; "
    "several seeds are averaged per query first. Macro: mean over landmarks of the mean over their queries."
)

# What a file that is cut off, damaged, or a pickle, makes NumPy and zipfile raise.
BROKEN = (OSError, ValueError, BadZipFile, BadStream, EOFError, KeyError, RuntimeError, MemoryError)


class PerQuery(NamedTuple):
    """What each query scored."""

    queries: NDArray[np.str_]  # (Q,)
    landmarks: NDArray[np.str_]  # (Q,)
    values: NDArray[np.float64]  # (seeds, Q); NaN without a relevant image


class Missing(ValueError):
    """Rows whose values per query were not kept, or are gone."""


def per_query(rows: Sequence[Row], level: str, metric: str) -> PerQuery:
    """Of rows that differ in seed alone, queries as in the first.

    Raises Missing where a row has no such values, ValueError where the rows' queries differ.
    """
    first, *others = (_read(row, named(level, metric)) for row in rows)
    each = [first.values, *(aligned(other, first).values for other in others)]
    return first._replace(values=np.concatenate(each))


def aligned(other: PerQuery, first: PerQuery) -> PerQuery:
    """`other` in the order of `first`, by the names of queries; ValueError where queries or their landmarks differ."""
    if not np.array_equal(first.queries, other.queries):
        theirs, ours = set(other.queries), set(first.queries)
        if odd := sorted(theirs ^ ours):
            raise ValueError(f"the same queries must be compared, {odd[0]} is not in both")
        if not len(theirs) == len(other.queries) == len(first.queries):
            raise ValueError(f"queries in another order must have a name each, {len(theirs)} names are there")
        place = {query: i for i, query in enumerate(other.queries)}
        order = np.array([place[query] for query in first.queries])
        other = PerQuery(other.queries[order], other.landmarks[order], other.values[:, order])
    if not np.array_equal(first.landmarks, other.landmarks):
        raise ValueError("the landmark of a query must be the same in both")
    return other


def interval_tables(rows: Sequence[Row]) -> tuple[list[Table], list[str]]:
    """Beside the mean over queries its interval and the mean over landmarks, by the main metric of each benchmark.

    Empty where rows have neither. Also notes: what the columns are, and of whose seeds no interval could be made.
    """
    said: list[str] = []
    built: list[Table] = []
    for metric in dict.fromkeys(main_metric(mine) for mine in by_benchmark(rows).values()):
        mine = [row for of_one in by_benchmark(rows).values() if main_metric(of_one) == metric for row in of_one]
        for level in levels(mine):
            grid, name = gather(mine, level, {metric}), named(level, metric)
            if any(name in (row.get(key) or {}) for row in mine for key in ("intervals", "macro")):
                built.append(_interval_table(titled(f"{metric} with 95 % intervals", level), grid, level, rows, said))
    return built, [INTERVALS, *dict.fromkeys(said)] if built else []


def _interval_table(title: str, grid: Grid, level: str, rows: Sequence[Row], said: list[str]) -> Table:
    columns = columns_of(grid)
    macro = {(line, column): _macro(of[column], level, column.metric) for line, of in grid.items() for column in of}
    with_macro = {column for (_, column), mean in macro.items() if mean}
    header, words = opening(rows)
    lines = []
    for line, of in grid.items():
        cells = [*words[line], Cell(str(max(map(len, of.values()))))]
        for column in columns:
            cells.append(_with_interval(of[column], level, column.metric, said) if column in of else Cell("-"))
            cells += [macro.get((line, column)) or Cell("-")] if column in with_macro else []
        lines.append(cells)
    titles = chain(*([c.title, f"{c.title}, macro"] if c in with_macro else [c.title] for c in columns))
    return Table(title, [*header, "seeds", *titles], lines, len(header))


def _with_interval(rows: Sequence[Row], level: str, metric: str, said: list[str]) -> Cell:
    """`72.7 [68.1, 77.0]`."""
    bounds = (rows[0].get("intervals") or {}).get(named(level, metric)) if len(rows) == 1 else None
    if len(rows) > 1:
        try:
            scored = per_query(rows, level, metric)
            bounds = statistics.interval(scored.values, scored.landmarks)
        except ValueError as error:
            said.append(f"No interval over the seeds of {rows[0]['pooling']} on {rows[0]['benchmark']}: {error}.")
    mean = cell(values(rows, level, metric))
    if not (bounds and all(bound is not None and math.isfinite(bound) for bound in bounds)):
        return mean
    low, high = (100 * float(bound) for bound in bounds)
    return Cell(f"{mean.text} [{low:.1f}, {high:.1f}]", numbers={**(mean.numbers or {}), "low": low, "high": high})


def _macro(rows: Sequence[Row], level: str, metric: str) -> Cell | None:
    """The mean over landmarks, mean and deviation over seeds; None where each query is a landmark of its own."""
    found = [(row.get("macro") or {}).get(named(level, metric)) for row in rows]
    known = [value for value in found if value is not None]
    try:
        landmarks = per_query(rows[:1], level, metric).landmarks
        told_apart = len(np.unique(landmarks)) < len(landmarks)
    except ValueError:
        told_apart = True  # its row has a mean over landmarks, and nothing says that it is the other one
    return cell(known) if len(known) == len(rows) and told_apart else None


def arrays(file: Path, names: Sequence[str]) -> dict[str, NDArray]:
    """Those of the names that a `.npz` holds, `mAP` standing for the `AP` of each query; raises one of BROKEN."""
    with np.load(file, allow_pickle=False) as held:
        by_mean = {metrics.mean_name(name): name for name in held.files}
        return {name: held[by_mean[name]] for name in names if name in by_mean}


def _read(row: Row, metric: str) -> PerQuery:
    if not row.get("per_query"):
        raise Missing(f"the rows in {row['folder']} name no values per query: judge that run again")
    file = Path(row["folder"]) / row["per_query"]
    wanted = ("queries", "landmarks", metric)
    try:
        found = arrays(file, wanted)
    except BROKEN as error:
        raise Missing(f"{file} cannot be read: {error}") from error
    if absent := [name for name in wanted if name not in found]:
        raise Missing(f"{file} has nothing per query for {absent[0]}")
    if (
        len({of.shape for of in found.values()}) > 1
        or found["queries"].ndim != 1
        or found[metric].dtype.kind not in "fiub"
    ):
        raise Missing(f"{file} must hold a name, a landmark and a number for each query")
    return PerQuery(found["queries"], found["landmarks"], found[metric].astype(np.float64)[None])
