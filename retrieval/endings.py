"""How a command ends before it is done: at Ctrl-C, or where nobody reads what it prints; and what it leaves behind."""

import os
import re
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from retrieval import ranks, stages
from retrieval.errors import InputError
from retrieval.terminal import UNREAD, give_up, printable, say

INTERRUPTED = 128 + signal.SIGINT
LIBRARIES = "lightning|torch|torchvision|wandb|onnx|onnxscript|pytorch_metric_learning|joblib"


@contextmanager
def without_traceback(go_on: Callable[[], str]) -> Iterator[None]:
    """End by status 130 at Ctrl-C, with a line on stderr that says how to go on, and by 141 at a closed pipe."""
    try:
        try:
            yield
        finally:
            stages.end()
            sys.stdout.flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # pressed once more it ends at once
        if ranks.first():
            say(printable(f"interrupted: {go_on()}"), sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        if not unread():
            raise
        raise SystemExit(UNREAD) from None


def unread() -> bool:
    """Whether nobody reads stdout any more; what is still to be written there is given up then."""
    try:
        (pipe := select.poll()).register(sys.stdout.fileno(), 0)  # asks for no event, and is told of errors
    except (OSError, ValueError):  # no file of the system's
        return False
    gone = any(event & select.POLLERR for _, event in pipe.poll(0))
    if gone:
        give_up(sys.stdout)
    return gone


def refuse_unwritable(folder: str | Path, name: str = "output_dir") -> None:
    """Raise InputError where a folder cannot be made, or nothing can be written into it; none is left behind."""
    folder = Path(folder)
    new = absent(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(unwritable(folder, error, name)) from error
    finally:
        remove_empty(new)


def refuse_no_folder(folder: str | Path, name: str) -> None:
    """Raise InputError where a folder cannot be made, told by those that are there, as other processes may make it."""
    nearest = next(
        path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if os.path.lexists(path)
    )
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK):
        raise InputError(
            f"{name} must be a folder that can be made and written to, got {folder}: {nearest} "
            f"{'cannot be written to' if os.path.isdir(nearest) else 'is no folder'}"
        )


def unwritable(folder: str | Path, error: OSError, name: str = "output_dir") -> str:
    """Why nothing can be written into a folder, in words."""
    is_file = next((path for path in (Path(folder), *Path(folder).parents) if os.path.isfile(path)), None)
    why = f"{is_file} is a file" if is_file else error.strerror or str(error)
    return f"{name} {folder} is no folder that can be written to: {why}; accepted: a folder, or one that can be made"


def absent(folder: Path) -> list[Path]:
    """The folder and those above it that are not there yet, the innermost first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to the first that holds anything."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


_new: list[Path] = []  # folders that a run of Hydra is about to make


def expect(folder: Path) -> None:
    """Note which folders a run is about to make."""
    _new[:] = absent(folder.absolute())


def leave_nothing() -> None:
    """Remove the folder that this run made, with what Hydra wrote there, unless it holds anything else."""
    if _new and (folder := _new[0]).is_dir():
        held = {path.name for path in folder.iterdir()}
        logs = [folder / name for name in held if name.endswith(".log") and not (folder / name).stat().st_size]
        if held <= {".hydra", *(log.name for log in logs)}:
            shutil.rmtree(folder / ".hydra", ignore_errors=True)
            for log in logs:
                log.unlink()
        remove_empty(_new)
    _new.clear()


def show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
    """In place of `warnings.showwarning`: one line, and none for what libraries tell those who call them."""
    if not re.search(rf"[/\\]site-packages[/\\]({LIBRARIES})[/\\](?!cuda[/\\])", filename):
        say(f"warning: {printable(message)}", sys.stderr)
