"""A folder of descriptors: `descriptors.npy` (N, d), `images.json`, `unreadable.json`, `contents.json` and, last,
`manifest.json`."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.atomic import replace
from retrieval.data.contents import Content, Stamp
from retrieval.errors import InputError
from retrieval.spec import MOST, MOST_SCALE, MOST_SCALES

Rows = NDArray[np.float32]
MANIFEST, ROWS, IMAGES, UNREADABLE = "manifest.json", "descriptors.npy", "images.json", "unreadable.json"
CONTENTS = "contents.json"
SHARDS = "shards"
LENGTH = 1e-2  # how far from 1 a row's may be
BLOCK = 16_384  # rows
TEXTS = ("model", "fingerprint", "name")
WHOLE = ("dim", "resolution")


@dataclass(frozen=True)
class Described:
    """Photos as unit rows (N, d), float32: row i is of images[i], an absolute path.

    manifest: what made them: model (where it was loaded from), fingerprint, name, dim, resolution, scales. unreadable:
    path and reason of each photo that could not be described. contents: of the files, by path, as they were when they
    were described; empty where they are not known.
    """

    rows: Rows
    images: list[str]
    manifest: dict[str, Any]
    unreadable: list[dict[str, str]] = field(default_factory=list)
    contents: dict[str, Content] = field(default_factory=dict)


def read(folder: str | Path) -> Described:
    """What a folder holds, its rows mapped. Raises InputError for one that is unfinished, or not of descriptors."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        unfinished = "its photos are not all described: call the same command again"
        none = f"it has no {MANIFEST}; accepted: what python -m retrieval.embed wrote"
        raise InputError(f"{folder} holds no descriptors: {unfinished if (folder / SHARDS).is_dir() else none}")
    manifest = checked(read_json(folder / MANIFEST), folder / MANIFEST)
    images, unreadable = read_json(folder / IMAGES), read_json(folder / UNREADABLE)
    if not isinstance(images, list) or not all(isinstance(path, str) for path in images):
        raise InputError(f"{folder / IMAGES} must be a list of paths")
    if not isinstance(unreadable, list) or not all(fault(one) for one in unreadable):
        raise InputError(f"{folder / UNREADABLE} must be a list of paths and reasons")
    rows = mapped(folder / ROWS, (len(images), manifest["dim"]))
    contents = read_contents(folder / CONTENTS) if (folder / CONTENTS).exists() else {}  # none of an older version
    return Described(rows, images, manifest, unreadable, contents)


def read_contents(path: Path) -> dict[str, Content]:
    """Contents of files by path."""
    held = read_json(path)
    if not isinstance(held, dict) or not all(map(known, held.values())):
        raise InputError(f"{path} must hold a SHA-256, size, mtime_ns, ctime_ns and inode for each path")
    return {path: Content(hashed, Stamp(*stamp)) for path, (hashed, *stamp) in held.items()}


def write_contents(path: Path, contents: Mapping[str, Content]) -> None:
    write_json(path, {path: [content.hash, *content.stamp] for path, content in contents.items()}, indent=None)


def known(one: Any) -> bool:
    whole = isinstance(one, list) and len(one) == 5 and all(type(value) is int for value in one[1:])
    return whole and isinstance(one[0], str) and re.fullmatch("[0-9a-f]{64}", one[0]) is not None


def mapped(path: Path, shape: tuple[int, int]) -> Rows:
    """The rows of a file, each looked at once."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{path} is no array of descriptors: {error}") from error
    mine = isinstance(rows, np.memmap) and rows.dtype == np.float32 and rows.shape == shape
    if not mine or not rows.flags.c_contiguous:
        held = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise InputError(f"{path} must hold float32 {shape}, a row for each image, it holds {held}")
    for start in range(0, len(rows), BLOCK):
        refuse_lengths(rows[start : start + BLOCK], path)
    return rows


def refuse_lengths(rows: Rows, path: Path) -> None:
    """Rows that are neither of length 1 nor all zero, as scores would not be cosines."""
    lengths = np.linalg.norm(rows, axis=1)
    if not (np.isfinite(lengths) & ((lengths == 0) | (np.abs(lengths - 1) <= LENGTH))).all():
        raise InputError(f"{path} must hold rows of length 1")


def checked(manifest: Any, path: Path) -> dict[str, Any]:
    """A manifest whose values are what `Described` says."""
    if not isinstance(manifest, dict):
        raise InputError(f"{path} must be an object of JSON, got {type(manifest).__name__}")
    for key in TEXTS:
        if not isinstance(manifest.get(key), str):
            raise InputError(f"{path}: {key} must be a text, got {manifest.get(key)!r}")
    for key in WHOLE:
        if type(value := manifest.get(key)) is not int or not 1 <= value <= MOST:
            raise InputError(f"{path}: {key} must be a whole number from 1 to {MOST}, got {value!r}")
    scales = manifest.get("scales")
    if not isinstance(scales, list) or not 1 <= len(scales) <= MOST_SCALES or not all(map(factor, scales)):
        raise InputError(f"{path}: scales must be 1 to {MOST_SCALES} factors up to {MOST_SCALE}, got {scales!r}")
    return manifest


def factor(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= MOST_SCALE


def fault(one: Any) -> bool:
    return isinstance(one, dict) and one.keys() == {"path", "reason"} and all(isinstance(v, str) for v in one.values())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    text = json.dumps(content, indent=indent).encode()
    replace(path, lambda file: file.write(text))
