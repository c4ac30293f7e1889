"""Tables from rows: one line per model, values in percent, mean and spread over seeds."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from retrieval.page import Cell, Table
from retrieval.runs import EVALUATED, Model, Row, model_of

LEVELS = ("medium", "hard", "easy", "")  # "" where a benchmark has no levels
PROTOCOL = "AP is the trapezoid average precision of the revisited Oxford and Paris protocol; values in percent."


class Column(NamedTuple):
    benchmark: str
    metric: str  # without its level: "mAP", "mP@5"
    resolution: int
    how: str  # what else tells evaluations apart, in words; "" for one scale and no other difference

    @property
    def title(self) -> str:
        name = self.benchmark if self.metric == "mAP" else f"{self.benchmark} {self.metric}"
        return ", ".join(part for part in (name, f"{self.resolution} px", self.how) if part)

    @property
    def order(self) -> tuple[Any, ...]:
        digits = re.sub(r"\D", "", self.metric)
        return self.benchmark, int(digits or 0), self.metric, self.resolution, self.how


def tables(rows: Sequence[Row]) -> list[Table]:
    """mAP tables, Medium first, then mP@k tables; a level without values has none."""
    names_of_metrics = {name.rpartition("/")[2] for row in rows for name in row["metrics"]}
    built = []
    for title, wanted in (("mAP", {"mAP"}), ("mP@k", names_of_metrics - {"mAP"})):
        for level in levels(rows):
            if grid := gather(rows, level, wanted):
                built.append(_table(f"{title}, {level.capitalize()}" if level else title, grid, rows))
    return built


def gather(rows: Sequence[Row], level: str, metrics: set[str]) -> dict[Model, dict[Column, list[float]]]:
    """The values of each model and column, one per seed; models in the order of a table's lines."""
    grid: dict[Model, dict[Column, list[float]]] = {}
    varying = {row["benchmark"]: _varying(rows, row["benchmark"]) for row in rows}
    for row in sorted(rows, key=lambda row: (model_of(row).order, row["seed"])):
        for name, value in row["metrics"].items():
            at, _, metric = name.rpartition("/")
            if at == level and metric in metrics:
                column = Column(row["benchmark"], metric, row["resolution"], _how(row, varying[row["benchmark"]]))
                grid.setdefault(model_of(row), {}).setdefault(column, []).append(float(value))
    return grid


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); the deviation of one value is 0."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def percent(values: Sequence[float]) -> str:
    """`41.2 ± 0.3` for several seeds, `41.2` for one, `NaN` where any value is."""
    mean, sd = mean_and_sd(values)
    if math.isnan(mean):
        return "NaN"
    return f"{100 * mean:.1f} ± {100 * sd:.1f}" if len(values) > 1 else f"{100 * mean:.1f}"


def names(rows: Iterable[Row]) -> dict[Model, str]:
    """Pooling, its options and head of each model, with the settings' hash where two settings would read alike."""
    models = sorted({model_of(row) for row in rows}, key=lambda model: model.order)
    alike = Counter(model[:5] for model in models)
    return {model: _pooling(model) + (f" #{model.settings[:7]}" if alike[model[:5]] > 1 else "") for model in models}


def labels(rows: Sequence[Row]) -> dict[Model, str]:
    """What a chart calls each model: its name, with the backbone where there are several."""
    several = len({row["backbone"] for row in rows}) > 1
    return {model: f"{model.backbone} · {name}" if several else name for model, name in names(rows).items()}


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the tables must know: the protocol, the seeds, the selection, the sizes, the versions."""
    said = [PROTOCOL, f"Mean ± sample standard deviation over seeds; bold: {_bold(rows)}."]
    if any("#" in name for name in names(rows).values()):
        said.append(
            "Lines that differ in #hash differ in settings other than the seed, so they share no mean; "
            "report.csv gives the folder of each."
        )
    for benchmark in sorted({row["benchmark"] for row in rows}):
        mine = [row for row in rows if row["benchmark"] == benchmark]
        sizes = ", ".join(f"{_distinct(mine, key)} {key}" for key in ("queries", "images"))
        skipped = max(row.get("skipped") or 0 for row in mine)
        said.append(f"{benchmark}: {sizes}" + (f", {skipped} photos skipped" if skipped else "") + ".")
    trained = [row for row in rows if not row["untrained"]]
    if trained:
        # The score that won differs from run to run; what was scored is what a reader needs.
        selected = re.sub(r"\d+\.\d+ ", "", _distinct(trained, "selected_by"))
        said.append(f"Model selected by: {', '.join(dict.fromkeys(selected.split(', ')))}.")
    versions = {f"{name} {number}" for row in rows for name, number in (row.get("versions") or {}).items()}
    said.append(f"Computed in {_distinct(rows, 'dtype')} on {_distinct(rows, 'device')}.")
    return said + ([f"Versions: {', '.join(sorted(versions))}."] if versions else [])


def _bold(rows: Sequence[Row]) -> str:
    """Which values are bold, in words: the tables of a level have the rows that have its metrics."""
    of = {at: [row for row in rows if any(n.rpartition("/")[0] == at for n in row["metrics"])] for at in levels(rows)}
    untrained = [all(row["untrained"] for row in of_level) for of_level in of.values()]
    if all(untrained):
        return "the best untrained value of its column"
    alone = ", the best untrained one in a table without trained rows" if any(untrained) else ""
    return f"the best trained value of its column{alone}"


def levels(rows: Iterable[Row]) -> list[str]:
    found = {name.rpartition("/")[0] for row in rows for name in row["metrics"]}
    return sorted(found, key=lambda level: (*LEVELS, level).index(level))


def _varying(rows: Iterable[Row], benchmark: str) -> list[str]:
    mine = [row for row in rows if row["benchmark"] == benchmark]
    return [key for key in EVALUATED if len({repr(row.get(key)) for row in mine}) > 1]


def _how(row: Row, varying: Sequence[str]) -> str:
    parts = [f"{key} {row.get(key)}" for key in varying if key != "scales"]
    if row["scales"] != [1.0]:
        parts.append("scales " + " ".join(f"{scale:.3g}" for scale in row["scales"]))
    return ", ".join(parts)


def _pooling(model: Model) -> str:
    pooling = f"{model.pooling} ({model.options})" if model.options else model.pooling
    return pooling if model.head == "none" else f"{pooling} + {model.head}"


def _table(title: str, grid: dict[Model, dict[Column, list[float]]], rows: Sequence[Row]) -> Table:
    columns = sorted({column for values in grid.values() for column in values}, key=lambda column: column.order)
    untrained = all(model.untrained for model in grid)
    best = {column: _best(grid, column, untrained) for column in columns}
    named, lines = names(rows), []
    for model, values in grid.items():
        seeds = max(len(of_column) for of_column in values.values())
        first = [model.backbone, named[model], "untrained" if model.untrained else "trained", str(seeds)]
        cells = [Cell(text) for text in first]
        for column in columns:
            text = percent(values[column]) if column in values else "-"
            fewer = f" (n={len(values[column])})" if column in values and len(values[column]) < seeds else ""
            cells.append(Cell(text + fewer, model.untrained == untrained and text.split(" ")[0] == best[column]))
        lines.append([*cells, Cell(_p([row for row in rows if model_of(row) == model]))])
    header = ["backbone", "pooling", "weights", "seeds", *(column.title for column in columns), "p"]
    # p stands once, beside mAP: the tables of mP@k are wide enough.
    return Table(title, header, lines) if "mAP" in title else Table(title, header[:-1], [line[:-1] for line in lines])


def _best(grid: dict[Model, dict[Column, list[float]]], column: Column, untrained: bool) -> str:
    """The highest mean of the (un)trained, as printed, so that values that read alike are all bold; "" without any."""
    means = [mean_and_sd(of[column])[0] for model, of in grid.items() if model.untrained == untrained and column in of]
    return f"{100 * max(known):.1f}" if (known := [mean for mean in means if not math.isnan(mean)]) else ""


def _p(rows: Iterable[Row]) -> str:
    """Mean of p over seeds, with the range over channels where each channel has its own."""
    values = list({row["seed"]: row["p"] for row in rows if row["p"] is not None}.values())
    if not values:
        return "-"
    if isinstance(values[0], dict):
        low, high = min(p["min"] for p in values), max(p["max"] for p in values)
        text = f"{np.mean([p['mean'] for p in values]):.2f} ({low:.2f} to {high:.2f})"
    else:
        text = f"{np.mean(values):.2f}"
    return text.replace("nan", "NaN")


def _distinct(rows: Iterable[Row], key: str) -> str:
    return ", ".join(sorted({str(row.get(key) or "not stated") for row in rows}))
