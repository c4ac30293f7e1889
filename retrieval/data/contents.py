"""Bytes of image files: hashed when they are read, known again by their stamp without reading; without torch."""

import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from retrieval.errors import InputError

BLOCK = 64  # files that a thread is given at once
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class Stamp(NamedTuple):
    """What tells a file that was not touched, without reading it; where any differs, only its hash decides."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def stamp(path: str | Path) -> Stamp:
    """Stamp of a regular file, by one `stat`. Raises InputError for what is none or not there, without opening it."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"no image at {path}: {getattr(error, 'strerror', None) or error}") from error
    return _stamp(path, found)


def _stamp(path: str | Path, found: os.stat_result) -> Stamp:
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise InputError(f"{path} is {kind}: an image must be a regular file")
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else a pipe would be waited for


class Content(NamedTuple):
    """Bytes of a file by their hash, and its stamp from before they were read."""

    hash: str
    stamp: Stamp


def read(path: str | Path, known: bool = False) -> tuple[bytes, Content]:
    """Bytes of a regular file, and its content. Raises InputError as `stamp` does, and OSError.

    known: the path was stamped before, so only the open file is asked.
    """
    before = None if known else stamp(path)
    with open(path, "rb", opener=_open_at_once) as file:
        before = before or _stamp(path, os.fstat(file.fileno()))
        data = file.read()
    return data, Content(hash_bytes(data), before)


def content(path: str | Path, known: Content | None = None) -> Content | None:
    """Content of a file, hashed only where its stamp is not that of `known`; None where it cannot be read."""
    try:
        before = stamp(path)
        return known if known and known.stamp == before else Content(hash_file(path), before)
    except (InputError, OSError):
        return None


def contents(paths: Sequence[str], known: Sequence[Content | None]) -> list[Content | None]:
    """`content` of each; threads ask, as a disk far away answers many at once."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(paths), BLOCK)]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda block: list(map(content, paths[block], known[block])), blocks)
        return list(chain.from_iterable(found))


def hash_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: str | Path) -> str:
    """`hash_bytes` of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
