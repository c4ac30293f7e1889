"""Tables from rows: one line per model, values in percent, mean and spread over seeds."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from retrieval.report.lines import Line, Model, Row, judged_on, line_of, model_of
from retrieval.report.spread import cell, exponent, fewer, highest, rounded
from retrieval.report.table import Cell, Table

LEVELS = ("medium", "hard", "easy", "public", "private", "")  # "" where a benchmark has no levels
FAMILIES = ("mAP", "mAP@R", "mAP@k", "micro-AP", "mP@k", "recall@k")


class Column(NamedTuple):
    benchmark: str
    metric: str  # without its level: "mAP", "mP@5"
    resolution: int

    @property
    def title(self) -> str:
        # An average precision has tables of its own, whose titles name it.
        name = self.benchmark if "AP" in self.metric else f"{self.benchmark} {self.metric}"
        return f"{name}, {self.resolution} px"

    @property
    def order(self) -> tuple[Any, ...]:
        return self.benchmark, order_of(self.metric), self.resolution


Grid = dict[Line, dict[Column, list[Row]]]


def tables(rows: Sequence[Row]) -> list[Table]:
    """A table per average precision and level, Medium first, then those of mP@k, recall@k and what else there is."""
    built = []
    found = metrics(rows)
    for title in dict.fromkeys(_title(metric) for metric in found):
        wanted = {metric for metric in found if _title(metric) == title}
        # p stands once, beside the average precision: the tables of many k are wide enough.
        with_p = "AP" in title or not any("AP" in metric for metric in found)
        for level in levels(rows):
            repeated = {Column(benchmark, "mP@1", at) for benchmark, of, at in repeats(rows) if of == level}
            if grid := without(gather(rows, level, wanted), repeated):
                built.append(_table(titled(title, level), grid, level, rows, with_p))
    return built


def titled(title: str, level: str) -> str:
    return f"{title}, {level.capitalize()}" if level else title


def gather(rows: Sequence[Row], level: str, metrics: set[str]) -> Grid:
    """The rows of each line and column, one per seed; lines in the order of a table."""
    grid: Grid = {}
    for row in sorted(rows, key=lambda row: (line_of(row).order, row["seed"])):
        for name in row["metrics"]:
            at, _, metric = name.rpartition("/")
            if at == level and metric in metrics:
                column = Column(row["benchmark"], metric, row["resolution"])
                grid.setdefault(line_of(row), {}).setdefault(column, []).append(row)
    return grid


def repeats(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """Benchmark, level and resolution wherever mP@1 is recall@1 in every row, as it is by definition: the first image
    is relevant or not."""
    same: dict[tuple[str, str, int], bool] = {}
    for row in rows:
        for level in levels([row]):
            mean, recall = (row["metrics"].get(named(level, metric)) for metric in ("mP@1", "recall@1"))
            if mean is not None:
                where = row["benchmark"], level, row["resolution"]
                alike = recall is not None and (math.isclose(mean, recall, abs_tol=1e-9) or mean != mean != recall)
                same[where] = same.get(where, True) and alike
    return [where for where, alike in same.items() if alike]


def without(grid: Grid, columns: set[Column]) -> Grid:
    """The grid without some columns, and without the lines that have no others."""
    kept = {line: {column: of[column] for column in of if column not in columns} for line, of in grid.items()}
    return {line: of for line, of in kept.items() if of}


def values(rows: Iterable[Row], level: str, metric: str) -> list[float]:
    return [float(row["metrics"][named(level, metric)]) for row in rows]


def named(level: str, metric: str) -> str:
    """The name of a metric in a row: `medium/mAP`."""
    return f"{level}/{metric}" if level else metric


def metrics(rows: Iterable[Row]) -> list[str]:
    """The names of metrics without their levels, in the order of a report."""
    return sorted({name.rpartition("/")[2] for row in rows for name in row["metrics"]}, key=order_of)


def main_metric(rows: Iterable[Row]) -> str:
    """What the rows of one benchmark are compared by: mAP, or the first that they have."""
    return next(iter(metrics(rows)), "")


def order_of(metric: str) -> tuple[int, int, str]:
    """Families in their order, their k ascending."""
    of, digits = family(metric), re.sub(r"\D", "", metric)
    return (*FAMILIES, of).index(of), int(digits or 0), metric


def family(metric: str) -> str:
    return re.sub(r"@\d+$", "@k", metric)


def _title(metric: str) -> str:
    """The table that a metric stands in: its own where it is an average precision, else that of every k."""
    return metric if "AP" in metric else family(metric)


def names(rows: Iterable[Row]) -> dict[Model, str]:
    """Pooling, its options and head of each model, with the settings' hash where two settings would read alike."""
    models = sorted({model_of(row) for row in rows}, key=lambda model: model.order)
    alike = Counter(model[:5] for model in models)
    return {model: _pooling(model) + (f" #{model.settings[:7]}" if alike[model[:5]] > 1 else "") for model in models}


def labels(rows: Sequence[Row]) -> dict[Model, str]:
    """What a chart calls each model: its name, with the backbone where there are several."""
    several = len({row["backbone"] for row in rows}) > 1
    return {model: f"{model.backbone} · {name}" if several else name for model, name in names(rows).items()}


def line_labels(rows: Sequence[Row]) -> dict[Line, str]:
    """A label of its own for each line, in the order of a table: "gem, 1 scale, untrained"."""
    of_model, some_trained = labels(rows), not all(row["untrained"] for row in rows)
    parts = {
        line: (of_model[line.model], line.descriptor, "untrained" if line.model.untrained and some_trained else "")
        for line in sorted({line_of(row) for row in rows}, key=lambda line: line.order)
    }
    return {line: ", ".join(filter(None, of_line)) for line, of_line in parts.items()}


def opening(rows: Sequence[Row]) -> tuple[list[str], dict[Line, list[Cell]]]:
    """The first columns of a table, which are words, and their cells: descriptors only where they differ."""
    of_model, lines = names(rows), {line_of(row) for row in rows}
    described = any(line.descriptor for line in lines)
    cells = {}
    for line in lines:
        descriptor = [line.descriptor or "-"] if described else []
        weights = "untrained" if line.model.untrained else "trained"
        cells[line] = [Cell(text) for text in (line.model.backbone, of_model[line.model], *descriptor, weights)]
    return ["backbone", "pooling", *(["descriptor"] if described else []), "weights"], cells


def levels(rows: Iterable[Row]) -> list[str]:
    found = {name.rpartition("/")[0] for row in rows for name in row["metrics"]}
    return sorted(found, key=lambda level: ((*LEVELS, level).index(level), level))


def _pooling(model: Model) -> str:
    pooling = f"{model.pooling} ({model.options})" if model.options else model.pooling
    return pooling if model.head == "none" else f"{pooling} + {model.head}"


def _table(title: str, grid: Grid, level: str, rows: Sequence[Row], with_p: bool) -> Table:
    columns = columns_of(grid)
    best = _best(grid, level)
    header, words = opening(rows)
    lines = []
    for line, of_line in grid.items():
        seeds = max(map(len, of_line.values()))
        cells = [*words[line], Cell(str(seeds))]
        for column in columns:
            found = of_line.get(column, [])
            scored = values(found, level, column.metric)
            leads = bool(found) and rounded(scored) == best[column, judged_on(found[0])]
            cells.append(cell(scored, leads, fewer(len(found), seeds)) if found else Cell("-"))
        p = [Cell(exponent(row for of_column in of_line.values() for row in of_column))] if with_p else []
        lines.append([*cells, *p])
    numbers = ["seeds", *(column.title for column in columns), *(["p"] if with_p else [])]
    return Table(title, [*header, *numbers], lines, len(header))


def columns_of(grid: Grid) -> list[Column]:
    return sorted({column for of_line in grid.values() for column in of_line}, key=lambda column: column.order)


def _best(grid: Grid, level: str) -> dict[tuple[Column, str], str]:
    """The highest mean, as printed, so that values that read alike are all bold, by column and what they were judged
    on; "" without any."""
    alike: dict[tuple[Column, str], list[list[float]]] = {}
    for of_line in grid.values():
        for column, rows in of_line.items():
            alike.setdefault((column, judged_on(rows[0])), []).append(values(rows, level, column.metric))
    return {where: highest(each) for where, each in alike.items()}
