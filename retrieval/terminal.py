"""Lines for people: at once, also into a pipe, and harmless whatever a file's name holds."""

import os
import signal
import sys
from typing import TextIO

UNREAD = 128 + signal.SIGPIPE  # status of a command whose output nobody reads any more


def printable(text: object) -> str:
    """Text without control characters (ESC, newlines, ...) and lone surrogates: each stands as its escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode("ascii")
                   for one in str(text))  # fmt: skip


def printable_lines(text: object) -> str:
    """`printable` of each line of a text of several."""
    return "\n".join(map(printable, str(text).split("\n")))


def take_any_text() -> None:
    """Let stdout and stderr, of child processes too, show what their encoding lacks as an escape."""
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    os.environ["PYTHONIOENCODING"] = f"{sys.stdout.encoding or 'utf-8'}:backslashreplace"


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line at once, on stdout unless another stream is given; what its encoding lacks stands as an escape.

    Where nobody reads the stream any more, as behind `| head -1`, the command ends by SystemExit(UNREAD).
    """
    out: TextIO = sys.stdout if stream is None else stream
    encoding = out.encoding or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=out, flush=True)
    except BrokenPipeError:
        give_up(out)
        raise SystemExit(UNREAD) from None


def give_up(stream: TextIO) -> None:
    """Let what is still to be written to a stream that nobody reads go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
