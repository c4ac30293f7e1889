"""Labelled photos of one's own: a folder `<landmark>/<image>`, or a CSV file of paths and landmarks."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from retrieval import metrics
from retrieval.benchmarks.ranked import NONE, Ranked
from retrieval.data import columns, listed
from retrieval.data.folder import LandmarkPhotos, read
from retrieval.errors import InputError, flag

ANSWERS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Labelled(Ranked):
    """Queries find the photos of their landmark; one that is in the gallery too is taken out of its own ranking.

    queries, gallery: indices into the photos.
    """

    def __init__(self, photos: LandmarkPhotos, queries: Sequence[int], gallery: Sequence[int]) -> None:
        places: dict[str, list[int]] = {}
        for place, i in enumerate(gallery):
            places.setdefault(photos.labels[i], []).append(place)
        groups = {label: np.array(held, dtype=np.int64) for label, held in places.items()}
        own = dict(zip(gallery, range(len(gallery)), strict=True))
        alike = [groups.get(photos.labels[i], NONE) for i in queries]
        relevant = [rows[rows != own.get(i, -1)] for i, rows in zip(queries, alike, strict=True)]
        ignored = [np.array([own[i]]) if i in own else NONE for i in queries]
        super().__init__(
            queries=[photos.photos[i] for i in queries],
            gallery=[photos.photos[i] for i in gallery],
            landmarks=[photos.labels[i] for i in queries],
            levels={"": (relevant, ignored)},
            measures=metrics.labelled(),
            convention={"upright": all(photo.upright for photo in photos.photos)},
            skipped=photos.skipped,
        )


class SameLandmark(Labelled):
    """Every photo is a query and finds the photos of its landmark among all the others."""

    def __init__(self, photos: LandmarkPhotos) -> None:
        everything = range(len(photos.photos))
        super().__init__(photos, everything, everything)


class Folder(SameLandmark):
    """The photos below `root`. on_unreadable: 'refuse', or 'skip' (left out and counted). upright: turned as their EXIF
    data says."""

    def __init__(self, root: str, on_unreadable: str = "refuse", upright: bool = True) -> None:
        super().__init__(turned(read(root, on_unreadable), upright))


class Listed(Labelled):
    """Photos of a CSV file with columns `path`, `landmark` and perhaps `query`.

    Where `query` says yes or no (or true, false, 1, 0), those photos are sought among the others; without that column
    every photo finds its landmark among all the others. root: what paths are below; None is the file's own folder.
    upright: turned as their EXIF data says.
    """

    def __init__(self, file: str, root: str | None = None, upright: bool = True) -> None:
        photos = turned(listed.read(file, root), upright)
        split = "query" in columns.header(file)
        asks = _answers(file, columns.read(file, ("query",))["query"]) if split else []
        everything = range(len(photos.photos))
        queries = [i for i in everything if asks[i]] if split else everything
        gallery = [i for i in everything if not asks[i]] if split else everything
        super().__init__(photos, queries, gallery)


def turned(photos: LandmarkPhotos, upright: bool) -> LandmarkPhotos:
    """The photos turned as their EXIF data says, or as they are stored."""
    flag("upright", upright)
    return replace(photos, photos=[replace(photo, upright=upright) for photo in photos.photos])


def _answers(file: str, texts: Sequence[str]) -> list[bool]:
    for text in set(texts):
        if text.lower() not in ANSWERS:
            raise InputError(f"the column 'query' of {file} must say {', '.join(ANSWERS)}, got {text!r}")
    return [ANSWERS[text.lower()] for text in texts]
