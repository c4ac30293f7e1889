"""Tables, charts and one page from finished runs: `python -m retrieval.report DIR [DIR ...]`.

A run is a folder that holds `results.json`. Only what runs left behind is read; nothing is evaluated again.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retrieval import charts, page
from retrieval.differences import against, compare
from retrieval.lines import Row
from retrieval.notes import notes
from retrieval.page import Table
from retrieval.pictures import CHARTS, draw, rankings
from retrieval.runs import Runs, collect
from retrieval.tables import tables
from retrieval.uncertainty import interval_tables


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
    return _write(report_of(collect(dirs)), output or dirs[0])


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
        report = report_of(collect(options.dirs), options.compare, options.against)
        if options.insert:
            insert(options.insert, options.marker, _markdown(_with_titles(report, options.only)))
        if options.charts:
            _write_charts(report.found, options.charts)
        path = _write(report, options.output or options.dirs[0])
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for sentence in report.warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    print(path)
    return 0


def _with_titles(report: Report, texts: Sequence[str] | None) -> Report:
    """The report with those tables alone whose title holds one of the texts; ValueError where a text is in none."""
    for text in texts or ():
        if not any(text in table.title for table in report.tables):
            raise ValueError(f"no table's title holds {text!r}; there are: {', '.join(t.title for t in report.tables)}")
    kept = [table for table in report.tables if texts is None or any(text in table.title for text in texts)]
    return replace(report, tables=kept)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m retrieval.report", description="Tables and a page from runs.")
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="searched for results.json, at any depth")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: the first DIR)")
    parser.add_argument("--insert", type=Path, metavar="FILE", help="put the tables into this Markdown file too")
    parser.add_argument("--marker", default="results", metavar="NAME", help="between <!-- NAME --> and <!-- /NAME -->")
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", help="of the tables, insert those whose title holds a TEXT"
    )
    pair = "how far line A is better than line B: labels, or parts of them that fit one line"
    parser.add_argument("--compare", nargs=2, default=(), metavar=("A", "B"), help=pair)
    parser.add_argument("--against", metavar="A", help="how far every other line is better than line A")
    parser.add_argument("--charts", type=Path, metavar="DIR", help="write the charts as SVG and PNG files too")
    return parser


def _write(report: Report, output: Path) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    warned = "\n## Warnings\n\n" + "".join(f"- {sentence}\n" for sentence in report.warnings) if report.warnings else ""
    (output / "report.md").write_text(f"# Results\n\n{_markdown(report)}{warned}", encoding="utf-8")
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


def _write_charts(found: Runs, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, svg in draw(found).items():
        (output / f"{name}.svg").write_text(svg, encoding="utf-8")
    if queries := rankings(found):
        (output / "ranking.png").write_bytes(charts.ranking(queries[0]))


def _markdown(report: Report) -> str:
    parts = [table.markdown() for table in report.tables]
    return "\n".join([*parts, "".join(f"- {sentence}\n" for sentence in report.notes)])


def _page(report: Report) -> str:
    found, warned = report.found, page.bullets(report.warnings)
    shown = {name: page.chart(svg, CHARTS[name][1]) for name, svg in draw(found).items()}
    sections = [
        ("Warnings", warned and f'<div class="warnings">{warned}</div>'),
        ("Tables", "".join(table.html() for table in report.tables) + page.bullets(report.notes)),
        *((heading, shown.get(name, "")) for name, (heading, _) in CHARTS.items()),
        ("Rankings", page.rankings(rankings(found))),
        ("Configs", "".join(page.folded(str(run.folder), run.config) for run in found.runs if run.config)),
    ]
    benchmarks = ", ".join(sorted({row["benchmark"] for row in found.rows}))
    return page.render(f"Retrieval results: {benchmarks}", sections)


if __name__ == "__main__":
    sys.exit(main())
