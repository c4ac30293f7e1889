"""Descriptors that are there already, known again by the bytes of their photos.

What one model gives has a folder, and in it each list of files that was asked for a folder of its own, named by the
files' stamps: `taken.json` says which rows were taken over from the other lists, as their photos have the same bytes
(`taken-00000.npy`, ...: hard links), and a `Store` holds those of the other photos. Beside each file of rows lie the
hash and the stamp of each row's photo. Nothing is ever changed, so that a reader keeps the rows that it has opened.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import Timeout

from retrieval import store
from retrieval.data import images
from retrieval.data.contents import Stamp
from retrieval.data.images import Photo
from retrieval.data.snapshot import Snapshot
from retrieval.descriptors import Descriptors
from retrieval.store import SHARD, Batches, Describe, Store


class Entry(NamedTuple):
    """What is noted of a row: what decides its photo's pixels, the stamp of its file, whether it could be decoded."""

    key: str
    stamp: Stamp
    readable: bool


class PhotoStore:
    """The rows of photos by what `made_of` says; files: what is known of theirs. missing: indices of those to describe.

    A folder whose rows were made of anything else is refused, the difference named.
    """

    def __init__(
        self,
        folder: Path,
        made_of: Mapping[str, Any],
        photos: Sequence[Photo],
        files: Snapshot,
        dim: int,
        dtype: str = "float32",
        size: int = SHARD,
    ) -> None:
        store.refuse_other(folder, {**made_of, "dim": dim, "kept_as": dtype, "shard": size})
        self.photos, self.files, self.folder = photos, files, folder_of(folder, photos, files)
        with store.locked(self.folder, "taken"):
            held = store.read_or_write(self.folder / "taken.json", self._take)
        self.missing: list[int] = held["missing"]
        self.taken: list[tuple[int, str, int]] = held["rows"]  # index of a photo, file, row in it
        noted = noting([photos[i] for i in self.missing], files)
        self.rest = Store(self.folder, {}, len(self.missing), dim, dtype, size, noted)

    def whole(self) -> bool:
        """Whether every row is there."""
        return not self.missing or self.rest.whole()

    def opened(self) -> Descriptors:
        """All rows, in the order of the photos; every one must be there."""
        shards = self.rest.shards(list) if self.missing else []
        names = sorted({name for _, name, _ in self.taken})
        paths = [*(self.folder / name for name in names), *(self.rest.path(shard) for shard in range(len(shards)))]
        entries = [_entries(path) for path in paths]
        starts = dict(zip(names, np.cumsum([0, *map(len, entries)]), strict=False))
        own = [self.missing[i] for batches in shards for batch in batches for i in batch]
        places = np.empty(len(self.photos), dtype=np.int64)
        places[own] = sum(map(len, entries)) - len(own) + np.arange(len(own))
        for index, name, row in self.taken:
            places[index] = starts[name] + row
        flat = [entry for of_file in entries for entry in of_file]
        for photo, place in zip(self.photos, places, strict=True):
            know(photo, flat[place], self.files)
        return Descriptors(paths, places)

    def _take(self) -> dict[str, Any]:
        """Link what other lists have of these photos; which rows that is, and which photos are left."""
        known: dict[str, tuple[Path, int]] = {}
        stamps = set[Stamp]()
        for path, entries in _others(self.folder, ".npy"):
            for row, entry in enumerate(entries):
                learn(entry, self.files)
                stamps.add(entry.stamp)
                if entry.readable:
                    known[entry.key] = path, row
        hash_alike(self.photos, self.files, stamps)
        found = {i: known[key] for i, photo in enumerate(self.photos) if (key := self.files.key(photo)) in known}
        links = {path: f"taken-{i:05}.npy" for i, path in enumerate(dict.fromkeys(path for path, _ in found.values()))}
        for path, name in links.items():
            link(path, self.folder / name)
        missing = [i for i in range(len(self.photos)) if i not in found]
        return {"missing": missing, "rows": [(i, links[path], row) for i, (path, row) in found.items()]}


def complete(
    stores: Sequence[PhotoStore],
    plan: Callable[[Sequence[Photo]], Batches],
    describing: Callable[[Sequence[int], Sequence[Photo]], Describe],
    title: str = "",
) -> list[Descriptors]:
    """The descriptors of each store, whose photos are the same; those that lack the same photos share a pass.

    describing: places of stores, photos -> what describes the photos for these stores.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, one in enumerate(stores):
        groups.setdefault(tuple(one.missing), []).append(place)
    for missing, places in groups.items():
        photos = [stores[0].photos[i] for i in missing]
        if photos:
            rests = [stores[place].rest for place in places]
            store.complete(rests, lambda some=photos: plan(some), describing(places, photos), title)
    return [one.opened() for one in stores]


def take(kept: Store, plan: Callable[[], Batches], photos: Sequence[Photo], files: Snapshot) -> None:
    """Link what other lists have of a store with one file a batch: the batches whose photos have the same bytes."""
    if kept.whole():
        return
    known: dict[tuple[str, ...], Path] = {}
    stamps = set[Stamp]()
    for path, entries in _others(kept.folder, kept.suffix):
        for entry in entries:
            learn(entry, files)
            stamps.add(entry.stamp)
        if all(entry.readable for entry in entries):
            known[tuple(entry.key for entry in entries)] = path
    hash_alike(photos, files, stamps)
    for shard, (batch,) in enumerate(kept.shards(plan) if known else ()):
        found = known.get(tuple(files.key(photos[i]) for i in batch))
        with suppress(Timeout), kept.locked(f"shard-{shard:05}", timeout=0):
            if found and not kept.has(shard):
                link(found, kept.path(shard))


def know_all(kept: Store, shards: Sequence[Batches], photos: Sequence[Photo], files: Snapshot) -> None:
    """Let the call know what the rows of a whole store say of their photos."""
    for shard, batches in enumerate(shards):
        indices = [i for batch in batches for i in batch]
        for i, entry in zip(indices, _entries(kept.path(shard)), strict=True):
            know(photos[i], entry, files)


def folder_of(folder: Path, photos: Sequence[Photo], files: Snapshot) -> Path:
    """The folder of this list of files; another one where a photo can be decoded that could not be when it was made."""
    stamps = files.stamp_all(photos)
    name = [[*stamp, photo.box, photo.upright] for stamp, photo in zip(stamps, photos, strict=True)]
    own, of_stamp = folder / store.digest(name), dict(zip(stamps, photos, strict=True))
    healed = []
    for path in own.glob("*.json"):
        for entry in _entries(path) if path.name.startswith("shard-") else ():
            photo = of_stamp.get(entry.stamp)
            if photo is None or entry.readable or photo.path in files.faults:
                continue
            if fault := images.fault(photo):
                files.fail(photo, fault)
            else:
                healed.append(entry.key)
    return folder / store.digest([name, sorted(healed)]) if healed else own


def noting(photos: Sequence[Photo], files: Snapshot) -> Callable[[int], Entry]:
    """What is noted of the row of each photo, by its index."""
    return lambda i: Entry(files.key(photos[i]), files.stamps[photos[i].path], photos[i].path not in files.faults)


def know(photo: Photo, entry: Entry, files: Snapshot) -> None:
    """Let the call know what a photo's row says of it."""
    if entry.key:
        files.hashes[files.stamps[photo.path]] = entry.key.partition(" ")[0]
    if not entry.readable and photo.path not in files.faults:
        files.fail(photo, images.fault(photo) or f"unreadable photo {photo.path}")


def learn(entry: Entry, files: Snapshot) -> None:
    """The hash of a file by its stamp, wherever it lies."""
    if entry.key:
        files.hashes.setdefault(entry.stamp, entry.key.partition(" ")[0])


def hash_alike(photos: Sequence[Photo], files: Snapshot, stamps: set[Stamp]) -> None:
    """Hash the files that have as many bytes as one of which rows are there; others are hashed when decoded."""
    sizes = {stamp.size for stamp in stamps}
    files.hash_all([photo for photo in photos if files.stamps[photo.path].size in sizes])


def link(path: Path, other: Path) -> None:
    """The file and its notes under another name too; notes first, as a file that is there is whole."""
    for source, target in ((path.with_suffix(".json"), other.with_suffix(".json")), (path, other)):
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # of a file system without links
            store.replace(target, lambda file, source=source: shutil.copyfileobj(source.open("rb"), file))


def _others(own: Path, suffix: str) -> Iterator[tuple[Path, list[Entry]]]:
    """Files of rows in the folders beside this one, and what is noted of their rows."""
    for path in sorted(own.parent.glob(f"*/*{suffix}")):
        if path.parent != own and path.with_suffix(".json").is_file():
            yield path, _entries(path)


def _entries(path: Path) -> list[Entry]:
    noted = json.loads(path.with_suffix(".json").read_text())
    return [Entry(key, Stamp(*stamp), readable) for key, stamp, readable in noted]
