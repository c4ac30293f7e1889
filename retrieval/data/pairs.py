"""Sets of photos that a whitening is fitted to, and the pairs among them that show one landmark."""

import copy
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from retrieval.data import files, sfm, truth
from retrieval.data.batching import Indices
from retrieval.data.folder import LandmarkPhotos, read
from retrieval.data.images import Photo
from retrieval.errors import InputError
from retrieval.subjects import digest


class Pairs(Protocol):
    """`queries[i]` and `positives[i]`, rows of `photos`, show one landmark; `name` is for result rows."""

    name: str
    photos: list[Photo]
    queries: Indices
    positives: Indices


class FolderPairs:
    """The photos of `root/<landmark>/<image>`; each is a query once, with one other photo of its landmark drawn at
    random: as many pairs as photos, the same ones for the same seed. on_unreadable: what becomes of a photo that cannot
    be decoded: 'refuse', or 'skip' (left out).
    """

    def __init__(self, root: str, seed: int = 0, on_unreadable: str = "refuse") -> None:
        self._pair(read(root, on_unreadable), root, int(seed))

    def _pair(self, found: LandmarkPhotos, root: str, seed: int) -> None:
        self._of, self.may_skip, self.photos = (found, root, seed), found.may_skip, found.photos
        self.queries = np.arange(len(self.photos))
        self.positives = others(found.labels, seed)
        self.name = f"folder {Path(root).name} ({told(self)})"

    def without(self, paths: Collection[str]) -> Self:
        """The same set of photos without these files, paired anew."""
        found, root, seed = self._of
        left = copy.copy(self)
        left._pair(found.without([photo.path for photo in found.photos if photo.path in paths]), root, seed)
        return left


def told(pairs: Pairs) -> str:
    """How many photos there are, and a short hash of which they are and how they are paired."""
    listed = [(*Path(photo.path).parts[-2:], Path(photo.path).stat().st_size) for photo in pairs.photos]
    return f"{len(listed)} photos, {digest([listed, pairs.queries.tolist(), pairs.positives.tolist()])[:6]}"


def others(labels: Sequence[str], seed: int) -> Indices:
    """(N,): for each item another one of the same label, drawn at random; each label must stand twice or more."""
    rng, chosen = np.random.default_rng(seed), np.empty(len(labels), dtype=np.int64)
    held = np.asarray(labels)
    for label in np.unique(held):
        same = np.flatnonzero(held == label)
        steps = rng.integers(1, len(same), len(same))  # never back to the item itself
        chosen[same] = same[(np.arange(len(same)) + steps) % len(same)]
    return chosen


FETCHED = "train.py with data=sfm120k data.download=true fetches both into data.root/sfm120k"


class SfM120kWhitening:
    """The photos and pairs on which Radenovic et al. (TPAMI 2019) learn their whitening.

    root: a folder with `retrieval-SfM-120k-whiten.pkl` (`cids`, `qidxs`, `pidxs`) and the photos in `ims/`.
    """

    def __init__(self, root: str) -> None:
        file = Path(root) / "retrieval-SfM-120k-whiten.pkl"
        if not file.is_file():
            raise InputError(
                f"no {file.name} in {root}: expected are that file and ims/ of retrieval-SfM-120k; {FETCHED}"
            )
        stored = truth.read(file)
        if missing := [key for key in ("cids", "qidxs", "pidxs") if key not in stored]:
            raise InputError(f"{file} must hold cids, qidxs and pidxs, it lacks {', '.join(missing)}")
        self.photos = sfm.located(Path(root) / "ims", stored["cids"], str(file))
        files.present(self.photos, sfm.WHERE.format(folder=root, truth=file.name, advice=FETCHED))
        self.queries, self.positives = sfm.paired(stored, len(self.photos), str(file))
        self.name = f"retrieval-SfM-120k ({told(self)})"
