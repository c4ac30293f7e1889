"""Labelled photos of one's own: a folder `<landmark>/<image>`, or a CSV file of paths and landmarks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from retrieval import metrics, ranks
from retrieval.benchmarks.ranked import NONE, Level, Ranked
from retrieval.data import columns, listed
from retrieval.data.folder import LandmarkPhotos, read
from retrieval.data.snapshot import Snapshot, say_once
from retrieval.errors import InputError, flag

DUPLICATES = ("keep", "junk", "refuse")
NAMED = 10  # groups of files with the same bytes
ANSWERS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Labelled(Ranked):
    """Queries find the photos of their landmark; one that is in the gallery too is taken out of its own ranking.

    queries, gallery: indices into the photos. duplicates: what becomes of files with the same bytes, once that is known
    (see `settled`):
    - keep: they count as any other photo.
    - junk: copies of a query are ignored for it, whatever landmark they stand under.
    - refuse: InputError, which names some.
    """

    def __init__(
        self, photos: LandmarkPhotos, queries: Sequence[int], gallery: Sequence[int], duplicates: str = "keep"
    ) -> None:
        if duplicates not in DUPLICATES:
            raise InputError(f"duplicates must be one of {', '.join(DUPLICATES)}, got {duplicates!r}")
        self._photos, self._queries, self._gallery, self.duplicates = photos, list(queries), list(gallery), duplicates
        self.may_skip = photos.may_skip
        relevant, ignored = self._judged({})
        # What is refused never reaches a row, so both are one.
        treated = "junk" if duplicates == "junk" else "keep"
        super().__init__(
            queries=[photos.photos[i] for i in queries],
            gallery=[photos.photos[i] for i in gallery],
            landmarks=[photos.labels[i] for i in queries],
            levels={"": (relevant, ignored)},
            measures=metrics.labelled(),
            convention={"upright": all(photo.upright for photo in photos.photos), "duplicates": treated},
            skipped=photos.skipped,
        )
        if photos.hashes:
            self._count([photos.hashes[photo.path] for photo in photos.photos])

    def settled(self, files: Snapshot) -> "Labelled":
        """The same, once its photos were read: `counts` says how many duplicates there are, and they are seen to.

        Raises InputError where a landmark is left with fewer than two photos, or duplicates are refused.
        """
        broken = {photo.path for photo in self._photos.photos} & files.faults.keys()
        known = self.without(broken) if broken else self
        groups = known._count([files.key(photo) for photo in known._photos.photos])
        if self.duplicates == "junk" and groups:
            known.levels = {"": known._judged({i: group for group in groups for i in group})}
            known.relevant, known.ignored = known.levels[""]
            if not any(map(len, known.relevant)):
                raise InputError(f"all relevant photos of {self._photos.source} are copies of their queries")
        return known

    def without(self, paths: Collection[str]) -> "Labelled":
        """The same benchmark without these files."""
        kept = self._photos.without(paths)
        left = [i for i, photo in enumerate(self._photos.photos) if photo.path not in paths]
        place = {old: new for new, old in enumerate(left)}
        queries, gallery = ([place[i] for i in side if i in place] for side in (self._queries, self._gallery))
        return Labelled(kept, queries, gallery, self.duplicates)

    def _judged(self, copies: Mapping[int, Sequence[int]]) -> Level:
        """Relevant and ignored places in the gallery of each query; copies: the photos that are the same as one."""
        labels, places = self._photos.labels, dict[str, list[int]]()
        for place, i in enumerate(self._gallery):
            places.setdefault(labels[i], []).append(place)
        groups = {label: np.array(held, dtype=np.int64) for label, held in places.items()}
        own = {i: place for place, i in enumerate(self._gallery)}
        ignored = [
            np.array(sorted(own[j] for j in copies.get(i, (i,)) if j in own), dtype=np.int64) for i in self._queries
        ]
        alike = [groups.get(labels[i], NONE) for i in self._queries]
        return [rows[~np.isin(rows, out)] for rows, out in zip(alike, ignored, strict=True)], ignored

    def _count(self, keys: Sequence[str]) -> list[list[int]]:
        """Photos with the same bytes, by index, counted and named on the terminal, or refused."""
        groups: dict[str, list[int]] = {}
        for i, key in enumerate(keys):
            if key:
                groups.setdefault(key, []).append(i)
        found = [group for group in groups.values() if len(group) > 1]
        labels = [[self._photos.labels[i] for i in group] for group in found]
        copies = sum(len(of) - len(set(of)) for of in labels)
        self.counts = {"copies": copies, "contradictions": sum(len(set(of)) > 1 for of in labels)}
        if not found:
            return found
        by_kind = sorted(zip(found, labels, strict=True), key=lambda pair: len(set(pair[1])) == 1)
        said = [" is ".join(self._photos.photos[i].path for i in group) for group, _ in by_kind[:NAMED]]
        summary = (
            f"{self._photos.source}: {copies} photos are copies of another one of their landmark, "
            f"{self.counts['contradictions']} stand under several landmarks"
        )
        if self.duplicates == "refuse":
            raise InputError(f"{summary}: {', '.join(said)}; accepted: keep or junk in place of refuse, or remove them")
        if ranks.first():
            for line in (f"{summary} (duplicates={self.duplicates})", *(f"  {one}" for one in said)):
                say_once(line)
        return found


class SameLandmark(Labelled):
    """Every photo is a query and finds the photos of its landmark among all the others."""

    def __init__(self, photos: LandmarkPhotos, duplicates: str = "keep") -> None:
        everything = range(len(photos.photos))
        super().__init__(photos, everything, everything, duplicates)


class Folder(SameLandmark):
    """The photos below `root`.

    on_unreadable: what becomes of a photo that cannot be decoded: 'refuse', or 'skip' (left out, named and counted).
    upright: turned as their EXIF data says. verify: decode all of them before anything else; `cache` remembers that.
    duplicates: see `Labelled`.
    """

    def __init__(
        self,
        root: str,
        on_unreadable: str = "refuse",
        upright: bool = True,
        duplicates: str = "keep",
        verify: bool = False,
        cache: str | None = None,
    ) -> None:
        super().__init__(turned(read(root, on_unreadable, verify, cache), upright), duplicates)


class Listed(Labelled):
    """Photos of a CSV file with columns `path`, `landmark` and perhaps `query`.

    Where `query` says yes or no (or true, false, 1, 0), those photos are sought among the others; without that column
    every photo finds its landmark among all the others. root: what paths are below; None is the file's own folder.
    upright: turned as their EXIF data says. duplicates: see `Labelled`.
    """

    def __init__(self, file: str, root: str | None = None, upright: bool = True, duplicates: str = "keep") -> None:
        photos = turned(replace(listed.read(file, root), source=file), upright)
        split = "query" in columns.header(file)
        asks = _answers(file, columns.read(file, ("query",))["query"]) if split else []
        everything = range(len(photos.photos))
        queries = [i for i in everything if asks[i]] if split else everything
        gallery = [i for i in everything if not asks[i]] if split else everything
        super().__init__(photos, queries, gallery, duplicates)


def turned(photos: LandmarkPhotos, upright: bool) -> LandmarkPhotos:
    """The photos turned as their EXIF data says, or as they are stored."""
    flag("upright", upright)
    return replace(photos, photos=[replace(photo, upright=upright) for photo in photos.photos])


def _answers(file: str, texts: Sequence[str]) -> list[bool]:
    for text in set(texts):
        if text.lower() not in ANSWERS:
            raise InputError(f"the column 'query' of {file} must say {', '.join(ANSWERS)}, got {text!r}")
    return [ANSWERS[text.lower()] for text in texts]
