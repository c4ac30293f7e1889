"""The overview of a sweep: on a terminal a line for each job, renewed every second; in a log file the news."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from threading import Event, Thread

from rich.console import Console, Group, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from retrieval import stages
from retrieval.sweep.status import Status, over, statuses
from retrieval.sweep.wording import (
    changed,
    clock,
    counted,
    errors,
    headline,
    legend,
    measure,
    names,
    score,
    sources,
    standing,
)

EVERY = 1.0  # seconds between two looks
BAR, GAP = 8, 2  # characters
AROUND = 5  # lines that are no job's
SHOWN_FIRST = ("running", "failed", "killed", "stopped", "done", "waiting")  # where not all have room
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "killed": "red", "stopped": "yellow"}
Look = Callable[[], None]


def show(sweep_dir: Path, console: Console | None = None) -> None:
    """Print how the sweep stands: into a file once, on a terminal until no job runs or waits.

    Raises InputError where the folder holds no sweep.
    """
    console = console or Console()
    jobs = statuses(sweep_dir)
    if not console.is_terminal or over(jobs):
        console.print(overview(jobs, console.width))
        return
    with _live(sweep_dir, console) as look:
        while not _finished(sweep_dir):
            look()
            time.sleep(EVERY)


@contextmanager
def watching(sweep_dir: Path, console: Console | None = None) -> Iterator[None]:
    """Show how the sweep stands while the jobs within run, in this process or in others, and how it stood at the end.

    What this process prints stays visible above. Where the output is no terminal, a line says what became of a job.
    """
    console = console or Console()
    if not console.is_terminal:
        with _repeated(_told(sweep_dir, console)):
            yield
        return
    with _live(sweep_dir, console) as look, _repeated(look):
        yield


@contextmanager
def _repeated(look: Look) -> Iterator[None]:
    """Look now, every second, and once more at the end."""
    ended = Event()

    def repeat() -> None:
        while not ended.wait(EVERY):
            look()

    look()
    thread = Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()


@contextmanager
def _live(sweep_dir: Path, console: Console) -> Iterator[Look]:
    """What renews the overview at the foot of the terminal; in the end all of it stays there."""
    live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def look(whole: bool = False) -> None:
        with suppress(Exception):  # who looks on must not stop the jobs: what is broken now is read at the next look
            room = None if whole else console.height
            live.update(overview(statuses(sweep_dir), console.width, room), refresh=True)

    with _above(console), live:
        try:
            yield look
        finally:
            look(whole=True)


def _told(sweep_dir: Path, console: Console) -> Look:
    """What prints the news since the last look; how the sweep stands at the first one, and where there was no news for
    long."""
    before: dict[str, str] = {}
    said = time.monotonic()

    def look() -> None:
        nonlocal said
        with suppress(Exception):  # as above
            jobs = statuses(sweep_dir)
            lines = changed(before, jobs) if before else [headline(jobs)]
            if not lines and time.monotonic() - said >= stages.EVERY:
                lines = [standing(jobs)]
            for line in lines:
                console.print(line, soft_wrap=True, markup=False, highlight=False)
                said = time.monotonic()
            before.update({one.job.folder: one.job.state for one in jobs})

    return look


def _finished(sweep_dir: Path) -> bool:
    with suppress(OSError, ValueError):
        return over(statuses(sweep_dir))
    return False


class _Lines(FileProxy):
    """Prints above what is live, whole lines alone: a bar that is drawn again and again is none before its end."""

    def flush(self) -> None:
        pass


@contextmanager
def _above(console: Console) -> Iterator[None]:
    """Put what this process prints on the terminal above what is live."""
    out, error = (_Lines(console, one) if one.isatty() else one for one in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(error):
        try:
            yield
        finally:
            for one in (out, error):
                FileProxy.flush(one) if isinstance(one, _Lines) else one.flush()


def overview(jobs: Sequence[Status], width: int, height: int | None = None) -> RenderableType:
    """The overview in `width` characters and, where `height` is given, not many more lines than that."""
    wrong = [Text(line, "red", overflow="ellipsis", no_wrap=height is not None) for line in errors(jobs)]
    shown = list(jobs) if height is None else _fitting(jobs, height - AROUND - len(wrong))
    folded = [one for one in jobs if one not in shown]
    more = [Text(f"and {counted(folded)}", "dim")] if folded else []
    of = [Text(legend(shown), "dim")] if sources(shown) else []
    return Group(Text(headline(jobs), "bold"), _table(shown, width), *more, *wrong, *of)


def _fitting(jobs: Sequence[Status], room: int) -> list[Status]:
    """As many jobs as have room, in their order: those first that run or went wrong, of the finished the latest."""
    order = sorted(jobs, key=lambda one: (SHOWN_FIRST.index(one.job.state), -(one.job.ended or 0), one.job.job))
    kept = {one.job.job for one in order[: max(1, room)]}
    return [one for one in jobs if one.job.job in kept]


def _table(jobs: Sequence[Status], width: int) -> Table:
    """A line for each job, without the columns in which none has anything to say."""
    numbers = {
        "step": [f"{one.step}/{one.steps}" if one.steps else "" for one in jobs],
        measure(jobs): [score(one, sources(jobs)) for one in jobs],
        "p": ["" if one.p is None else f"{one.p:.2f}" for one in jobs],
        "time": [clock(one.spent) for one in jobs],
        "left": [clock(one.left) for one in jobs],
    }
    numbers = {title: cells for title, cells in numbers.items() if any(cells)}
    taken = sum(max(map(len, [title, *cells])) + GAP for title, cells in numbers.items())
    title, words = names(jobs, width - taken - len(str(len(jobs))) - GAP - BAR - GAP)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("#", justify="right")
    table.add_column(title, overflow="fold")
    table.add_column("state", no_wrap=True)
    for each in numbers:
        table.add_column(each, justify="right", no_wrap=True)
    for one, name, *cells in zip(jobs, words, *numbers.values(), strict=True):
        table.add_row(str(one.job.job), Text(name), _state(one), *cells)
    return table


def _state(one: Status) -> RenderableType:
    if one.job.state == "running" and one.phase == "training" and one.steps:
        return ProgressBar(one.steps, one.step, BAR)
    said = one.phase if one.job.state == "running" and one.phase else one.job.state
    return Text(said, COLOURS.get(one.job.state, "dim"))
