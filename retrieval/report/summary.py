"""What a page says first: which runs, on which benchmarks, and what came out best, as the tables print it."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from retrieval.report.lines import Line, Row, by_benchmark
from retrieval.report.runs import Runs
from retrieval.report.spread import mean_and_sd, percent
from retrieval.report.tables import gather, levels, line_labels, main_metric, titled, values


class Mean(NamedTuple):
    """A cell of a table: its value as printed, whose it is, and the words for both."""

    percent: float
    line: Line
    said: str


def summary(found: Runs) -> list[str]:
    """Sentences: the runs, the benchmarks, and the best model of each benchmark."""
    rows, labels = found.rows, line_labels(found.rows)
    runs = sum(bool(run.rows) for run in found.runs)
    of = {key: joined(sorted({row[key] for row in rows})) for key in ("pooling", "backbone", "benchmark", "resolution")}
    seeds = sorted({row["seed"] for row in rows})
    known = f"seed{'s' * (len(seeds) > 1)} {joined(seeds)}"
    said = [f"{runs} run{'s' * (runs > 1)} of {of['pooling']} on {of['backbone']}, {known}."]
    said.append(f"Judged on {of['benchmark']} at {of['resolution']} px.")
    return said + [f"{name}: {_best(mine, labels)}" for name, mine in by_benchmark(rows).items()]


def joined(words: Sequence[object]) -> str:
    *others, last = map(str, words)
    return f"{', '.join(others)} and {last}" if others else last


def _best(rows: Sequence[Row], labels: Mapping[Line, str]) -> str:
    """The highest mean at a benchmark's first level, and the highest of the other lines; of trained models where there
    are any."""
    trained = [row for row in rows if not row["untrained"]] or list(rows)
    metric, level = main_metric(trained), levels(trained)[0]
    means = [
        Mean(round(100 * mean, 1), line, f"{percent(each)} by {labels[line]} at {column.resolution} px")
        for line, of in gather(trained, level, {metric}).items()
        for column, seeds in of.items()
        if not math.isnan(mean := mean_and_sd(each := values(seeds, level, metric))[0])
    ]
    first = _highest(means)
    second = _highest([mean for mean in means if mean.line not in {best.line for best in first}])
    if not first:
        return f"no {titled(metric, level)} is known."
    after = f"; next is {joined([mean.said for mean in second])}" if second else ""
    return f"the highest {titled(metric, level)} is {joined([mean.said for mean in first])}{after}."


def _highest(means: Sequence[Mean]) -> list[Mean]:
    """All that print alike at the top."""
    return [mean for mean in means if mean.percent == max(other.percent for other in means)]
