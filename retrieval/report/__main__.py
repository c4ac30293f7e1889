"""Tables, charts and one page from finished runs: `python -m retrieval.report DIR [DIR ...]`.

A run is a folder that holds `results.json`. Only what runs left behind is read; nothing is evaluated again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval import endings, stages
from retrieval.terminal import printable, printable_lines, say, take_any_text

if TYPE_CHECKING:
    from retrieval.report.writing import Report


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 where what was asked for cannot be done, the reason on standard error."""
    take_any_text()
    options = _parser().parse_args(argv)
    with endings.without_traceback(lambda: "call the same command again; the runs are as they were"):
        return _report(options)


def _report(options: argparse.Namespace) -> int:
    folder = options.output or options.dirs[0]
    try:
        if options.output or folder.is_dir():  # else it is refused as a folder without runs
            endings.refuse_unwritable(folder, "--output")
        stages.begin(f"report on the runs of {', '.join(map(str, options.dirs))}; write {folder}")
        from retrieval.report.pivot import Asked
        from retrieval.report.runs import collect
        from retrieval.report.wandb_run import send
        from retrieval.report.writing import insert, markdown, report_of, write_charts, write_files

        asked = Asked(options.rows, options.columns, options.values)
        pivoted = asked if any(asked) else None
        report = report_of(
            collect(options.dirs), options.compare, options.against, pivoted, with_published=options.published
        )
        if options.insert:
            insert(options.insert, options.marker, markdown(_with_titles(report, options.only)))
        if options.charts:
            write_charts(report.found, options.charts)
        path = write_files(report, folder)
        if options.wandb:
            send(report, path, options.wandb, options.project, options.dirs[0])
    except (OSError, ValueError) as error:
        print(printable_lines(f"error: {error}"), file=sys.stderr)
        return 2
    for sentence in report.warnings:
        print(printable(f"warning: {sentence}"), file=sys.stderr)
    say(printable(path))
    return 0


def _with_titles(report: "Report", texts: Sequence[str] | None) -> "Report":
    """The report with those tables alone whose title holds one of the texts, without notes on columns that the others
    have; ValueError where a text is in none."""
    for text in texts or ():
        if not any(text in table.title for table in report.tables):
            raise ValueError(f"no table's title holds {text!r}; there are: {', '.join(t.title for t in report.tables)}")
    kept = [table for table in report.tables if texts is None or any(text in table.title for text in texts)]
    shown = [table.title.lower() for table in kept]
    of_others = tuple(f"{word}: " for word in ("Cost", "Intervals") if not any(word.lower() in one for one in shown))
    return replace(report, tables=kept, notes=[note for note in report.notes if not note.startswith(of_others)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m retrieval.report", description="Tables and a page from runs.")
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="searched for results.json, at any depth")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: the first DIR)")
    parser.add_argument("--insert", type=Path, metavar="FILE", help="put the tables into this Markdown file too")
    parser.add_argument("--marker", default="results", metavar="NAME", help="between <!-- NAME --> and <!-- /NAME -->")
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", help="of the tables, insert those whose title holds a TEXT"
    )
    keys = "keys of a table of its own: of a row (pooling, level, ...), its training (loss) or config (optimizer.lr)"
    parser.add_argument("--rows", nargs="+", default=(), metavar="KEY", help=keys)
    parser.add_argument(
        "--columns",
        nargs="+",
        default=(),
        metavar="KEY",
        help="likewise; default: as far as not rows, benchmark level resolution",
    )
    parser.add_argument(
        "--values",
        nargs="+",
        default=(),
        metavar="METRIC",
        help="what it shows (default: mAP, or the main metric of each benchmark)",
    )
    pair = "how far line A is better than line B: labels, or parts of them that fit one line"
    parser.add_argument("--compare", nargs=2, default=(), metavar=("A", "B"), help=pair)
    parser.add_argument("--against", metavar="A", help="how far every other line is better than line A")
    parser.add_argument("--published", action="store_true", help="numbers of others on ROxford and RParis beside ours")
    parser.add_argument("--charts", type=Path, metavar="DIR", help="write the charts as SVG and PNG files too")
    sent = "send tables, charts and page to W&B too; offline: for wandb sync"
    parser.add_argument("--wandb", choices=("offline", "online"), help=sent)
    parser.add_argument("--project", default="retrieval", metavar="NAME", help="of W&B (default: retrieval)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
