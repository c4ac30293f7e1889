"""How far the jobs of a sweep are: from its plan, and from what each job leaves in its folder."""

import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from retrieval import plan
from retrieval.report.lines import Row
from retrieval.report.tables import levels, main_metric, named

HELD_OUT = "validation/mAP"
CURVE = re.compile(r"(.+?)/(.+)@(\d+)")  # benchmark, metric, resolution: a curve of callbacks=evaluate


class Value(NamedTuple):
    """How a job fares: `76.1` of "folder mAP" at 320 px; resolution: None for landmarks held out of training."""

    name: str
    value: float
    resolution: int | None = None

    @property
    def of(self) -> str:
        """What the number is of, in words."""
        return f"{self.name} at {self.resolution} px" if self.resolution else self.name


@dataclass(frozen=True)
class Status:
    """A job as it stands. phase: "training", "judging", or "" where it says nothing.

    spent: seconds that it has run, left: seconds until its last step; both None where they are not known.
    """

    job: plan.Job
    phase: str = ""
    step: int = 0
    steps: int = 0
    value: Value | None = None
    p: float | None = None
    spent: float | None = None
    left: float | None = None


def statuses(sweep_dir: Path) -> list[Status]:
    """Each job of the sweep; InputError where the folder holds no plan that can be read."""
    return [status(job, sweep_dir / job.folder) for job in plan.read(sweep_dir)]


def status(job: plan.Job, folder: Path) -> Status:
    """What the job's folder says; what cannot be read is left out."""
    spent = None if job.started is None else (job.ended or last_sign(job, folder)) - job.started
    with suppress(LookupError, TypeError, ValueError, AttributeError):
        if job.state == "done":
            return Status(job, spent=spent, **outcome(job, folder / "results.json"))
        if job.state != "waiting":
            return Status(job, spent=spent, **so_far(read(folder / "progress.json") or {}, job.state))
    return Status(job, spent=spent)


def last_sign(job: plan.Job, folder: Path) -> float:
    """Now while it runs, else when a job that was killed last wrote how far it was, in seconds since the epoch."""
    if job.state == "running":
        return time.time()
    with suppress(LookupError, TypeError, ValueError):
        return max(job.started or 0.0, float((read(folder / "progress.json") or {})["time"]))
    return job.started or 0.0


def so_far(progress: dict[str, Any], state: str) -> dict[str, Any]:
    """What `progress.json` says of a job that is not done."""
    values, step, steps = progress.get("values", {}), progress.get("step", 0), progress.get("steps", 0)
    made, phase = step - progress.get("first_step", 0), progress.get("phase", "")
    left = None
    if state == "running" and phase == "training" and made > 0:
        left = (progress["time"] - progress["started"]) / made * (steps - step)
    p = values.get("p", values.get("p/mean"))
    return {"phase": phase, "step": step, "steps": steps, "value": curve(values), "p": p, "left": left}


def curve(values: dict[str, float]) -> Value | None:
    """The first benchmark's main metric at the largest resolution, else the value on held-out landmarks."""
    found = [(*match.groups(), value) for name, value in values.items() if (match := CURVE.fullmatch(name))]
    rows = [{"benchmark": of, "resolution": int(px), "metrics": {name: value}} for of, name, px, value in found]
    return main_value(rows) or (Value("held-out mAP", values[HELD_OUT]) if HELD_OUT in values else None)


def outcome(job: plan.Job, file: Path) -> dict[str, Any]:
    """What the rows of a finished job say: the last one of the trained model, or of the only one that there is."""
    rows = rows_of(file, file.stat().st_mtime_ns) if file.is_file() else []
    rows = [row for row in rows if not row["untrained"]] or rows
    if not rows:
        return {} if job.value is None else {"value": Value("objective", job.value)}
    p = rows[-1].get("p")
    return {"value": main_value(rows), "p": p["mean"] if isinstance(p, dict) else p}


@lru_cache(maxsize=1024)
def rows_of(file: Path, changed: int) -> list[Row]:
    """The rows of a file that was `changed` then: a finished job's are read once."""
    return read(file) or []


def main_value(rows: Sequence[Row]) -> Value | None:
    """What the first benchmark of the rows is compared by, at its largest resolution; the latest where there are
    several."""
    if not rows:
        return None
    benchmark = rows[0]["benchmark"]
    resolution = max(row["resolution"] for row in rows if row["benchmark"] == benchmark)
    mine = [row for row in rows if (row["benchmark"], row["resolution"]) == (benchmark, resolution)]
    known = {name: value for row in mine for name, value in row["metrics"].items()}
    name = next(name for level in levels(mine) if (name := named(level, main_metric(mine))) in known)
    return None if known[name] is None else Value(f"{benchmark} {name}", known[name], resolution)


def read(file: Path) -> Any:
    """The content of a JSON file; None where it is absent or broken."""
    with suppress(OSError, ValueError):
        return json.loads(file.read_text(encoding="utf-8"))
    return None


def left(jobs: Sequence[Status]) -> float | None:
    """Seconds until the last job ends: those that a job takes, times the jobs left, by as many as run at once.

    A job takes what the finished ones took in the mean, or before the first is done what those that run may take.
    """
    running = [one for one in jobs if one.job.state == "running"]
    took = [one.spent for one in jobs if one.job.state == "done" and one.spent is not None]
    took = took or [one.spent + one.left for one in running if one.spent is not None and one.left is not None]
    if not took:
        return None
    waiting = sum(one.job.state == "waiting" for one in jobs)
    begun = [max(mean(took) - (one.spent or 0), one.left or 0) for one in running]
    return (waiting * mean(took) + sum(begun)) / max(1, len(running))


def over(jobs: Sequence[Status]) -> bool:
    """Whether no job runs or waits."""
    return not any(one.job.state in ("running", "waiting") for one in jobs)
