"""Mean and spread over seeds, as numbers and as text."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from retrieval.report.lines import Row
from retrieval.report.table import Cell


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); the deviation of one value is 0."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def cell(values: Sequence[float], best: bool = False, note: str = "") -> Cell:
    """`percent` of some values, with what it was made of; note: what the text says more."""
    mean, sd = mean_and_sd(values)
    return Cell(percent(values) + note, best, {"mean": 100 * mean, "sd": 100 * sd, "n": len(values)})


def percent(values: Sequence[float]) -> str:
    """`41.2 ± 0.3` for several seeds, `41.2` for one, `NaN` where any value is."""
    mean, sd = mean_and_sd(values)
    if math.isnan(mean):
        return "NaN"
    return f"{100 * mean:.1f} ± {100 * sd:.1f}" if len(values) > 1 else f"{100 * mean:.1f}"


def highest(each: Iterable[Sequence[float]]) -> str:
    """The highest mean, as printed; "" where there is none."""
    means = [mean_and_sd(values)[0] for values in each]
    return f"{100 * max(known):.1f}" if (known := [mean for mean in means if not math.isnan(mean)]) else ""


def rounded(values: Sequence[float]) -> str:
    """The mean, as printed."""
    return percent(values).split(" ")[0]


def fewer(n: int, seeds: int) -> str:
    return f" (n={n})" if n < seeds else ""


def exponent(rows: Iterable[Row]) -> str:
    """Mean of p over seeds, with the range over channels where each channel has its own."""
    values = list({row["seed"]: row["p"] for row in rows if row["p"] is not None}.values())
    if not values:
        return "-"
    if any(isinstance(p, dict) for p in values):
        values = [p if isinstance(p, dict) else {"mean": p, "min": p, "max": p} for p in values]
        low, high = min(p["min"] for p in values), max(p["max"] for p in values)
        text = f"{np.mean([p['mean'] for p in values]):.2f} ({low:.2f} to {high:.2f})"
    else:
        text = f"{np.mean(values):.2f}"
    return text.replace("nan", "NaN")
