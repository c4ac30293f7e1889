"""A table, as Markdown, HTML, LaTeX and plain numbers."""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

LATEX = {
    **{sign: f"\\{sign}" for sign in "{}#$%&_"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"},
    **{"<": "$<$", ">": "$>$", "±": r"$\pm$", "·": r"$\cdot$", "†": r"\textdagger{}"},
}
BREAKS = re.compile(r" (?=\[|\(|P value)")  # where a narrow screen may break what a cell says of a number


class Cell(NamedTuple):
    """numbers: what the text was made of, unrounded, by name. link: the address of those who published what is not
    ours, "" where none is known."""

    text: str
    best: bool = False
    numbers: Mapping[str, float] | None = None
    link: str | None = None


@dataclass(frozen=True)
class Table:
    """The first `names` columns are words, the rest numbers; beside others a line that says "untrained" is paler, and
    one that is not ours is in italics."""

    title: str
    header: list[str]
    lines: list[list[Cell]]
    names: int = 3

    def markdown(self) -> str:
        rule = ["---"] * self.names + ["---:"] * (len(self.header) - self.names)
        body = [[_markdown(cell, theirs) for cell in line] for line, theirs in self._lines()]
        head = [_markdown(Cell(title)) for title in self.header]
        return f"{_markdown(Cell(self.title, best=True))}\n\n" + "".join(
            f"| {' | '.join(line)} |\n" for line in (head, rule, *body)
        )

    def html(self) -> str:
        kinds = [' class="word"'] * self.names + [""] * (len(self.header) - self.names)
        titles = zip(kinds, self.header, strict=True)
        head = "".join(f'<th scope="col"{kind}>{html.escape(title)}</th>' for kind, title in titles)
        pale = [any(cell.text == "untrained" for cell in line) for line in self.lines]
        body = "".join(
            _line([_html(cell, theirs) for cell in line], kinds, faded and not all(pale))
            for (line, theirs), faded in zip(self._lines(), pale, strict=True)
        )
        shown = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        table = f'<table style="--words: {self.names}">{shown}</table>'
        return f"<h3>{html.escape(self.title)}</h3>{scroll(table, self.title)}"

    def latex(self, label: str) -> str:
        """A `table` for a document that uses booktabs; columns whose titles begin alike stand below one heading."""
        body = [[_latex(cell, theirs) for cell in line] for line, theirs in self._lines()]
        rows = "".join(f"    {' & '.join(line)} \\\\\n" for line in body)
        columns = "l" * self.names + "r" * (len(self.header) - self.names)
        return (
            f"\\begin{{table}}\n  \\centering\n  \\caption{{{escaped(self.title)}}}\n  \\label{{tab:{label}}}\n"
            f"  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n{self._head()}    \\midrule\n{rows}"
            "    \\bottomrule\n  \\end{tabular}\n\\end{table}\n"
        )

    def records(self) -> list[list[str | float]]:
        """The lines of a CSV file, the first its header: a column for each number behind a cell, `, 320 px, sd`."""
        each = [list(dict.fromkeys(name for line in self.lines for name in line[i].numbers or ())) for i in self._all()]
        head: list[str | float] = [
            title if name in ("", "mean") else f"{title}, {name}"
            for title, names in zip(self.header, each, strict=True)
            for name in names or [""]
        ]
        return [head, *([x for i in self._all() for x in _plain(line[i], each[i])] for line in self.lines)]

    def _all(self) -> range:
        return range(len(self.header))

    def _lines(self) -> Iterator[tuple[list[Cell], bool]]:
        return ((line, any(cell.link is not None for cell in line)) for line in self.lines)

    def _head(self) -> str:
        """The header in LaTeX: one row, or two where the first part of a title ("oxford, 320 px") is that of several
        columns."""
        titles = [title if i >= self.names else f", {title}" for i, title in enumerate(self.header)]
        above, rules, below = [], "", []
        for part, alike in groupby(titles, key=lambda title: title.partition(", ")[0]):
            of, at = list(alike), len(below) + 1
            if part and len(of) > 1 and all(", " in title for title in of):
                above.append(f"\\multicolumn{{{len(of)}}}{{c}}{{{escaped(part)}}}")
                rules += f" \\cmidrule(lr){{{at}-{at + len(of) - 1}}}"
                below += [title.partition(", ")[2] for title in of]
            else:
                above += [""] * len(of)
                below += [title.removeprefix(", ") for title in of]
        grouped = f"    {' & '.join(above)} \\\\\n   {rules}\n" if rules else ""
        return f"{grouped}    {' & '.join(map(escaped, below))} \\\\\n"


def scroll(content: str, label: str) -> str:
    """A box that scrolls sideways by itself (by keyboard too), so that the page never does."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(label)}">{content}</div>'


def escaped(text: str) -> str:
    """Text as LaTeX shows it, on one line."""
    shown = " ".join(text.split()).translate(str.maketrans(LATEX))
    return f"{{}}{shown}" if shown.startswith(("[", "*")) else shown  # else an argument of the line's end before it


def slug(title: str) -> str:
    """A title as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:80] or "table"


def _line(cells: Sequence[str], kinds: Sequence[str], faded: bool) -> str:
    row = '<tr class="untrained">' if faded else "<tr>"
    return f"{row}{''.join(f'<td{kind}>{cell}</td>' for kind, cell in zip(kinds, cells, strict=True))}</tr>"


def _html(cell: Cell, theirs: bool) -> str:
    text = BREAKS.sub('<span class="break"> </span>', html.escape(cell.text))
    text = f'<a href="{html.escape(cell.link)}">{text}</a>' if cell.link else text
    text = f"<em>{text}</em>" if theirs else text
    return f"<strong>{text}</strong>" if cell.best else text


def _markdown(cell: Cell, theirs: bool = False) -> str:
    text = html.escape(cell.text, quote=False).replace("|", "\\|")
    text = f"[{text}]({cell.link})" if cell.link else text
    text = f"*{text}*" if theirs and text not in ("", "-") else text
    return f"**{text}**" if cell.best else text


def _latex(cell: Cell, theirs: bool) -> str:
    text = escaped(cell.text)
    text = f"\\emph{{{text}}}" if theirs else text
    return f"\\textbf{{{text}}}" if cell.best else text


def _plain(cell: Cell, names: Sequence[str]) -> list[str | float]:
    if not names:
        return [cell.text]
    return [(cell.numbers or {}).get(name, "") for name in names]
