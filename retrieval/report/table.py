"""A table, as Markdown and as HTML."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Cell(NamedTuple):
    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """The first `names` columns are words, the rest numbers; beside others a line that says "untrained" is paler."""

    title: str
    header: list[str]
    lines: list[list[Cell]]
    names: int = 3

    def markdown(self) -> str:
        rule = ["---"] * self.names + ["---:"] * (len(self.header) - self.names)
        body = [[_markdown(cell) for cell in line] for line in self.lines]
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
            _line(line, kinds, faded and not all(pale)) for line, faded in zip(self.lines, pale, strict=True)
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<h3>{html.escape(self.title)}</h3>{scroll(table, self.title)}"


def scroll(content: str, label: str) -> str:
    """A box that scrolls sideways by itself (by keyboard too), so that the page never does."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(label)}">{content}</div>'


def _line(line: Sequence[Cell], kinds: Sequence[str], faded: bool) -> str:
    row = '<tr class="untrained">' if faded else "<tr>"
    return f"{row}{''.join(f'<td{kind}>{_html(cell)}</td>' for kind, cell in zip(kinds, line, strict=True))}</tr>"


def _html(cell: Cell) -> str:
    text = html.escape(cell.text)
    return f"<strong>{text}</strong>" if cell.best else text


def _markdown(cell: Cell) -> str:
    text = html.escape(cell.text, quote=False).replace("|", "\\|")
    return f"**{text}**" if cell.best else text
