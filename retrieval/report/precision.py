"""Precision against recall: what an average precision sums up."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.report.curves import Curve
from retrieval.report.kept import kept
from retrieval.report.lines import Row, by_benchmark
from retrieval.report.panels import backbones
from retrieval.report.tables import columns_of, gather, levels, main_metric, named, names


def precision_panels(rows: Sequence[Row]) -> dict[str, list[Curve]]:
    """Precision over recall, both in percent, at the largest resolution: a panel per benchmark and level, a curve per
    line, its mean over seeds. Lines of which a seed kept no such curve are left out."""
    panels: dict[str, list[Curve]] = defaultdict(list)
    of_model, of_backbone = names(rows), backbones(rows)
    for benchmark, mine in by_benchmark(rows).items():
        for level in levels(mine):
            grid = gather(mine, level, {main_metric(mine)})
            largest = max((column.resolution for column in columns_of(grid)), default=0)
            for line, of in grid.items():
                at = [row for column, seeds in of.items() if column.resolution == largest for row in seeds]
                if len(mean := _mean(at, level)):
                    backbone = of_backbone[line.model.backbone]
                    title = ", ".join(filter(None, (benchmark, level, f"{largest} px", backbone)))
                    label = ", ".join(filter(None, (of_model[line.model], line.descriptor)))
                    recalls = np.linspace(0, 100, len(mean)).tolist()
                    panels[title].append(Curve(label, recalls, mean.tolist(), untrained=line.model.untrained))
    return dict(panels)


def _mean(rows: Sequence[Row], level: str) -> NDArray[np.float64]:
    """(points,) in percent over rows that differ in seed; (0,) where one has none."""
    name = named(level, "precision")
    try:
        curves = np.array([kept(row, [name])[name] for row in rows], dtype=np.float64)
    except ValueError:  # Missing, or of another shape for each seed
        return np.empty(0)
    return 100 * curves.mean(0) if curves.ndim == 2 and not np.isnan(curves).any() else np.empty(0)
