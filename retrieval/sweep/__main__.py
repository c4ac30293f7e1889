"""How a sweep stands, on a terminal until it is finished: `python -m retrieval.sweep DIR`. Ctrl-C ends that."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from retrieval import endings
from retrieval.errors import InputError
from retrieval.terminal import take_any_text


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 where the folder holds no sweep, the reason on standard error."""
    take_any_text()
    parser = argparse.ArgumentParser(prog="python -m retrieval.sweep", description="How a sweep stands.")
    parser.add_argument("dir", type=Path, metavar="DIR", help="the folder of a sweep: it holds sweep.json")
    options = parser.parse_args(argv)
    with endings.without_traceback(lambda: "the sweep goes on; the same command shows how it stands"):
        return _show(options.dir)


def _show(folder: Path) -> int:
    from retrieval.sweep.overview import show

    try:
        show(folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
