"""Charts that answer when pointed at: Plotly figures, which `page.js` draws.

A panel is a figure of its own, so that panels stand beside each other or beneath as the window is wide. Colours of text
and grid are the page's, by CSS, since only CSS knows whether the page is dark or printed.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from plotly import graph_objects, offline

from retrieval.report.curves import Chart, Curve

MANY = 12  # panels, of which a screen need not show all at once
FONT = {"family": "system-ui, sans-serif", "size": 12}
LABEL = {"font": {**FONT, "color": "#ffffff"}, "bgcolor": "#2b3036", "bordercolor": "#2b3036", "align": "left"}
LAYOUT: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "showlegend": False, "hovermode": "closest",
    "font": FONT, "margin": {"l": 48, "r": 10, "t": 10, "b": 42}, "hoverlabel": {**LABEL, "namelength": -1},
}  # fmt: skip


@cache
def script() -> str:
    """Plotly's own script, to stand in the page once: nothing is fetched."""
    return f"<script>{offline.get_plotlyjs()}</script>"


def panels(chart: Chart, colours: Mapping[str, str]) -> str:
    """HTML of a chart: a legend whose entries show and hide, a choice among several panels, and the panels' figures."""
    legend = "".join(
        f'<button type="button" aria-pressed="true" style="--colour:{colours[label]}">{html.escape(label)}</button>'
        for label in chart.labels
    )
    figures = "".join(_panel(chart, title, colours) for title in chart.panels)
    return f'<div class="live" hidden>{_choice(list(chart.panels))}<div class="legend">{legend}</div>{figures}</div>'


def _choice(titles: Sequence[str]) -> str:
    """Where there are many panels, the first is chosen."""
    if len(titles) < 2:
        return ""
    chosen = titles[0] if len(titles) > MANY else None
    options = "".join(
        f'<option value="{html.escape(title)}"{" selected" * (title == chosen)}>{html.escape(title)}</option>'
        for title in titles
    )
    return f'<label>Panel <select><option value="">all {len(titles)}</option>{options}</select></label>'


def _panel(chart: Chart, title: str, colours: Mapping[str, str]) -> str:
    name = html.escape(title)
    y = chart.y_of(title)
    said = html.escape(f"{title}: {y or title} over {chart.x}" if title else f"{y} over {chart.x}")
    heading = f"<h4>{name}</h4>" if title else ""
    # "<" stands in JSON inside texts alone; as \u003c it cannot end the script.
    drawn = str(figure(chart, title, colours).to_json()).replace("<", "\\u003c")
    plot = f'<div class="plot" role="img" aria-label="{said}"></div><script type="application/json">{drawn}</script>'
    return f'<div class="panel" data-title="{name}">{heading}{plot}</div>'


def figure(chart: Chart, title: str, colours: Mapping[str, str]) -> graph_objects.Figure:
    """One panel: a trace per curve after those of its bands; a trace's `legendgroup` is the curve's label."""
    axis = {"zeroline": False, "automargin": True, "exponentformat": "power", "hoverformat": ".8~g"}
    ticks = {"tickmode": "array", "tickvals": list(chart.ticks)} if chart.ticks else {}
    shown = chart.y_of(title)
    traces = [
        trace
        for curve in chart.panels[title]
        for trace in _traces(curve, (chart.x, shown or "value"), colours[curve.label])
    ]
    x, y = {**axis, **ticks, "title": {"text": chart.x}}, {**axis, "title": {"text": shown}}
    return graph_objects.Figure(traces, {**LAYOUT, "template": "none", "xaxis": x, "yaxis": y})


def _traces(curve: Curve, axes: tuple[str, str], colour: str) -> Iterator[graph_objects.Scatter]:
    """The bands, which do not answer, and the line. axes: what x and y are."""
    group, x, y = {"legendgroup": curve.label, "name": curve.name}, _numbers(curve.x), _numbers(curve.y)
    for low, high in curve.bands:
        outline = {"x": np.r_[x, x[::-1]], "y": np.r_[_numbers(low), _numbers(high)[::-1]], "line": {"width": 0}}
        shape = {"mode": "lines", "fill": "toself", "fillcolor": colour, "opacity": 0.14, "hoverinfo": "skip"}
        yield graph_objects.Scatter(**group, **outline, **shape)
    mode = "+".join(["lines"] * curve.joined + ["markers"] * curve.dotted)
    line = {"color": colour, "width": 2, "dash": "dash" if curve.untrained else "solid"}
    marker = {"color": colour, "size": 6, "symbol": "circle-open" if curve.untrained else "circle"}
    if isinstance(curve.said, str):
        said, text = _plain(curve.said), None
    else:
        said, text = "%{text}", [_plain(point) for point in curve.said]
    values = f"{axes[0]} %{{x}}<br>{axes[1]} <b>%{{y:.4~g}}</b>"
    told = {"text": text, "hovertemplate": f"<b>{_plain(curve.name)}</b><br>{values}<br>{said}<extra></extra>"}
    yield graph_objects.Scatter(**group, x=x, y=y, mode=mode, line=line, marker=marker, **told)


def _plain(text: str) -> str:
    """Plotly reads a few tags in texts, and `%{x}`; these have none, but for the ends of lines."""
    return html.escape(text, quote=False).replace("%{", "%&#123;").replace("\n", "<br>")


def _numbers(values: Sequence[float]) -> np.ndarray:
    """Seven digits, which is more than a screen shows, in a third of the bytes."""
    return np.asarray(values, np.float32)
