"""Tables, charts and one page from finished runs: `python -m retrieval.report DIR [DIR ...]`.

A run is a folder that holds `results.json`. Only what runs left behind is read; nothing is evaluated again.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import charts, page
from retrieval.runs import Model, Row, Runs, collect, model_of
from retrieval.tables import gather, labels, levels, mean_and_sd, names, notes, tables

CHARTS = {
    "resolution": ("mAP against resolution", "mAP over resolution: mean over seeds, band ± sd, untrained dashed"),
    "p": ("p while training", "p of GeM over training steps; per channel: mean, deciles, band from min to max"),
    "training": ("Training curves", "losses and validation mAP over training steps"),
}


def resolution_panels(rows: Sequence[Row]) -> dict[str, list[charts.Curve]]:
    """mAP in percent over resolution, mean ± sd: a panel per benchmark, level and backbone, a line per pooling."""
    panels: dict[str, list[charts.Curve]] = defaultdict(list)
    named = names(rows)
    several = len({row["backbone"] for row in rows}) > 1
    for level in levels(rows):
        for model, values in gather(rows, level, {"mAP"}).items():
            by_panel: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
            for column in sorted(values, key=lambda column: column.order):
                parts = (column.benchmark, level, column.how, model.backbone if several else "")
                title = ", ".join(part for part in parts if part)
                by_panel[title][column.resolution] = mean_and_sd([100 * value for value in values[column]])
            for title, at in by_panel.items():
                means, sds = np.array(list(at.values())).T
                curve = charts.Curve(named[model], list(at), means, means - sds, means + sds, untrained=model.untrained)
                panels[title].append(curve)
    return panels


def draw(found: Runs) -> dict[str, str]:
    """The charts that the runs have data for, as SVG: `p`, `resolution` (two or more needed), `training`."""
    labelled = labels(found.rows)
    models = [(run, next((model_of(row) for row in run.rows if _own(row)), None)) for run in found.runs]
    runs = sorted(((labelled[m], run.rows[0]["seed"], run.history) for run, m in models if m), key=lambda run: run[:2])
    drawn = {}
    if panels := charts.p_panels(runs):
        drawn["p"] = charts.lines(panels, "training step", "p")
    if len(resolutions := sorted({row["resolution"] for row in found.rows})) > 1:
        drawn["resolution"] = charts.lines(resolution_panels(found.rows), "resolution (px)", "mAP (%)", resolutions)
    if panels := charts.training_panels(runs):
        drawn["training"] = charts.lines(panels, "training step", "")
    return drawn


def _own(row: Row) -> bool:
    """Whether what was judged is the model that its run trained."""
    return not (row["untrained"] or row["trained_with"])


def rankings(found: Runs) -> list[list[dict[str, Any]]]:
    """For each query one entry a model, labelled, at the largest resolution and, of that, the lowest seed."""
    labelled = labels(found.rows)
    chosen: dict[tuple[Any, ...], dict[Model, dict[str, Any]]] = defaultdict(dict)
    for run in found.runs:
        models = {(model.settings, model.untrained): model for model in map(model_of, run.rows)}
        for entry in run.rankings:
            query = (entry["benchmark"], entry["query"]["path"], *(entry["query"].get("box") or ()))
            if model := models.get((entry["settings"], entry["untrained"])):
                held = chosen[query].get(model, entry)
                if (entry["resolution"], -entry["seed"]) >= (held["resolution"], -held["seed"]):
                    label = labelled[model] + (", untrained" if model.untrained else "")
                    chosen[query][model] = {**entry, "label": label}
    return [
        [lines[model] for model in sorted(lines, key=lambda model: model.order)]
        for _, lines in sorted(chosen.items())
        if lines
    ]


def write(dirs: Sequence[Path], output: Path | None = None) -> Path:
    """Write `report.md`, `report.csv` and `report.html` into `output` (the first of `dirs`); the page's path."""
    return _write(collect(dirs), output or dirs[0])


def insert(file: Path, marker: str, text: str) -> None:
    """Replace what stands in `file` between `<!-- marker -->` and `<!-- /marker -->`, each there exactly once."""
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    content = file.read_text(encoding="utf-8")
    before, opened, rest = content.partition(opening)
    _, closed, after = rest.partition(closing)
    if not (opened and closed) or content.count(opening) > 1 or content.count(closing) > 1:
        raise ValueError(f"{file} must hold {opening} and, after it, {closing}, each once")
    file.write_text(f"{before}{opening}\n\n{text}\n{closing}{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 where what was asked for cannot be done, the reason on standard error."""
    options = _parser().parse_args(argv)
    try:
        found = collect(options.dirs)
        if options.insert:
            insert(options.insert, options.marker, _markdown(found.rows))
        if options.charts:
            _write_charts(found, options.charts)
        path = _write(found, options.output or options.dirs[0])
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for sentence in (*found.warnings, *_unfinished_said(found)):
        print(f"warning: {sentence}", file=sys.stderr)
    print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m retrieval.report", description="Tables and a page from runs.")
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="searched for results.json, at any depth")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: the first DIR)")
    parser.add_argument("--insert", type=Path, metavar="FILE", help="put the tables into this Markdown file too")
    parser.add_argument("--marker", default="results", metavar="NAME", help="between <!-- NAME --> and <!-- /NAME -->")
    parser.add_argument("--charts", type=Path, metavar="DIR", help="write the charts as SVG and PNG files too")
    return parser


def _write(found: Runs, output: Path) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    said = [f"- {sentence}\n" for sentence in (*found.warnings, *_unfinished_said(found))]
    warned = "\n## Warnings\n\n" + "".join(said) if said else ""
    (output / "report.md").write_text(f"# Results\n\n{_markdown(found.rows)}{warned}", encoding="utf-8")
    _write_csv(found.rows, output / "report.csv")
    path = output / "report.html"
    path.write_text(_page(found), encoding="utf-8")
    return path


def _write_csv(rows: Iterable[Row], file: Path) -> None:
    flat = [_flat(row) for row in rows]
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(dict.fromkeys(name for row in flat for name in row)))
        writer.writeheader()
        writer.writerows(flat)


def _flat(row: Row) -> dict[str, Any]:
    """One level deep: `metrics` by their own names, other mappings as `versions/torch`, lists separated by spaces."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {name if key == "metrics" else f"{key}/{name}": x for name, x in value.items()}
        else:
            flat[key] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _write_charts(found: Runs, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, svg in draw(found).items():
        (output / f"{name}.svg").write_text(svg, encoding="utf-8")
    if queries := rankings(found):
        (output / "ranking.png").write_bytes(charts.ranking(queries[0]))


def _markdown(rows: Sequence[Row]) -> str:
    parts = [table.markdown() for table in tables(rows)]
    return "\n".join([*parts, "".join(f"- {sentence}\n" for sentence in notes(rows))])


def _page(found: Runs) -> str:
    warned = page.bullets((*found.warnings, *_unfinished_said(found)))
    shown = {name: page.chart(svg, CHARTS[name][1]) for name, svg in draw(found).items()}
    sections = [
        ("Warnings", warned and f'<div class="warnings">{warned}</div>'),
        ("Tables", "".join(table.html() for table in tables(found.rows)) + page.bullets(notes(found.rows))),
        *((heading, shown.get(name, "")) for name, (heading, _) in CHARTS.items()),
        ("Rankings", page.rankings(rankings(found))),
        ("Configs", "".join(page.folded(str(run.folder), run.config) for run in found.runs if run.config)),
    ]
    benchmarks = ", ".join(sorted({row["benchmark"] for row in found.rows}))
    return page.render(f"Retrieval results: {benchmarks}", sections)


def _unfinished_said(found: Runs) -> list[str]:
    return [f"{folder} holds a config.yaml but no results: still going or failed" for folder in found.unfinished]


if __name__ == "__main__":
    sys.exit(main())
