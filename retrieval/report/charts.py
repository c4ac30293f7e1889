"""Charts of a report: lines over steps or resolutions, and rankings as pictures; matplotlib, without a display.

Text and grid are a grey that stays legible on white and on near-black, so a transparent chart suits both.
"""

import io
import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from retrieval.report.curves import Chart, Curve
from retrieval.report.photos import GREY, MARKS, thumbnail

STYLE: dict[Any, Any] = {
    "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    "grid.color": GREY, "grid.alpha": 0.25, "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 10, "font.size": 9, "svg.hashsalt": "report",
    "text.parse_math": False,  # a name may hold a $
}  # fmt: skip


def lines(chart: Chart, colours: Mapping[str, str]) -> str:
    """SVG of one panel per title, at most three abreast; `colours` by the curves' labels."""
    across = min(3, len(chart.panels))
    down = math.ceil(len(chart.panels) / across)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 3.4 * max(across, 1.7), 0.5 + 2.5 * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes, (title, curves) in zip(grid, chart.panels.items(), strict=False):
            axes.set(title=fill(title, 38), xlabel=chart.x, ylabel=chart.y_of(title))
            if chart.ticks:
                axes.set_xticks(list(chart.ticks))
            for curve in curves:
                _draw(axes, curve, colours[curve.label])
        for axes in grid[len(chart.panels) :]:
            axes.remove()
        _legend(figure)
        return _save(figure, "svg").decode()


def ranking(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """PNG of one query and, a line per entry, the photos that it ranks first.

    `entries` are items of `rankings.json` for the same query, each with the `label` of its model.
    """
    across = 1 + max(len(entry["top"]) for entry in entries)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.25 * across, 0.3 + 1.35 * len(entries)), layout="constrained")
        grid = figure.subplots(len(entries), across, squeeze=False)
        for row, entry in zip(grid, entries, strict=True):
            for axes in row:
                axes.set_axis_off()
            _ranking_line(row, entry, first=entry is entries[0])
        return _few_colours(_save(figure, "png"))


def _draw(axes: Axes, curve: Curve, colour: str) -> None:
    style = "none" if not curve.joined else "--" if curve.untrained else "-"
    marker, inside = "o" if curve.dotted else "", "none" if curve.untrained else colour
    how: dict[str, Any] = {"linestyle": style, "marker": marker, "markerfacecolor": inside, "color": colour}
    name = f" {curve.name}" if curve.name.startswith("_") else curve.name  # matplotlib hides labels that start so
    axes.plot(curve.x, curve.y, label=name, markersize=3.5, linewidth=1.6, **how)
    for low, high in curve.bands:
        axes.fill_between(curve.x, low, high, color=colour, alpha=0.14, linewidth=0)


def _legend(figure: Figure) -> None:
    handles = {str(line.get_label()): line for axes in figure.axes for line in axes.get_legend_handles_labels()[0]}
    width = 0.7 + 0.07 * max(map(len, handles))  # inches that an entry needs
    rows = math.ceil(len(handles) / max(1, figure.get_figwidth() // width))
    columns = math.ceil(len(handles) / rows)
    figure.set_figheight(figure.get_figheight() + 0.19 * rows)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False)


def _ranking_line(row: Sequence[Axes], entry: Mapping[str, Any], first: bool) -> None:
    row[0].set_title(f"{entry['label']}\nAP {100 * entry['ap']:.1f}", fontsize=8, loc="left")
    if first:
        box = entry["query"].get("box")
        _photo(row[0], thumbnail(entry["query"]["path"], tuple(box) if box else None), "query", GREY)
    for axes, item in zip(row[1:], entry["top"], strict=False):
        mark, colour = MARKS[item["mark"]]
        _photo(axes, thumbnail(item["path"]), f"{mark} {item['score']:.2f}", colour)


def _photo(axes: Axes, photo: Image.Image | None, caption: str, colour: str) -> None:
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=2)
    axes.set_xlabel(caption, color=colour, fontsize=8)
    if photo:
        axes.imshow(photo)
    else:
        axes.text(0.5, 0.5, "photo\nmissing", ha="center", va="center", fontsize=7, transform=axes.transAxes)


def _save(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    # No date in the file: the same runs give the same bytes.
    figure.savefig(buffer, format=form, transparent=True, dpi=110, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def _few_colours(png: bytes) -> bytes:
    """The picture in 128 colours, a third of the bytes: it is made for a README."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).quantize(128, Image.Quantize.FASTOCTREE).save(buffer, "png", optimize=True)
    return buffer.getvalue()
