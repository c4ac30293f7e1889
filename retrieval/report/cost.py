"""What each model cost: weights, p, training, memory and the time of describing photos."""

from collections.abc import Sequence
from typing import NamedTuple

from retrieval.report.lines import Line, Row, line_of
from retrieval.report.spread import mean_and_sd
from retrieval.report.table import Cell, Table
from retrieval.report.tables import opening

TITLE = "Cost"
TRAINING = {"training (s)": ("trained_seconds", 1.0, 0), "steps": ("steps", 1.0, 0)}
MEMORY = {"peak memory (GiB)": ("peak_memory", 2.0**30, 2)}
# Seconds, and seconds a photo: what is faster read descriptors that were kept, where a row of an earlier version does
# not say how many photos were described.
START, PER_PHOTO = 0.05, 1e-4
SHARED = (
    "seconds are those of one pass over the photos of the benchmarks named, 'of n' where n poolings shared it; a pass "
    "that went on where another had stopped has its own part alone."
)
PEAK = "peak memory is that of training, of the GPU or, without one, of the process."
FROZEN = (
    "a pass on a frozen backbone may have read the features that an earlier pass kept: its seconds do not compare "
    "poolings."
)


class Photos(NamedTuple):
    """What was described in a pass, and on what."""

    benchmarks: tuple[str, ...]
    resolution: int
    device: str


class Pass(NamedTuple):
    photos: Photos
    seconds: float
    poolings: int
    images: int  # at the least
    described: int | None  # of them, the others' descriptors being there; None where the rows do not say

    @property
    def read(self) -> bool:
        """Whether all its descriptors were there already."""
        return self.seconds < START + PER_PHOTO * self.images if self.described is None else not self.described


def cost(rows: Sequence[Row]) -> tuple[list[Table], list[str]]:
    """The table, a line for each of the others', and its notes; nothing where rows say nothing of it."""
    passes = {line: passes_of([row for row in rows if line_of(row) == line]) for line in map(line_of, rows)}
    made = {line: [one for one in each if not one.read] for line, each in passes.items()}
    timed = sorted({one.photos for each in made.values() for one in each})
    header, words = opening(rows)
    columns = {"parameters (M)": _column(rows, "parameters", 1e6, 2), "p at the end": _p_column(rows)}
    columns |= {title: _column(rows, *how) for title, how in (TRAINING | MEMORY).items()}
    several = len({photos.device for photos in timed}) > 1
    for photos in timed:
        columns[_titled(photos, several)] = {line: _time(each, photos) for line, each in made.items()}
    kept = {title: of for title, of in columns.items() if any(cell.text != "-" for cell in of.values())}
    if not kept:
        return [], []
    lines = [
        [*words[line], *(of[line] for of in kept.values())] for line in sorted(passes, key=lambda line: line.order)
    ]
    left_out = sum(map(len, passes.values())) - sum(map(len, made.values()))
    said = [*_peak(rows), *_notes(bool(timed or left_out), left_out), *_frozen(rows)]
    return [Table(TITLE, [*header, *kept], lines, len(header))], said


def passes_of(rows: Sequence[Row]) -> list[Pass]:
    """The passes over photos behind the rows of a line: the benchmarks of one pass have its time each."""
    found: dict[tuple[str, int, float, int, str], list[Row]] = {}
    for row in rows:
        if isinstance(row.get("seconds"), int | float):
            how = row["folder"], row["resolution"], row["seconds"], row.get("poolings_in_pass") or 1
            found.setdefault((*how, str(row.get("device") or "not stated")), []).append(row)
    return [
        Pass(
            Photos(tuple(sorted({row["benchmark"] for row in of_one})), resolution, device),
            float(seconds),
            poolings,
            max(row.get("images") or 0 for row in of_one),
            of_one[0].get("described"),
        )
        for (_, resolution, seconds, poolings, device), of_one in found.items()
    ]


def _column(rows: Sequence[Row], key: str, unit: float, digits: int) -> dict[Line, Cell]:
    """Mean and spread over runs of what their rows say under a key."""
    by_run: dict[Line, dict[str, float]] = {}
    for row in rows:
        value, of_line = row.get(key), by_run.setdefault(line_of(row), {})
        if isinstance(value, int | float):
            of_line[row["folder"]] = value / unit
    return {line: _mean(list(values.values()), digits) for line, values in by_run.items()}


def _mean(values: Sequence[float], digits: int, note: str = "") -> Cell:
    if not values:
        return Cell("-")
    mean, sd = mean_and_sd(values)
    text = f"{mean:.{digits}f} ± {sd:.{digits}f}" if round(sd, digits) else f"{mean:.{digits}f}"
    return Cell(text + note, numbers={"mean": mean, "sd": sd, "n": len(values)})


def _p_column(rows: Sequence[Row]) -> dict[Line, Cell]:
    """Mean over seeds, with the range over seeds and channels."""
    by_seed: dict[Line, dict[int, tuple[float, float, float]]] = {}
    for row in rows:
        p = row["p"]
        known = p is not None and ((p["mean"], p["min"], p["max"]) if isinstance(p, dict) else (p, p, p))
        by_seed.setdefault(line_of(row), {}).update({row["seed"]: known} if known and None not in known else {})
    return {line: _p(list(of.values())) for line, of in by_seed.items()}


def _p(each: Sequence[tuple[float, float, float]]) -> Cell:
    if not each:
        return Cell("-")
    means, lows, highs = zip(*each, strict=True)
    mean, low, high = mean_and_sd(means)[0], min(lows), max(highs)
    wide = f"{low:.2f}" != f"{high:.2f}"
    return Cell(f"{mean:.2f}" + f" ({low:.2f} to {high:.2f})" * wide, numbers={"mean": mean, "min": low, "max": high})


def _time(passes: Sequence[Pass], photos: Photos) -> Cell:
    """Mean over the passes that as many poolings shared; the fewest come first."""
    mine = [one for one in passes if one.photos == photos]
    cells = [
        _mean([one.seconds for one in mine if one.poolings == n], 1, f" of {n}" if n > 1 else "")
        for n in sorted({one.poolings for one in mine})
    ]
    return cells[0]._replace(text=", ".join(cell.text for cell in cells)) if cells else Cell("-")


def _titled(photos: Photos, several: bool) -> str:
    on = f" on {photos.device}" if several else ""
    return f"{' + '.join(photos.benchmarks)}, {photos.resolution} px (s){on}"


def _notes(timed: bool, left_out: int) -> list[str]:
    read = f" {left_out} passes that read descriptors which were kept are left out." if left_out else ""
    return [f"{TITLE}: {SHARED}{read}"] if timed else []


def _peak(rows: Sequence[Row]) -> list[str]:
    return [f"{TITLE}: {PEAK}"] if any(row.get("peak_memory") is not None for row in rows) else []


def _frozen(rows: Sequence[Row]) -> list[str]:
    rates = [(row.get("training") or {}).get("lr_multipliers") for row in rows]
    frozen = any(isinstance(rate, dict) and rate.get("backbone") == 0 for rate in rates)
    return [f"{TITLE}: {FROZEN}"] if frozen else []
