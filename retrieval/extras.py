"""What is said where a library of an extra is not installed: one line that names the extra."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import FrameType

from retrieval.errors import InputError

DISTRIBUTION = "image-retrieval-poolings"
BY_LIBRARY = {"faiss": "search", "wandb": "train", "pillow_heif": "heif"}  # whoever imports it
BY_PACKAGE = {"export": "export", "report": "report", "sweep": "sweep"}  # any other library; elsewhere: train
IMPORTING = ("importlib", "importlib._bootstrap", "importlib._bootstrap_external")  # not importlib.util: that only asks


class MissingExtra(ModuleNotFoundError, InputError):
    """A library that a module of this package imports is not installed; the message names the extra."""


class Extras(MetaPathFinder):
    """Stands last in `sys.meta_path`, where a library is looked for that no other finder has found.

    Raises MissingExtra where a module of this package imports it; to anyone else it stays an ordinary missing module.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        importer = _importer(sys._getframe(1))
        if path is None and importer[0] == "retrieval" and fullname != "retrieval":
            package = importer[1] if len(importer) > 1 else ""
            extra = BY_LIBRARY.get(fullname) or BY_PACKAGE.get(package, "train")
            raise MissingExtra(f"{fullname} is not installed: {command(extra)}", name=fullname)


def command(extra: str) -> str:
    """How the extra is installed."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def _importer(frame: FrameType | None) -> list[str]:
    """The words of the full name of the module whose import statement is being run."""
    while frame and frame.f_globals.get("__name__") in IMPORTING:
        frame = frame.f_back
    spec = frame.f_globals.get("__spec__") if frame else None  # __name__ is __main__ under python -m
    return spec.name.split(".") if spec else [""]
