"""An index on disk, and beside it what it was made of."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.descriptors import BLOCK, Descriptors
from retrieval.errors import InputError
from retrieval.faiss_index import read, write


def fingerprint(gallery: Descriptors) -> str:
    """A hash of the rows in their order, wherever they lie."""
    digest = hashlib.sha256()
    for start in range(0, len(gallery), BLOCK):
        digest.update(gallery.take(np.arange(start, min(start + BLOCK, len(gallery)))).tobytes())
    return digest.hexdigest()


def save(index: Any, path: Path, made_of: Mapping[str, Any]) -> None:
    """Write the index, whole or not at all, and beside it in `PATH.json` what it was made of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    write(index, part)
    _record(path).write_text(json.dumps(dict(made_of), indent=1))
    part.replace(path)


def load(path: Path, made_of: Mapping[str, Any]) -> Any:
    """The index at `path`; one made of something else is refused, as is a file that is no index."""
    refuse_other(path, made_of)
    return read(path, "search.index")


def refuse_other(path: Path, made_of: Mapping[str, Any]) -> None:
    """Refuse an index made of something else, naming each difference."""
    if not _record(path).is_file():
        raise InputError(f"search.index {path} has no {_record(path).name} that says what it was made of: name another")
    record = json.loads(_record(path).read_text())
    unlike = [
        f"{key} {record.get(key)} there, {value} here" for key, value in made_of.items() if record.get(key) != value
    ]
    if unlike:
        raise InputError(f"search.index {path} was made of something else ({'; '.join(unlike)}): name another file")


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
