"""What a report shows beside its tables: which charts it has, and whose rankings it compares."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from retrieval.report import charts, page, plots
from retrieval.report.curves import Chart, colours
from retrieval.report.lines import EVALUATED, Line, Row, canonical, line_of, model_of
from retrieval.report.panels import (
    channel_panels,
    exponent_panels,
    p_panels,
    resolution_panels,
    training_panels,
    trainings,
)
from retrieval.report.precision import precision_panels
from retrieval.report.runs import Runs
from retrieval.report.tables import labels, line_labels

CHARTS = {
    "resolution": ("{y} against resolution", "Mean over seeds, with a band of one standard deviation each way; "
                   "untrained models are dashed."),
    "exponent": ("{y} against p", "By the p of GeM: untrained models are hollow and joined by a dashed line, "
                 "trained ones stand at the p that they ended with. Where each channel has its own p, their mean "
                 "counts."),
    "precision": ("Precision and recall", "Interpolated precision (the highest at that recall or a "
                  "larger one) at recall 0, 0.01 .. 1: mean over queries, then over seeds; junk is taken out first. "
                  "Runs evaluated before it was stored have no line."),
    "p": ("p while training", "The p of GeM over training steps, a line per run."),
    "channels": ("p of each channel", "The p of GeM over channels and training steps: their mean, and bands from the "
                 "least to the greatest and between deciles."),
    "training": ("Training curves", "A line per run. Nothing is smoothed."),
}  # fmt: skip


def charts_of(found: Runs) -> dict[str, Chart]:
    """The charts that the runs have data for; that over resolutions needs two or more."""
    rows, runs = found.rows, trainings(found)
    resolutions = sorted({row["resolution"] for row in rows})
    over_resolution = resolution_panels(rows) if len(resolutions) > 1 else {}
    built = {
        "resolution": Chart(over_resolution, "resolution (px)", ticks=resolutions),
        "exponent": Chart(exponent_panels(rows), "p"),
        "precision": Chart(precision_panels(rows), "recall (%)", "precision (%)"),
        "p": Chart(p_panels(runs), "training step", "p"),
        "channels": Chart(channel_panels(runs), "training step", "p"),
        "training": Chart(training_panels(runs), "training step"),
    }
    return {name: chart for name, chart in built.items() if chart.panels}


def draw(found: Runs) -> dict[str, str]:
    """Each chart as SVG, by its name in CHARTS."""
    drawn = charts_of(found)
    colour = colours(drawn.values())
    return {name: charts.lines(chart, colour) for name, chart in drawn.items()}


def chart_sections(found: Runs) -> list[tuple[str, str]]:
    """Each chart as a section of the page: its heading names what its panels show."""
    drawn = charts_of(found)
    colour = colours(drawn.values())
    return [
        (
            heading.format(y=drawn[name].measures),
            page.chart(charts.lines(drawn[name], colour), said, plots.panels(drawn[name], colour)),
        )
        for name, (heading, said) in CHARTS.items()
        if name in drawn
    ]


def rankings(found: Runs) -> list[list[dict[str, Any]]]:
    """For each query one entry a line, labelled, at the largest resolution and, of that, the lowest seed."""
    labelled, of_model = line_labels(found.rows), labels(found.rows)
    chosen: dict[tuple[Any, ...], dict[Line, dict[str, Any]]] = defaultdict(dict)
    for run in found.runs:
        for entry in run.rankings:
            query = (entry["benchmark"], entry["query"]["path"], *(entry["query"].get("box") or ()))
            if line := _line_of_entry(entry, run.rows):
                held = chosen[query].get(line, entry)
                if (entry["resolution"], -entry["seed"]) >= (held["resolution"], -held["seed"]):
                    label = labelled.get(line) or of_model[line.model] + ", untrained" * line.model.untrained
                    chosen[query][line] = {**entry, "label": label}
    return [
        _told_apart([lines[line] for line in sorted(lines, key=lambda line: line.order)])
        for _, lines in sorted(chosen.items())
        if lines
    ]


def _told_apart(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A page says the resolution and seed of the first; labels of entries that have others say theirs."""
    first, *others = [f"{entry['resolution']} px, seed {entry['seed']}" for entry in entries]
    suffixes = ["", *(f", {other}" * (other != first) for other in others)]
    return [{**entry, "label": entry["label"] + suffix} for entry, suffix in zip(entries, suffixes, strict=True)]


def _line_of_entry(entry: dict[str, Any], rows: Iterable[Row]) -> Line | None:
    """The line of the rows that agree with an entry of `rankings.json` in all that it says; one without a descriptor
    where they are of several lines."""
    keys = [key for key in ("benchmark", "settings", "untrained", *EVALUATED, "convention") if key in entry]
    fitting = [row for row in rows if all(canonical(row.get(key)) == canonical(entry[key]) for key in keys)]
    lines = dict.fromkeys(map(line_of, fitting))
    return next(iter(lines)) if len(lines) == 1 else Line(model_of(fitting[-1]), "") if fitting else None
