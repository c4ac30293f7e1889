"""Image files as one call finds them: each is stat'ed once, its header read once, its bytes hashed when decoded."""

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tqdm import tqdm

from retrieval.data import contents, images
from retrieval.data.contents import Stamp
from retrieval.data.images import Photo, Size, UnreadablePhoto
from retrieval.errors import InputError
from retrieval.terminal import printable

NO_FILE = Stamp(0, 0, 0, 0)  # of a path at which no regular file is


class Read(NamedTuple):
    """What reading a file told: its stamp then (None where it cannot be read), the hash of its bytes, and what is wrong
    with the photo in it, if anything."""

    stamp: Stamp | None
    hash: str
    fault: str = ""


class Snapshot:
    """What is known of image files, by path. `faults`: those that cannot be decoded, and why.

    may_skip: the files that may be left out where they cannot be decoded; any other raises UnreadablePhoto. A file that
    changes after it was stat'ed raises InputError when it is read.
    """

    def __init__(self, may_skip: Collection[str] = ()) -> None:
        self.may_skip = frozenset(may_skip)
        self.stamps: dict[str, Stamp] = {}
        self.hashes: dict[Stamp, str] = {}
        self.faults: dict[str, str] = {}
        self._sizes: dict[tuple[str, bool], Size | None] = {}

    def stamp_all(self, photos: Sequence[Photo]) -> list[Stamp]:
        """The stamp of each photo's file; threads ask, as a disk far away answers many at once."""
        new = {photo.path: photo for photo in photos if photo.path not in self.stamps}
        with ThreadPoolExecutor() as pool:
            self.stamps.update(zip(new, pool.map(self._stamp, new.values()), strict=True))
        return [self.stamps[photo.path] for photo in photos]

    def _stamp(self, photo: Photo) -> Stamp:
        try:
            return contents.stamp(photo.path)
        except InputError as error:
            self.fail(photo, str(error))
            return NO_FILE

    def target_sizes(self, photos: Sequence[Photo], resolution: int, multiple: int, square: bool) -> list[Size]:
        """`images.target_size` of each; a header that cannot be read gives a square where the photo may be skipped."""
        self.stamp_all(photos)
        if not square:
            new = list({(photo.path, photo.upright): photo for photo in photos}.keys() - self._sizes.keys())
            with ThreadPoolExecutor() as pool:
                self._sizes.update(zip(new, pool.map(self._full_size, new), strict=True))
        wholes = [self._sizes.get((photo.path, photo.upright)) for photo in photos]
        return [
            images.target_size(photo, resolution, multiple, square or whole is None, whole)
            for photo, whole in zip(photos, wholes, strict=True)
        ]

    def _full_size(self, file: tuple[str, bool]) -> Size | None:
        path, upright = file
        if self.stamps[path] == NO_FILE:
            return None
        try:
            return images.full_size(Photo(path, upright=upright), known=True)
        except UnreadablePhoto:
            if path not in self.may_skip:
                raise
            return None

    def planned(self, photos: Sequence[Photo], resolution: int, multiple: int, square: bool) -> list[Size | None]:
        """`target_sizes`, None where no header was read yet."""
        sizes = [self._sizes.get((photo.path, photo.upright)) for photo in photos]
        return [
            images.target_size(photo, resolution, multiple, square, whole) if whole or square else None
            for photo, whole in zip(photos, sizes, strict=True)
        ]

    def note(self, photos: Iterable[Photo], read: Iterable[Read]) -> None:
        """Take in what reading the photos' files told. Raises InputError, UnreadablePhoto, which name the file."""
        for photo, (stamp, digest, fault) in zip(photos, read, strict=True):
            if stamp is not None:
                before = self.stamps.setdefault(photo.path, stamp)
                if stamp != before and self.hashes.get(before) != digest:
                    raise InputError(f"{photo.path} changed while it was described: start again; what was done is kept")
                self.hashes[before] = self.hashes[stamp] = digest
            if fault:
                self.fail(photo, fault)

    def fail(self, photo: Photo, fault: str) -> None:
        """Leave the photo out, where it may be."""
        if photo.path not in self.may_skip:
            raise UnreadablePhoto(fault)
        if photo.path not in self.faults:
            self.faults[photo.path] = fault
            say_once(f"skipped: {fault}")

    def hash_all(self, photos: Sequence[Photo]) -> None:
        """Read and hash the files whose hash is not known; one that cannot be read is left unknown."""
        stamps = zip(photos, self.stamp_all(photos), strict=True)
        new = {stamp: photo for photo, stamp in stamps if stamp not in self.hashes}
        with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
            for photo, read in zip(new.values(), pool.map(_hashed, new.values()), strict=True):
                self.note([photo], [read])

    def hash(self, photo: Photo) -> str:
        """The hash of the file's bytes; "" where it is not known."""
        return self.hashes.get(self.stamps[photo.path], "") if photo.path in self.stamps else ""

    def key(self, photo: Photo) -> str:
        """What decides the photo's pixels: the hash of its file, its box, whether it is turned; "" if not known."""
        digest, whole = self.hash(photo), photo.box is None and photo.upright
        return digest if whole or not digest else f"{digest} {photo.box} {photo.upright}"


def say_once(line: str) -> None:
    """A line on the terminal, beside a progress bar; once for all that this process does."""
    if line not in _SAID:
        _SAID.add(line)
        tqdm.write(printable(line))


_SAID: set[str] = set()


def _hashed(photo: Photo) -> Read:
    try:
        content = contents.read(photo.path, known=True)[1]
    except (InputError, OSError):
        return Read(None, "")
    return Read(content.stamp, content.hash)
