"""What the overview of a sweep says in words: its first line, what has become of a job, and the cells of its table."""

from collections import Counter
from collections.abc import Mapping, Sequence

from retrieval.sweep.status import Status, Value, left, over
from retrieval.terminal import printable

STATES = ("running", "failed", "killed", "stopped", "done", "waiting")


def headline(jobs: Sequence[Status]) -> str:
    """`7 of 12 done, 2 running, 3 waiting; about 16 min left`."""
    others = [one for one in jobs if one.job.state != "done"]
    idle = "" if over(jobs) or any(one.job.state == "running" for one in jobs) else "none runs now"
    said = f"{len(jobs) - len(others)} of {len(jobs)} done", counted(others), idle
    return ", ".join(filter(None, said)) + remaining(jobs)


def standing(jobs: Sequence[Status]) -> str:
    """The headline, and at which step the jobs that run are."""
    steps = [f"{one.job.name} at step {one.step} of {one.steps}" for one in jobs if one.phase and one.steps]
    return "; ".join([headline(jobs), *steps])


def counted(jobs: Sequence[Status]) -> str:
    """`2 running, 3 waiting`."""
    of = Counter(one.job.state for one in jobs)
    return ", ".join(f"{of[state]} {state}" for state in STATES if of[state])


def remaining(jobs: Sequence[Status]) -> str:
    """`; about 16 min left`, where that is known."""
    seconds = left(jobs)
    return "" if over(jobs) or seconds is None else f"; about {lasting(seconds, rough=True)} left"


def changed(before: Mapping[str, str], jobs: Sequence[Status]) -> list[str]:
    """A sentence for each job whose state is another than in `before`, states by folder."""
    new = [one for one in jobs if before.get(one.job.folder, "waiting") != one.job.state]
    done = sum(one.job.state == "done" for one in jobs)
    new.sort(key=lambda one: one.job.ended or one.job.started or 0)
    return [f"{done}/{len(jobs)} done: {one.job.name}: {news(one)}{remaining(jobs)}" for one in new]


def news(one: Status) -> str:
    """`folder mAP 76.1 at 320 px (1 min 50 s)`, `begun`, `failed (2 s): the error`, `killed at step 3 of 9 (5 s)`."""
    took = "" if one.spent is None else f" ({lasting(one.spent)})"
    if one.job.state in ("running", "waiting"):
        return "begun" if one.job.state == "running" else "waits"
    if one.job.state == "done":
        return (percent(one.value) if one.value else "done") + took
    at = f" at step {one.step} of {one.steps}" if one.steps else ""
    return f"{one.job.state}{at}{took}" + (f": {one.job.error}" if one.job.error else "")


def percent(value: Value) -> str:
    """`folder mAP 76.1 at 320 px`."""
    return f"{value.name} {100 * value.value:.1f}" + (f" at {value.resolution} px" if value.resolution else "")


def lasting(seconds: float, rough: bool = False) -> str:
    """`50 s`, `1 min 50 s`, `2 h 5 min`; rough: `2 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60) if rough else whole // 60
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if rough else f"{minutes} min {whole % 60} s"


def clock(seconds: float | None) -> str:
    """`1:50`, `2:05:00`; "" where it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def names(jobs: Sequence[Status], room: int) -> tuple[str, list[str]]:
    """What sets each job apart, under a title: `gem 0` under `pooling seed` where `pooling=gem seed=0` has no room."""
    names = [one.job.name for one in jobs]
    keys = dict.fromkeys(key for one in jobs for key in one.job.differs)
    if max(map(len, names), default=0) <= room or not keys:
        return "job", names
    return " ".join(keys), [printable(" ".join(str(one.job.differs.get(key, "-")) for key in keys)) for one in jobs]


def errors(jobs: Sequence[Status]) -> list[str]:
    """`3, 5: what went wrong`, a line for each error."""
    numbers: dict[str, list[str]] = {}
    for one in jobs:
        if one.job.state == "failed":
            numbers.setdefault(one.job.error or "no error is known", []).append(str(one.job.job))
    return [f"failed {', '.join(which)}: {error}" for error, which in numbers.items()]


def sources(jobs: Sequence[Status]) -> list[str]:
    """What the jobs' values are of."""
    return list(dict.fromkeys(one.value.of for one in jobs if one.value))


def measure(jobs: Sequence[Status]) -> str:
    return "mAP" if all(source.split(" at ")[0].endswith("mAP") for source in sources(jobs)) else "value"


def score(one: Status, among: Sequence[str]) -> str:
    """The value in percent, with the letter of what it is of where not all are of one thing."""
    if one.value is None:
        return ""
    letter = f" {_letter(among.index(one.value.of))}" if len(among) > 1 else ""
    return f"{100 * one.value.value:.1f}{letter}"


def legend(jobs: Sequence[Status]) -> str:
    """`mAP: folder mAP at 320 px`, or what each letter stands for."""
    if len(found := sources(jobs)) == 1:
        return f"{measure(jobs)}: {found[0]}"
    return ", ".join(f"{_letter(i)}: {source}" for i, source in enumerate(found))


def _letter(number: int) -> str:
    return chr(ord("a") + number)
