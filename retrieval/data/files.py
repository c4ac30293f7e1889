"""Which photos folders hold, and whether those of a list are there: told by listing, without a look-up for each photo,
which takes minutes for a million on shared disks.

One rule for every command. A file is a photo by its suffix, of `images.SUFFIXES`, where such files can be read here;
links are followed. Files and folders whose name begins with a dot are left out, as all other files are; one line says
how many, and why.
"""

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from retrieval.data.images import SUFFIXES, Photo, lacking
from retrieval.errors import InputError
from retrieval.terminal import printable

NAMED = 3  # missing files that a message names
LISTERS = 16  # threads: a disk far away answers many at once
REASONS = 8  # why files are left out, in a message; the others are summed up


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


class Listing:
    """Image files of folders, listed one after the other; left_out: why other files and folders are none, how often."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._lacking = {suffix: lacking(suffix) for suffix in SUFFIXES}

    def photos(self, folder: str | Path) -> list[str]:
        """Paths of the image files directly in a folder, sorted; folders in it are left out."""
        photos, folders = self.entries(folder)
        self.left_out["folders in a folder of photos"] += len(folders)
        return photos

    def photos_below(self, folder: str | Path) -> list[str]:
        """Paths of the image files at any depth, sorted. Linked folders come last, each once, and none that the folder
        itself lies in."""
        photos: list[str] = []
        seen = {_identity(above) for above in Path(os.path.realpath(folder)).parents}
        places, linked = [str(folder)], list[str]()
        while places or linked:
            place = places.pop() if places else linked.pop(0)
            if (identity := _identity(place)) in seen:
                self.left_out["linked folders that are listed already, or lead back up"] += 1
                continue
            seen.add(identity)
            held, folders = self.entries(place)
            photos += held
            for path in folders:
                (linked if os.path.islink(path) else places).append(path)
        return sorted(photos)

    def entries(self, folder: str | Path) -> tuple[list[str], list[str]]:
        """Paths of the image files and of the folders in a folder, each sorted; all else is counted in `left_out`."""
        photos, folders = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if (reason := self._reason(entry)) is not None:
                        self.left_out[reason] += 1
                    else:
                        (folders if entry.is_dir() else photos).append(entry.path)
        except OSError as error:
            self.left_out[f"folders that cannot be read ({folder}: {error.strerror})"] += 1
        return sorted(photos), sorted(folders)

    def _reason(self, entry: "os.DirEntry[str]") -> str | None:
        """Why an entry is left out; None for an image and for a folder. None is opened."""
        if entry.name.startswith("."):
            return "hidden"
        if entry.is_dir():
            return None
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix not in self._lacking:
            return suffix or "without suffix"
        lacks = self._lacking[suffix]
        return f"{suffix} ({lacks} to read them)" if lacks else None

    def tell(self, root: str | Path) -> None:
        """Say on stderr, in one line, what was left out below `root`, and why; nothing where that is nothing."""
        if not (count := self.left_out.total()):
            return
        counted = [(number, reason) for reason, number in self.left_out.items() if number]
        counted.sort(key=lambda one: ("(" not in one[1], -one[0], one[1]))  # what could be read after all comes first
        said = [f"{number:,} {reason}" for number, reason in counted[:REASONS]]
        if others := sum(number for number, _ in counted[REASONS:]):
            said.append(f"{others:,} others")
        tqdm.write(printable(f"{root}: {count:,} files or folders left out: {', '.join(said)}"), file=sys.stderr)


def _identity(folder: str | Path) -> tuple[int, int] | str:
    """What two paths of one folder have in common."""
    try:
        found = os.stat(folder)
    except OSError:
        return str(folder)
    return found.st_dev, found.st_ino


def below(folder: str | Path) -> list[str]:
    """Paths of all image files below a folder, sorted; says on stderr what is left out."""
    listing = Listing()
    photos = listing.photos_below(folder)
    listing.tell(folder)
    return photos


def by_name(folder: Path) -> dict[str, str]:
    """Those paths by the photos' names without folder and suffix, in the order of the names."""
    found: dict[str, str] = {}
    for path in below(folder):
        if (other := found.setdefault(Path(path).stem, path)) != path:
            raise InputError(f"photos below {folder} need different names: {other}, {path}")
    return dict(sorted(found.items()))


def named(folder: str | Path, name: str) -> str:
    """Path of a photo that a list names, below a folder; `.jpg` where the list gives no suffix.

    Spaces around the name are no part of it, unless a file has that very name.
    """
    if name != name.strip():
        if os.path.lexists(os.path.join(folder, name)) and ".." not in name.split("/"):
            return os.path.join(folder, name)
        name = name.strip()
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"photos must lie below {folder}, a list names {name!r}")
    return os.path.join(folder, name if name.lower().endswith(SUFFIXES) else f"{name}.jpg")
