"""How far runs and sweeps are that are not finished, by what lies in their folders.

A sweep writes `sweep.json`, a job that runs holds a lock on its `job.lock` and writes `progress.json`.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from retrieval.plan import LOCK, PLAN
from retrieval.report.checks import number
from retrieval.report.reading import Unreadable, cleaned, content, find

PROGRESS = "progress.json"
STATES = ("done", "failed", "stopped", "killed", "running", "waiting")


def sweeps(dirs: Sequence[Path], warnings: list[str]) -> dict[Path, str]:
    """How each job of the sweeps under `dirs` stands that ran and is not done, by its folder.

    warnings: gets a sentence for each sweep that is not done, and for a plan that cannot be read.
    """
    plans = {real(file): file for folder in dirs for file in find(folder, PLAN)}
    found: dict[Path, str] = {}
    for file in sorted(plans.values()):
        try:
            jobs = _jobs(file)
        except Unreadable as error:
            warnings.append(str(error))
            continue
        seen = [_seen(job, file.parent) for job in jobs]
        for job, state in zip(jobs, seen, strict=True):
            folder = file.parent / job["folder"]
            if state not in ("done", "waiting"):
                found[folder] = _words(state, folder, job.get("error"))
        if not set(seen) <= {"done"}:
            warnings.append(_summary(file.parent, Counter(seen)))
    return found


def run(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """How a run stands that has not all of its results, and how it goes on."""
    auto = " resume=auto" if "trainer" in config else ""
    go_on = f"; to go on, call it again with output_dir={folder}{auto}"
    if not (folder / LOCK).is_file():
        return f"{_words('unfinished', folder)}{_last_seen(folder)}", go_on
    return (_words("running", folder), "") if _held(folder / LOCK) else (_words("killed", folder), go_on)


def wanted(config: Mapping[str, Any]) -> int:
    """How many results a config asks for; 0 where it does not say."""
    benchmarks = [one for one in _object(config.get("benchmark")).values() if isinstance(one, dict)]
    resolutions = _object(config.get("extract")).get("resolutions")
    poolings = _object(config.get("evaluate")).get("poolings")
    each = len(resolutions) if isinstance(resolutions, list) else 0
    models = len(poolings) if isinstance(poolings, list) else 1
    return len(benchmarks) * each * models * (1 + (config.get("evaluate_untrained") is True))


def real(path: Path) -> Path:
    """The path without links; one that goes round in circles is itself."""
    return Path(os.path.realpath(path))


def _jobs(file: Path) -> list[dict[str, Any]]:
    """The jobs of a plan, each with a folder below the sweep's and a state."""
    plan = content(file)
    listed = plan.get("jobs") if isinstance(plan, dict) else None
    if not isinstance(listed, list):
        raise Unreadable(f"{file} is left out: it must list jobs")
    for job in listed:
        known = isinstance(job, dict) and isinstance(job.get("folder"), str) and job.get("state") in STATES
        if not (known and _below(file.parent / cleaned(job["folder"]), file.parent)):
            raise Unreadable(
                f"{file} is left out: a job must have a folder below it and a state of {', '.join(STATES)}"
            )
    return [{**job, "folder": cleaned(job["folder"])} for job in listed]


def _below(folder: Path, above: Path) -> bool:
    return real(above) in real(folder).parents


def _seen(job: Mapping[str, Any], sweep: Path) -> str:
    """A job that is down as running but holds no lock was killed."""
    killed = job["state"] == "running" and not _held(sweep / job["folder"] / LOCK)
    return "killed" if killed else job["state"]


def _held(file: Path) -> bool:
    """Whether a process holds the lock; the system frees it when that process ends in whatever way."""
    if not file.is_file():
        return False
    try:
        with FileLock(file).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that may only be read
        return False


def _words(state: str, folder: Path, error: Any = None) -> str:
    """`killed at step 120 of 384`."""
    if state == "failed":
        return f"failed: {cleaned(error) if isinstance(error, str) else 'no reason given'}"
    step, steps, judging = _progress(folder)
    at = "judging" if judging else f"step {step} of {steps}" if step else ""
    if state == "running":
        return f"still going: {at}" if at else "still going"
    return f"{state} {'while' if judging else 'at'} {at}" if at else state


def _progress(folder: Path) -> tuple[str, str, bool]:
    """The step, how many there are, and whether training is over; texts are empty where nothing says so."""
    said = _said(folder)
    step, steps = (f"{said[key]:g}" if number(said.get(key)) else "" for key in ("step", "steps"))
    return (step, steps, said.get("phase") == "judging") if step and steps else ("", "", False)


def _last_seen(folder: Path) -> str:
    try:
        last = datetime.fromtimestamp(_said(folder)["time"], UTC)
    except (LookupError, TypeError, ValueError, OverflowError, OSError):
        return ""
    return f", last heard of on {last:%Y-%m-%d at %H:%M} UTC"


def _said(folder: Path) -> dict[str, Any]:
    try:
        return _object(content(folder / PROGRESS))
    except Unreadable:
        return {}


def _summary(sweep: Path, seen: Mapping[str, int]) -> str:
    counts = ", ".join(f"{seen[state]} {state}" for state in STATES if seen[state] or state == "done")
    over = seen["done"] + seen["running"] == sum(seen.values())
    return f"{sweep}: of {sum(seen.values())} jobs {counts}" + ("" if over else "; call the same sweep again to go on")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
