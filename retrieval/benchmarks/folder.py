"""Labelled photos of one's own: a folder `<landmark>/<image>`, or a CSV file of paths and landmarks."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval import metrics
from retrieval.benchmarks.ranked import NONE, Ranked
from retrieval.config import InputError
from retrieval.data import columns, files
from retrieval.data.folder import LandmarkPhotos, read
from retrieval.data.images import Photo

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
            convention={"upright": True},
            skipped=photos.skipped,
        )


class SameLandmark(Labelled):
    """Every photo is a query and finds the photos of its landmark among all the others."""

    def __init__(self, photos: LandmarkPhotos) -> None:
        everything = range(len(photos.photos))
        super().__init__(photos, everything, everything)


class Folder(SameLandmark):
    """The photos below `root`. on_unreadable: 'refuse', or 'skip' (left out and counted)."""

    def __init__(self, root: str, on_unreadable: str = "refuse") -> None:
        super().__init__(read(root, on_unreadable))


class Listed(Labelled):
    """Photos of a CSV file with columns `path`, `landmark` and perhaps `query`.

    Where `query` says yes or no (or true, false, 1, 0), those photos are sought among the others; without that column
    every photo finds its landmark among all the others. root: what paths are below; None is the file's own folder.
    """

    def __init__(self, file: str, root: str | None = None) -> None:
        split = "query" in columns.header(file)
        table = columns.read(file, ("path", "landmark", *(("query",) if split else ())))
        folder = Path(file).parent if root is None else Path(root)
        photos = LandmarkPhotos([Photo(files.named(folder, name)) for name in table["path"]], table["landmark"])
        if "" in photos.labels:
            raise InputError(
                f"every photo of {file} must have a landmark, {table['path'][photos.labels.index('')]} has none"
            )
        if len(set(photos.photos)) < len(photos.photos):
            raise InputError(f"a photo may stand in {file} once, {_twice(table['path'])} stands there twice")
        files.present(photos.photos)
        asks = _answers(file, table["query"]) if split else []
        everything = range(len(photos.photos))
        queries = [i for i in everything if asks[i]] if split else everything
        super().__init__(photos, queries, [i for i in everything if not asks[i]] if split else everything)


def _twice(names: Sequence[str]) -> str:
    return next(name for name, count in Counter(names).items() if count > 1)


def _answers(file: str, texts: Sequence[str]) -> list[bool]:
    for text in set(texts):
        if text.lower() not in ANSWERS:
            raise InputError(f"the column 'query' of {file} must say {', '.join(ANSWERS)}, got {text!r}")
    return [ANSWERS[text.lower()] for text in texts]
