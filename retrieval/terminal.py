"""Lines for people: at once, also into a pipe, and harmless whatever a file's name holds."""

import sys
from typing import TextIO


def printable(text: object) -> str:
    """Text without control characters (ESC, newlines, ...) and lone surrogates: each stands as its escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode("ascii")
                   for one in str(text))  # fmt: skip


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line at once, on stdout unless another stream is given; what its encoding lacks stands as an escape."""
    out: TextIO = sys.stdout if stream is None else stream
    encoding = out.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=out, flush=True)
