"""What a command does now, for people: a line at each stage, and a sign of life in between.

A command calls `begin` with its first line. Until then, as in a notebook, in a job of a sweep (whose overview says how
it stands) and in all processes but the first, nothing is said.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from tqdm import tqdm

from retrieval import ranks
from retrieval.terminal import printable, say

EVERY = 25.0  # seconds after which a line is due where no terminal shows a bar
COUNT = "{desc}: {n_fmt} of {total_fmt} ({elapsed}<{remaining})"


@dataclass
class _Command:
    """The command that runs: where its lines go, its stage, when that began, and what tells how far it is."""

    stream: TextIO | None = None
    stage: str = ""
    began: float = 0.0
    said: float = 0.0
    progress: Callable[[], str] | None = None
    ended: threading.Event = field(default_factory=threading.Event)


_command = _Command()


def begin(line: str | None, stream: TextIO | None = None) -> None:
    """Say the first line of a command, and from now on what it does; None: it is said already.

    stream: stdout unless what is printed there is data.
    """
    end()
    if not ranks.first():
        return
    _command.stream = out = stream or sys.stdout
    _command.ended = threading.Event()
    if line is not None:
        _say(line)
    _set("starting")
    if not out.isatty():
        threading.Thread(target=_beat, args=(_command.ended,), daemon=True).start()


def end() -> None:
    """Say no more."""
    _command.ended.set()
    _command.stream = None


def telling() -> bool:
    """Whether lines are printed."""
    return _command.stream is not None


def stage(line: str, progress: Callable[[], str] | None = None) -> None:
    """Say what begins; progress: how far it is, asked for when a sign of life is due."""
    if telling():
        _say(line)
        _set(line, progress)


def bar(**of_tqdm: Any) -> tqdm:
    """A bar of tqdm. Where stderr is no terminal none is drawn, and its numbers tell how far the stage is."""
    drawn = sys.stderr.isatty()
    if drawn or of_tqdm.get("disable") or not telling():
        return tqdm(**{"disable": None, **of_tqdm})
    hidden: dict[str, Any] = {"file": _Hidden(), "bar_format": COUNT, "mininterval": 1.0, "leave": False}
    counted = tqdm(**{**of_tqdm, **hidden, "disable": False})
    _command.progress = lambda: tqdm.format_meter(**counted.format_dict)
    return counted


class _Hidden:
    """Where a bar is drawn that nobody sees."""

    def write(self, text: str) -> None:
        pass

    def flush(self) -> None:
        pass


def _set(line: str, progress: Callable[[], str] | None = None) -> None:
    _command.stage, _command.began, _command.progress = line, time.monotonic(), progress


def _say(line: str) -> None:
    _command.said = time.monotonic()
    say(printable(line), _command.stream)


def _beat(ended: threading.Event) -> None:
    """Say a line whenever none was said for EVERY seconds."""
    while not ended.wait(max(0.0, _command.said + EVERY - time.monotonic())):
        if time.monotonic() - _command.said >= EVERY:
            how_far = f"{_command.progress()}, " if _command.progress else ""
            _say(f"{_command.stage}: {how_far}{time.monotonic() - _command.began:.0f} s so far")
