"""What a chart shows: curves in panels, and the colour that each model has in every chart of a page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.colors import to_hex

COLOURS = ["#2a7fc1", "#d9601a", "#2c9a5b", "#a763c9", "#b58a12", "#d1477a", "#109aa8", "#8c6d5a", "#5b5fd0", "#7c9420",
           "#c93a2e", "#7d8894"]  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One line of a chart. What has the same label has the same colour.

    bands: pairs of a lower and an upper line round it, the widest first.
    said: what pointing at it tells beside the value, of the whole curve or of each of its points.
    y_is: what its values are, where a chart has panels of several measures.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    bands: Sequence[tuple[Sequence[float], Sequence[float]]] = ()
    untrained: bool = False  # drawn dashed, in the colour of the trained line of the same label
    joined: bool = True
    said: str | Sequence[str] = ""
    y_is: str = ""

    @property
    def name(self) -> str:
        return f"{self.label}, untrained" if self.untrained else self.label

    @property
    def dotted(self) -> bool:
        """A lone point has no line to show it, and a few points deserve to be seen as points."""
        return len(self.x) <= 8 or not self.joined


@dataclass(frozen=True)
class Chart:
    """Panels by their titles, with what their axes are; `ticks` where x has few values."""

    panels: Mapping[str, Sequence[Curve]]
    x: str
    y: str = ""
    ticks: Sequence[float] = ()

    def y_of(self, title: str) -> str:
        """What the y axis of a panel shows."""
        return next((curve.y_is for curve in self.panels[title] if curve.y_is), self.y)

    @property
    def measures(self) -> str:
        """What its panels show, in words: "mAP and mAP@R"."""
        *others, last = dict.fromkeys(self.y_of(title).removesuffix(" (%)") for title in self.panels)
        return f"{', '.join(others)} and {last}" if others else last

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(curve.label for curves in self.panels.values() for curve in curves))


def colours(charts: Iterable[Chart]) -> dict[str, str]:
    """A colour for each label of several charts."""
    labels = list(dict.fromkeys(label for chart in charts for label in chart.labels))
    if len(labels) <= len(COLOURS):
        return dict(zip(labels, COLOURS, strict=False))
    # Steps of the golden ratio: neighbours are far apart, however many there are.
    places = [0.08 + 0.84 * (i * 0.618034 % 1) for i in range(len(labels))]
    return {label: to_hex(matplotlib.colormaps["turbo"](at)) for label, at in zip(labels, places, strict=True)}
