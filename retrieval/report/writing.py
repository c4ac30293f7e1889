"""What a report holds, and its files."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.report import charts, page, plots
from retrieval.report.differences import against, compare
from retrieval.report.lines import Row
from retrieval.report.notes import notes
from retrieval.report.pictures import chart_sections, draw, rankings
from retrieval.report.runs import Runs, collect
from retrieval.report.summary import summary
from retrieval.report.table import Table
from retrieval.report.tables import tables
from retrieval.report.uncertainty import interval_tables


@dataclass(frozen=True)
class Report:
    """What is written of some runs: tables, with the comparisons asked for, and what must be known to read them."""

    found: Runs
    tables: list[Table]
    notes: list[str]

    @property
    def warnings(self) -> list[str]:
        unfinished = (f"{folder} holds a config.yaml but no results" for folder in self.found.unfinished)
        return [*self.found.warnings, *(f"{which}: still going or failed" for which in unfinished)]


def report_of(found: Runs, pair: Sequence[str] = (), reference: str | None = None) -> Report:
    """pair: labels of two lines to compare; reference: of one that every other is compared with.

    Raises ValueError where a label fits no line or several, or the lines cannot be compared.
    """
    rows = found.rows
    intervals, of_intervals = interval_tables(rows)
    compared = [compare(rows, *pair)] if pair else []
    compared += [against(rows, reference)] if reference is not None else []
    differences, of_differences = [table for table, _ in compared], [said for _, of_one in compared for said in of_one]
    said = dict.fromkeys([*notes(rows), *of_intervals, *of_differences])
    return Report(found, [*tables(rows), *intervals, *differences], list(said))


def write(dirs: Sequence[Path], output: Path | None = None) -> Path:
    """Write `report.md`, `report.csv` and `report.html` into `output` (the first of `dirs`); the page's path."""
    return write_files(report_of(collect(dirs)), output or dirs[0])


def insert(file: Path, marker: str, text: str) -> None:
    """Replace what stands in `file` between `<!-- marker -->` and `<!-- /marker -->`, each there exactly once."""
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    content = file.read_text(encoding="utf-8")
    before, opened, rest = content.partition(opening)
    _, closed, after = rest.partition(closing)
    if not (opened and closed) or content.count(opening) > 1 or content.count(closing) > 1:
        raise ValueError(f"{file} must hold {opening} and, after it, {closing}, each once")
    file.write_text(f"{before}{opening}\n\n{text}\n{closing}{after}", encoding="utf-8")


def write_files(report: Report, output: Path) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    warned = "\n## Warnings\n\n" + "".join(f"- {sentence}\n" for sentence in report.warnings) if report.warnings else ""
    (output / "report.md").write_text(f"# Results\n\n{markdown(report)}{warned}", encoding="utf-8")
    _write_csv(report.found.rows, output / "report.csv")
    path = output / "report.html"
    path.write_text(_page(report), encoding="utf-8")
    return path


def _write_csv(rows: Iterable[Row], file: Path) -> None:
    flat = [_flat(row) for row in rows]
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(dict.fromkeys(name for row in flat for name in row)))
        writer.writeheader()
        writer.writerows(flat)


def _flat(row: Row) -> dict[str, Any]:
    """One level deep: `metrics` by their own names, other mappings as `versions/torch`, intervals as
    `intervals/mAP/low` and `/high`, other lists separated by spaces."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "intervals":
            for name, bounds in (value or {}).items():
                low, high = bounds or (None, None)
                flat |= {f"{key}/{name}/low": low, f"{key}/{name}/high": high}
        elif isinstance(value, dict):
            flat |= {name if key == "metrics" else f"{key}/{name}": _text(x) for name, x in value.items()}
        else:
            flat[key] = _text(value)
    return flat


def _text(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def write_charts(found: Runs, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, svg in draw(found).items():
        (output / f"{name}.svg").write_text(svg, encoding="utf-8")
    if queries := rankings(found):
        (output / "ranking.png").write_bytes(charts.ranking(queries[0]))


def markdown(report: Report) -> str:
    parts = [table.markdown() for table in report.tables]
    return "\n".join([*parts, "".join(f"- {sentence}\n" for sentence in report.notes)])


def _page(report: Report) -> str:
    found, warned, shown = report.found, page.bullets(report.warnings), chart_sections(report.found)
    sections = [
        ("Warnings", warned and f'<div class="warnings">{warned}</div>'),
        ("Tables", "".join(table.html() for table in report.tables) + page.bullets(report.notes)),
        *shown,
        ("Rankings", page.rankings(rankings(found))),
        ("Configs", "".join(page.folded(str(run.folder), run.config) for run in found.runs if run.config)),
    ]
    title = f"Retrieval results: {', '.join(sorted({row['benchmark'] for row in found.rows}))}"
    return page.render(title, summary(found), sections, plots.script() if shown else "")
