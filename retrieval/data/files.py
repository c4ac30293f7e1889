"""Are the photos there? Told by listing folders, as a look-up per photo takes minutes for a million on shared disks."""

import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from retrieval.data.images import SUFFIXES, Photo
from retrieval.errors import InputError

NAMED = 3  # missing files that a message names
LISTERS = 16  # threads: a disk far away answers many at once


def present(photos: Iterable[Photo], where: str = "") -> None:
    """Refuse photos whose files are not there, naming the first and saying how many; none is opened.

    where: what the message says of where they come from.
    """
    wanted: dict[str, list[str]] = defaultdict(list)
    for photo in photos:
        folder, name = os.path.split(photo.path)
        wanted[folder].append(name)
    folders = list(wanted.items())
    with ThreadPoolExecutor(LISTERS) as pool:
        missing = sorted(chain.from_iterable(pool.map(_absent, (folders[i::LISTERS] for i in range(LISTERS)))))
    if missing:
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        said = f"{len(missing):,} photos are not there: {', '.join(missing[:NAMED])}{more}"
        raise InputError(f"{said}. {where}" if where else said)


def _absent(folders: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Paths of the names that their folders do not hold."""
    absent: list[str] = []
    for folder, names in folders:
        try:
            # One look-up is quicker than a list: SfM-120k has a folder for nearly every photo.
            one = len(names) == 1 and os.path.exists(os.path.join(folder, names[0]))
            held = frozenset(names if one else os.listdir(folder or "."))
        except (FileNotFoundError, NotADirectoryError):
            held = frozenset()
        absent += (os.path.join(folder, name) for name in names if name not in held)
    return absent


def expected(paths: Iterable[Path], where: str) -> None:
    """Refuse the absence of a set's files and folders; where: which files go where and where they come from."""
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} is not there. {where}")


def below(folder: Path) -> list[str]:
    """Paths of all image files below a folder, sorted; hidden files and folders are left out."""
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        seen = (name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith("."))
        found += (os.path.join(place, name) for name in seen)
    return sorted(found)


def by_name(folder: Path) -> dict[str, str]:
    """Those paths by the photos' names without folder and suffix, in the order of the names."""
    found: dict[str, str] = {}
    for path in below(folder):
        if (other := found.setdefault(Path(path).stem, path)) != path:
            raise InputError(f"photos below {folder} need different names: {other}, {path}")
    return dict(sorted(found.items()))


def named(folder: str | Path, name: str) -> str:
    """Path of a photo that a list names, below a folder; `.jpg` where the list gives no suffix."""
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"photos must lie below {folder}, a list names {name!r}")
    return os.path.join(folder, name if name.lower().endswith(SUFFIXES) else f"{name}.jpg")
