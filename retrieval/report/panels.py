"""The panels of each chart: curves from the rows of results and from what was logged while training."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retrieval.report.curves import Curve
from retrieval.report.lines import Row, by_benchmark, line_of, model_of
from retrieval.report.runs import History, Runs
from retrieval.report.spread import mean_and_sd, percent
from retrieval.report.tables import gather, levels, main_metric, metrics, named, names, values

Panels = dict[str, list[Curve]]

# The columns that are training curves, in their order: benchmarks' are such as roxford5k/medium/mAP@1024.
LOGGED = re.compile(r"(loss)|(^validation.*mAP)|(AP[^/]*@\d+$)|(^lr)|(^train/waiting$)")
FEW = 8  # curves that a panel holds, each trained and not
SPREAD = [("p/min", "p/max"), *((f"p/d{i}", f"p/d{10 - i}") for i in range(1, 5))]  # of p over channels


class Training(NamedTuple):
    """A run, and what charts call the model that it trained; `backbone` is "" where all have the same."""

    label: str
    seed: int
    backbone: str
    folder: str
    history: History

    @property
    def said(self) -> str:
        return f"seed {self.seed}, {self.folder}"

    def curve(self, column: str) -> Curve:
        return Curve(self.label, list(self.history[column]), list(self.history[column].values()), said=self.said)


def trainings(found: Runs) -> list[Training]:
    """The runs that trained a model of their own, by label and seed; those that have not finished are labelled so."""
    of_model, of_backbone = names(found.rows), backbones(found.rows)
    runs = []
    for run in found.runs:
        row = next((row for row in run.rows if not (row["untrained"] or row["trained_with"])), None)
        if row or run.state:
            label = of_model[model_of(row)] if row else run.folder.name
            backbone, seed = (of_backbone[row["backbone"]], row["seed"]) if row else ("", run.seed)
            runs.append(
                Training(
                    f"{label}, unfinished" if run.state else label, seed, backbone, _place(run.folder), run.history
                )
            )
    return sorted(runs, key=lambda run: run[:4])


def backbones(rows: Iterable[Row]) -> dict[str, str]:
    """What a panel's title says of each backbone: nothing where there is one."""
    found = {row["backbone"] for row in rows}
    return {backbone: backbone if len(found) > 1 else "" for backbone in found}


def resolution_panels(rows: Sequence[Row]) -> Panels:
    """Average precision in percent over resolution, mean ± sd: a panel per benchmark, level and backbone, a curve per
    line; where lines are too many to tell apart, a panel per descriptor too."""
    panels: Panels = defaultdict(list)
    of_backbone, of_model, crowded = backbones(rows), names(rows), _crowded(rows)
    for benchmark, mine in by_benchmark(rows).items():
        for level, metric in product(levels(mine), [metric for metric in metrics(mine) if "AP" in metric]):
            of_panel = benchmark, "" if metric == "mAP" else metric, level
            for line, of in gather(mine, level, {metric}).items():
                own, shown = ("", line.descriptor) if crowded else (line.descriptor, "")
                at = {column.resolution: of[column] for column in sorted(of)}
                means, sds = 100 * np.array([mean_and_sd(values(seeds, level, metric)) for seeds in at.values()]).T
                said = [_seeds(seeds, level, metric) for seeds in at.values()]
                label, bands = _title(of_model[line.model], own), [(means - sds, means + sds)]
                curve = Curve(label, list(at), means, bands, line.model.untrained, said=said, y_is=f"{metric} (%)")
                panels[_title(*of_panel, shown, of_backbone[line.model.backbone])].append(curve)
    return panels


def exponent_panels(rows: Sequence[Row]) -> Panels:
    """What benchmarks compare by, in percent, over p, where a model has several p: a panel per benchmark, level,
    resolution and backbone, a curve per model. A trained model has the p that it ended with: points, which no line
    joins; one of them beside one untrained p would show what training did, not p."""
    panels: dict[str, dict[tuple[str, bool], list[Row]]] = defaultdict(lambda: defaultdict(list))
    of_backbone, crowded = backbones(rows), _crowded(rows)
    for benchmark, mine in by_benchmark(rows).items():
        for level, row in product(levels(mine), sorted(mine, key=lambda row: (row["resolution"], line_of(row).order))):
            metric = main_metric(mine)
            value = row["metrics"].get(named(level, metric))
            if value is not None and _p(row) is not None:
                own, shown = ("", row["descriptor"]) if crowded else (row["descriptor"], "")
                title = _title(benchmark, level, f"{row['resolution']} px", shown, of_backbone[row["backbone"]])
                panels[title][_title(_without_p(row), own), row["untrained"]].append(
                    {**row, "value": value, "y_is": f"{metric} (%)"}
                )
    drawn = {title: [_over_p(*which, curves[which]) for which in curves] for title, curves in panels.items()}
    return {title: curves for title, curves in drawn.items() if any(len(set(curve.x)) > 1 for curve in curves)}


def _over_p(label: str, untrained: bool, rows: Sequence[Row]) -> Curve:
    """Runs of the same p and value, as seeds of an untrained model are, share a point."""
    points: dict[tuple[float, float], list[str]] = defaultdict(list)
    for row in rows:
        points[_p(row) or 0.0, 100 * row["value"]].append(f"seed {row['seed']}, {_place(row['folder'])}")
    p, value = zip(*sorted(points), strict=True)
    joined = untrained and len(set(p)) == len(p)
    said = ["\n".join(points[at]) for at in sorted(points)]
    return Curve(label, p, value, (), untrained, joined, said, rows[0]["y_is"])


def _p(row: Row) -> float | None:
    """One per channel counts by its mean."""
    return row["p"].get("mean") if isinstance(row["p"], dict) else row["p"]


def _without_p(row: Row) -> str:
    """The model of a row without the p that it was given, so that a sweep of p is one model."""
    options = ", ".join(option for option in row["options"].split(", ") if not option.startswith("p="))
    row = {**row, "options": options}
    return names([row])[model_of(row)]


def _crowded(rows: Iterable[Row]) -> bool:
    """Whether lines are too many for one panel."""
    return len({(*line.model[1:4], line.descriptor) for line in map(line_of, rows)}) > FEW


def p_panels(runs: Iterable[Training]) -> Panels:
    """GeM's p over training steps, a line per run; runs that logged no p, or one per channel, are left out."""
    panels: Panels = defaultdict(list)
    for run in runs:
        if "p" in run.history:
            panels[run.backbone].append(run.curve("p"))
    return panels


def channel_panels(runs: Iterable[Training]) -> Panels:
    """The distribution of p over channels, a panel per run: its mean, and bands from the least to the greatest and
    from each decile to the one as far from the other end."""
    panels: Panels = defaultdict(list)
    for run in runs:
        if {"p/mean", *SPREAD[0]} <= run.history.keys():
            pairs = [pair for pair in SPREAD if set(pair) <= run.history.keys()]
            of = {name: run.history[name] for name in ("p/mean", *(name for pair in pairs for name in pair))}
            steps = sorted(set.intersection(*map(set, of.values())))
            at = {name: [values[step] for step in steps] for name, values in of.items()}
            bands = [(at[low], at[high]) for low, high in pairs]
            title = _title(run.label, run.backbone, f"seed {run.seed}")
            panels[title].append(Curve(run.label, steps, at["p/mean"], bands, said=run.said))
    return panels


def training_panels(runs: Iterable[Training]) -> Panels:
    """What was logged over training steps: a panel per quantity, a line per run."""
    panels: dict[tuple[int | None, str], list[Curve]] = defaultdict(list)
    for run in runs:
        for column in run.history:
            if found := LOGGED.search(column):
                panels[found.lastindex, _title(column, run.backbone)].append(run.curve(column))
    return {title: panels[place, title] for place, title in sorted(panels)}


def _seeds(rows: Sequence[Row], level: str, metric: str) -> str:
    """The value of each run, and where it lies."""
    return "\n".join(
        f"seed {row['seed']}: {percent(values([row], level, metric))}, {_place(row['folder'])}" for row in rows
    )


def _place(folder: str | Path) -> str:
    """The end of a run's folder: enough to find it, and short enough to point at."""
    return "/".join(Path(folder).parts[-2:])


def _title(*parts: str) -> str:
    return ", ".join(filter(None, parts))
