"""An index of photos by their descriptors: built, added to, searched, saved and opened again."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.descriptors import Indices, Rows
from retrieval.embed import Described, Model, describe
from retrieval.errors import InputError
from retrieval.index import files, sources
from retrieval.index.engine import faiss_index
from retrieval.index.sources import LeftOut, Manifest, Source

SEED = 0  # of the rows that an index is trained on
CANDIDATES = 64  # that a graph keeps, at the least
Found = list[tuple[float, str]]


class Index:
    """N photos in an index of faiss, whose row i is of `images[i]`.

    manifest: what made the rows, as of `Described`, and `factory`. model: of photos to come, loaded when first it is
    needed; the manifest says where it lies unless it is given. left_out: what the last `build` or `add` did not take.
    """

    def __init__(
        self, rows: Any, images: Sequence[str], manifest: Manifest, model: Model | str | Path | None = None
    ) -> None:
        self.rows, self.images, self.manifest = rows, list(images), dict(manifest)
        self.given, self.left_out = model, LeftOut()

    @classmethod
    def build(
        cls,
        model: Model | str | Path | None,
        images: Source | Sequence[Source],
        factory: str = "Flat",
        resolution: int | None = None,
        progress: bool = False,
    ) -> "Index":
        """Of photos, folders of photos, and descriptors (which need no model: None).

        factory: any string of which faiss makes an index of inner products. resolution: longer side in pixels at which
        photos are described. Raises InputError where the sources are not of one model and one resolution, where none of
        the photos can be read, or they are too few to train the index.
        """
        described, photos = sources.divided(images)
        manifest = sources.one_manifest([part.manifest for part in described])
        if photos:
            model = sources.model_of(model, manifest)
            many = len(photos) + sum(len(part.images) for part in described)
            faiss_index.check(factory, model.dim, many, "factory")
            size = resolution or (manifest["resolution"] if manifest else None)
            described.append(describe(model, photos, size, progress=progress))
        if not (manifest := sources.one_manifest([part.manifest for part in described])):
            raise InputError("an index must be of at least one photo, none is given")
        rows, paths, left_out = sources.joined(described)
        made_by = manifest["model"]
        said = {"model": os.path.abspath(made_by) if os.path.exists(made_by) else made_by, "factory": factory}
        index = cls(faiss_index.filled(factory, rows, SEED, "factory"), paths, {**manifest, **said}, model)
        index.left_out = left_out
        return index

    @classmethod
    def open(cls, folder: str | Path, model: Model | str | Path | None = None) -> "Index":
        """What `save` wrote, or anyone. model: where it lies now. Raises InputError for a folder that is no index."""
        return cls(*files.read(Path(folder)), model)

    def save(self, folder: str | Path) -> None:
        """Into a new folder, or that which it was opened from; whole, or as if it had not been asked for."""
        self.manifest = files.write(Path(folder), self.rows, self.images, self.manifest)

    def add(self, images: Source | Sequence[Source], progress: bool = False) -> int:
        """How many photos came in; those of a path that is there already stay as they are, and are counted."""
        described, photos = sources.divided(images)
        known = set(self.images)
        if new := [path for path in photos if path not in known]:
            described.append(describe(self.model, new, self.manifest["resolution"], progress=progress))
        sources.one_manifest([self.manifest, *(part.manifest for part in described)])
        self.left_out = LeftOut(len(photos) - len(new))
        if not described:
            return 0
        rows, paths, left_out = sources.joined(described, known)
        faiss_index.add(self.rows, rows)
        self.images += paths
        self.left_out = LeftOut(self.left_out.already + left_out.already, left_out.unreadable)
        return len(paths)

    @property
    def model(self) -> Model:
        """The model that made the rows. Raises InputError for another one."""
        self.given = model = sources.model_of(self.given, self.manifest)
        return model

    def search(self, photo: str | Path | Rows, k: int = 10) -> Found:
        """Score and path of the k photos that are nearest to a photo, or to a row (d,), best first."""
        rows = photo if isinstance(photo, np.ndarray) else self.describe([photo]).rows
        return self.nearest(np.atleast_2d(rows), k)[0]

    def describe(self, photos: Sequence[str | Path], progress: bool = False) -> Described:
        """Photos as the index's own are."""
        return describe(self.model, photos, self.manifest["resolution"], progress=progress)

    def nearest(self, rows: Rows, k: int = 10) -> list[Found]:
        """`search` for each row (n, d), of equal scores the photo that came in first; fewer than k where all are found.

        An inverted file looks into 16 of its clusters.
        """
        if type(k) is not int or k < 1:
            raise InputError(f"k must be a whole number from 1, got {k!r}")
        if rows.ndim != 2 or rows.shape[1] != self.rows.d:
            raise InputError(f"rows must be (n, {self.rows.d}), as those of the index, got {rows.shape}")
        scores, at = self._nearest(rows, min(k, len(self.images)))
        return [
            [(float(score), self.images[i]) for score, i in zip(*row, strict=True) if i >= 0]
            for row in zip(scores, at, strict=True)
        ]

    def _nearest(self, rows: Rows, k: int) -> tuple[Rows, Indices]:
        # faiss gives any of equals: where they stand on both sides of the edge, all of them are asked for.
        wide = k
        while True:
            wide = min(2 * wide, len(self.images))
            faiss_index.tune(self.rows, faiss_index.PROBED, max(CANDIDATES, wide))
            scores, at = faiss_index.nearest(self.rows, rows, wide)
            torn = (scores[:, k - 1] == scores[:, -1]) & (at[:, k - 1] >= 0)
            if wide == len(self.images) or not torn.any():
                return scores[:, :k], at[:, :k]
