"""What a report shows beside its tables: which curves its charts have, and whose rankings it compares."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np

from retrieval.report import charts
from retrieval.report.lines import EVALUATED, Line, Row, by_benchmark, canonical, line_of, model_of
from retrieval.report.runs import Run, Runs
from retrieval.report.spread import mean_and_sd
from retrieval.report.tables import gather, labels, levels, line_labels, metrics, names, values

CHARTS = {
    "resolution": ("mAP against resolution", "mAP over resolution: mean over seeds, band ± sd, untrained dashed"),
    "p": ("p while training", "p of GeM over training steps; per channel: mean, deciles, band from min to max"),
    "training": ("Training curves", "losses and validation mAP over training steps"),
}


def resolution_panels(rows: Sequence[Row]) -> dict[str, list[charts.Curve]]:
    """Average precision in percent over resolution, mean ± sd: a panel per benchmark, level and backbone, a curve per
    line; where lines are too many to tell apart by colour, a panel per descriptor too."""
    panels: dict[str, list[charts.Curve]] = defaultdict(list)
    several, named = len({row["backbone"] for row in rows}) > 1, names(rows)
    lines = {line_of(row) for row in rows}
    crowded = len({(named[line.model], line.descriptor) for line in lines}) > len(charts.COLOURS)
    for benchmark, mine in by_benchmark(rows).items():
        for level, metric in product(levels(mine), [metric for metric in metrics(mine) if "AP" in metric]):
            for line, of in gather(mine, level, {metric}).items():
                backbone, descriptor = line.model.backbone if several else "", line.descriptor
                of_panel = ("" if metric == "mAP" else metric, level, descriptor if crowded else "", backbone)
                label = named[line.model] if crowded or not descriptor else f"{named[line.model]}, {descriptor}"
                at = {column.resolution: mean_and_sd(values(of[column], level, metric)) for column in sorted(of)}
                means, sds = 100 * np.array(list(at.values())).T
                curve = charts.Curve(label, list(at), means, means - sds, means + sds, untrained=line.model.untrained)
                panels[", ".join(filter(None, (benchmark, *of_panel)))].append(curve)
    return panels


def draw(found: Runs) -> dict[str, str]:
    """The charts that the runs have data for, as SVG: `p`, `resolution` (two or more needed), `training`."""
    labelled = labels(found.rows)
    models = [(run, next((model_of(row) for row in run.rows if _own(row)), None)) for run in found.runs]
    curves = [(_label(run, labelled.get(model) if model else None), run) for run, model in models if model or run.state]
    runs = sorted(((label, _seed(run), run.history) for label, run in curves), key=lambda run: run[:2])
    drawn = {}
    if panels := charts.p_panels(runs):
        drawn["p"] = charts.lines(panels, "training step", "p")
    resolutions = sorted({row["resolution"] for row in found.rows})
    if len(resolutions) > 1 and (panels := resolution_panels(found.rows)):
        drawn["resolution"] = charts.lines(panels, "resolution (px)", "mAP (%)", resolutions)
    if panels := charts.training_panels(runs):
        drawn["training"] = charts.lines(panels, "training step", "")
    return drawn


def _label(run: Run, name: str | None) -> str:
    """What a run's curves are called: its model, or its folder where no row says which that is."""
    label = name or run.folder.name
    return f"{label}, unfinished" if run.state else label


def _seed(run: Run) -> int:
    return run.rows[0]["seed"] if run.rows else run.seed


def _own(row: Row) -> bool:
    """Whether what was judged is the model that its run trained."""
    return not (row["untrained"] or row["trained_with"])


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
        [lines[line] for line in sorted(lines, key=lambda line: line.order)]
        for _, lines in sorted(chosen.items())
        if lines
    ]


def _line_of_entry(entry: dict[str, Any], rows: Iterable[Row]) -> Line | None:
    """The line of the rows that agree with an entry of `rankings.json` in all that it says; one without a descriptor
    where they are of several lines."""
    keys = [key for key in ("benchmark", "settings", "untrained", *EVALUATED, "convention") if key in entry]
    fitting = [row for row in rows if all(canonical(row.get(key)) == canonical(entry[key]) for key in keys)]
    lines = dict.fromkeys(map(line_of, fitting))
    return next(iter(lines)) if len(lines) == 1 else Line(model_of(fitting[-1]), "") if fitting else None
