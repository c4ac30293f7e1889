"""What a page says first: which runs, on which benchmarks, and what came out best, as the tables print it."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from retrieval import statistics
from retrieval.report.differences import p_value
from retrieval.report.lines import Line, Row, by_benchmark, judged_on
from retrieval.report.runs import Runs
from retrieval.report.spread import mean_and_sd, percent
from retrieval.report.tables import gather, levels, line_labels, main_metric, titled, values
from retrieval.report.uncertainty import Missing, aligned, per_query

ALPHA = 0.05  # two lines whose difference has no smaller P value are not told apart


class Mean(NamedTuple):
    """A cell of a table: its value, whose it is, its rows, and the words for all."""

    value: float
    line: Line
    rows: Sequence[Row]
    said: str

    @property
    def percent(self) -> float:
        """As printed."""
        return round(100 * self.value, 1)


def summary(found: Runs) -> list[str]:
    """Sentences: the runs, the benchmarks, and the best model of each benchmark."""
    rows, labels = found.rows, line_labels(found.rows)
    runs = sum(bool(run.rows) for run in found.runs)
    of = {key: joined(sorted({row[key] for row in rows})) for key in ("pooling", "backbone", "benchmark", "resolution")}
    seeds = sorted({row["seed"] for row in rows})
    known = f"seed{'s' * (len(seeds) > 1)} {joined(seeds)}"
    said = [f"{runs} run{'s' * (runs > 1)} of {of['pooling']} on {of['backbone']}, {known}."]
    said.append(f"Evaluated on {of['benchmark']} at {of['resolution']} px.")
    return said + [f"{name}: {_best(mine, labels)}" for name, mine in by_benchmark(rows).items()]


def joined(words: Sequence[object]) -> str:
    *others, last = map(str, words)
    return f"{', '.join(others)} and {last}" if others else last


def _best(rows: Sequence[Row], labels: Mapping[Line, str]) -> str:
    """The highest mean at a benchmark's first level, and the highest of the other lines, if a test tells them apart."""
    metric, level = main_metric(rows), levels(rows)[0]
    means = [
        Mean(mean, line, seeds, _said(percent(each), labels[line], column.resolution))
        for line, of in gather(rows, level, {metric}).items()
        for column, seeds in of.items()
        if not math.isnan(mean := mean_and_sd(each := values(seeds, level, metric))[0])
    ]
    first = _highest(means)
    second = _highest([mean for mean in means if mean.line not in {best.line for best in first}])
    name = titled(metric, level)
    if not first:
        return f"no {name} is known."
    leading, following = (joined([mean.said for mean in some]) if some else "" for some in (first, second))
    if not second:
        return f"the highest {name} is {leading}."
    ranked, known = _told_apart(first[0], second[0], level, metric)
    if ranked:
        return f"the highest {name} is {leading}; next is {following} ({known})."
    return f"the highest values of {name} are {known}: {leading}, {following}."


def _said(value: str, label: str, resolution: int) -> str:
    return f"{value} by {label}{',' * (',' in label)} at {resolution} px"


def _told_apart(a: Mean, b: Mean, level: str, metric: str) -> tuple[bool, str]:
    """Whether two means may be ranked, and what is known of their difference, in words."""
    if judged_on(a.rows[0]) != judged_on(b.rows[0]):
        return False, "of different photos or protocols, so they do not compare"
    try:
        ours = per_query(a.rows, level, metric)
        theirs = aligned(per_query(b.rows, level, metric), ours)
        of = statistics.difference(ours.values, theirs.values, ours.landmarks)
    except Missing:
        return True, "not tested: values per query are missing"
    except ValueError as error:
        return True, f"not tested: {error}"
    least = 2 / 2**of.landmarks  # the P value of a difference of one sign in every landmark
    few = f", and {of.landmarks} landmark{'s' * (of.landmarks > 1)} can give none below {least:.3g}" * (least >= ALPHA)
    single = ", one seed each" * (len(a.rows) == len(b.rows) == 1)
    words = f"P value {p_value(of.p_value)}{few}{single}"
    return of.p_value < ALPHA, words if of.p_value < ALPHA else f"not told apart ({words})"


def _highest(means: Sequence[Mean]) -> list[Mean]:
    """All that print alike at the top, the highest first."""
    top = [mean for mean in means if mean.percent == max(other.percent for other in means)]
    return sorted(top, key=lambda mean: -mean.value)
