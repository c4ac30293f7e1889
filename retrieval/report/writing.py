"""What a report holds, and its files."""

import csv
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.report import charts, exports, notes, page, plots
from retrieval.report.changes import changes
from retrieval.report.cost import cost
from retrieval.report.differences import against, compare
from retrieval.report.lines import Row
from retrieval.report.looked import looked
from retrieval.report.pictures import chart_sections, draw, rankings
from retrieval.report.pivot import Asked, pivot
from retrieval.report.published import published
from retrieval.report.runs import Runs, collect
from retrieval.report.summary import summary
from retrieval.report.table import Table, escaped, slug
from retrieval.report.tables import tables
from retrieval.report.uncertainty import interval_tables

LATEX_HEAD = """% Read by a document:
%   \\documentclass{article}
%   \\usepackage[T1]{fontenc}
%   \\usepackage{booktabs}
%   \\begin{document}
%   \\input{report}
%   \\end{document}
"""


@dataclass(frozen=True)
class Report:
    """What is written of some runs: tables, with the comparisons asked for, and what must be known to read them."""

    found: Runs
    tables: list[Table]
    notes: list[str]
    pair: Sequence[str] = ()

    @property
    def warnings(self) -> list[str]:
        return [*self.found.warnings, *notes.mixed(self.found.rows)]


def report_of(
    found: Runs,
    pair: Sequence[str] = (),
    reference: str | None = None,
    asked: Asked | None = None,
    with_published: bool = False,
) -> Report:
    """pair: labels of two lines to compare; reference: of one that every other is compared with; asked: the keys of a
    table that comes first; with_published: numbers of others stand beside ours.

    Raises ValueError where a label fits no line or several, the lines cannot be compared, or no row has a key.
    """
    rows = found.rows
    by_keys = [pivot(rows, asked)] if asked else []
    parts = [
        ([table for table, _ in by_keys], []),
        (tables(rows), notes.notes(rows)),
        ([], [said for _, of_one in by_keys for said in of_one]),
        interval_tables(rows),
        cost(rows),
        exports.tables(found.exports),
        published(rows) if with_published else ([], []),
    ]
    compared = [compare(rows, *pair)] if pair else []
    compared += [against(rows, reference)] if reference is not None else []
    parts += [([table], said) for table, said in compared]
    said = dict.fromkeys(sentence for _, of_part in parts for sentence in of_part)
    return Report(found, [table for of_part, _ in parts for table in of_part], list(said), pair)


def write(dirs: Sequence[Path], output: Path | None = None) -> Path:
    """Write `report.md`, `.tex`, `.csv`, `.html` and `report_tables/*.csv` into `output` (the first of `dirs`); the
    page's path."""
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
    warned = f"**Warnings**\n\n{_bullets(report.warnings)}\n" if report.warnings else ""
    said = "".join(f"{html.escape(sentence, quote=False)}\n\n" for sentence in summary(report.found))
    _put(output / "report.md", f"# Results\n\n{said}{warned}{markdown(report)}")
    _put(output / "report.tex", latex(report))
    _write_csv(report.found.rows, output / "report.csv")
    _write_tables(report.tables, output / "report_tables")
    path = output / "report.html"
    _put(path, _page(report))
    return path


def _put(file: Path, text: str) -> None:
    # The name of a folder or a photo may be no text, and still be shown.
    file.write_text(text, encoding="utf-8", errors="replace")


def _write_csv(rows: Iterable[Row], file: Path) -> None:
    flat = [_flat(row) for row in rows]
    with file.open("w", newline="", encoding="utf-8", errors="replace") as lines:
        writer = csv.DictWriter(lines, list(dict.fromkeys(name for row in flat for name in row)))
        writer.writeheader()
        writer.writerows(flat)


def _write_tables(tables: Iterable[Table], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for earlier in folder.glob("*.csv"):  # of tables that this report has not
        earlier.unlink()
    for name, table in named(tables).items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8", errors="replace") as lines:
            csv.writer(lines).writerows(table.records())


def named(tables: Iterable[Table]) -> dict[str, Table]:
    """Tables by the names of their files, made of their titles, each once."""
    found: dict[str, Table] = {}
    for table in tables:
        name = slug(table.title)
        taken = sum(other == name or other.rpartition("-")[0] == name for other in found)
        found[f"{name}-{taken + 1}" if name in found else name] = table
    return found


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
    return "\n".join([*parts, _bullets(report.notes)])


def _bullets(sentences: Iterable[str]) -> str:
    return "".join(f"- {html.escape(sentence, quote=False)}\n" for sentence in sentences)


def latex(report: Report) -> str:
    """The tables and notes, to be read by a document; the page's pictures are files of their own (`--charts`)."""
    said = "".join(f"  \\item {escaped(sentence)}\n" for sentence in [*report.notes, *report.warnings])
    parts = [table.latex(name) for name, table in named(report.tables).items()]
    return "\n".join([LATEX_HEAD, *parts, f"\\begin{{itemize}}\n{said}\\end{{itemize}}\n"])


def _page(report: Report) -> str:
    """One table and one chart first: what most people came for; all the others follow."""
    found, warned, shown = report.found, page.bullets(report.warnings), chart_sections(report.found)
    ranked, (first, *others) = rankings(found), report.tables
    sections = [
        ("Warnings", warned and f'<div class="warnings">{warned}</div>'),
        ("Results", first.html() + page.bullets(report.notes[: notes.FIRST])),
        *shown[:1],
        ("More tables", "".join(table.html() for table in others)),
        ("Notes", page.bullets(report.notes[notes.FIRST :])),
        *shown[1:],
        changes(found.rows, report.pair),
        looked(ranked),
        ("Rankings", page.rankings(ranked)),
        ("Configs", "".join(page.folded(str(run.folder), run.config) for run in found.runs if run.config)),
    ]
    title = f"Retrieval results: {', '.join(sorted({row['benchmark'] for row in found.rows}))}"
    return page.render(title, summary(found), sections, plots.script() if shown else "")
