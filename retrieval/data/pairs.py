"""Sets of photos that a whitening is fitted to, and the pairs among them that show one landmark."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from retrieval.data import files, sfm, truth
from retrieval.data.batching import Indices
from retrieval.data.folder import read
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
    random: as many pairs as photos, the same ones for the same seed.
    """

    def __init__(self, root: str, seed: int = 0, on_unreadable: str = "refuse") -> None:
        found = read(root, on_unreadable)
        self.photos = found.photos
        self.queries = np.arange(len(self.photos))
        self.positives = others(found.labels, int(seed))
        self.name = f"folder {Path(root).name} ({told(self)})"


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
