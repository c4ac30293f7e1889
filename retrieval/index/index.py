"""An index of photos by their descriptors: built, added to, removed from, searched, saved and opened again."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.data.contents import Content
from retrieval.descriptors import Indices, Rows
from retrieval.embed import Described, Model, describe
from retrieval.errors import InputError
from retrieval.index import files, sources
from retrieval.index.engine import faiss_index
from retrieval.index.sources import LeftOut, Manifest, Source

SEED = 0  # of the rows that an index is trained on
CANDIDATES = 64  # that a graph keeps, at the least
NAMED = 3  # paths in a message
Found = list[tuple[float, str]]


class Index:
    """N photos in an index of faiss, whose row i is of `images[i]`.

    manifest: what made the rows, as of `Described`, and `factory`. model: of photos to come, loaded when first it is
    needed; the manifest says where it lies unless it is given. contents: of the images' files when they were described,
    by path, where they are known. left_out: what the last `build` or `add` did not take; renewed: how many photos it
    described again, as their files' bytes had changed.
    """

    def __init__(
        self,
        rows: Any,
        images: Sequence[str],
        manifest: Manifest,
        contents: Mapping[str, Content] | None = None,
        model: Model | str | Path | None = None,
    ) -> None:
        self.rows, self.images, self.manifest = rows, list(images), dict(manifest)
        self.contents, self.given, self.left_out, self.renewed = dict(contents or {}), model, LeftOut(), 0

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
        joined = sources.joined(described)
        made_by = manifest["model"]
        said = {"model": os.path.abspath(made_by) if os.path.exists(made_by) else made_by, "factory": factory}
        rows = faiss_index.filled(factory, joined.rows, SEED, "factory")
        index = cls(rows, joined.images, {**manifest, **said}, joined.contents, model)
        index.left_out = LeftOut(joined.already, [one for part in described for one in part.unreadable])
        return index

    @classmethod
    def open(cls, folder: str | Path, model: Model | str | Path | None = None) -> "Index":
        """What `save` wrote, or anyone. model: where it lies now. Raises InputError for a folder that is no index."""
        return cls(*files.read(Path(folder)), model)

    def save(self, folder: str | Path) -> None:
        """Into a new folder, or that which it was opened from; whole, or as if it had not been asked for."""
        self.manifest = files.write(Path(folder), self.rows, self.images, self.manifest, self.contents)

    def add(self, images: Source | Sequence[Source], progress: bool = False) -> int:
        """How many photos came in. Those of a path that is there already stay as they are, and are counted; where the
        bytes of their files have changed they are renewed.

        Raises InputError where one has changed and the index is of a kind whose rows cannot be removed.
        """
        described, photos = sources.divided(images)
        sources.one_manifest([self.manifest, *(part.manifest for part in described)])
        held = set(self.images)
        again = sources.compared([path for path in photos if path in held], self.contents)
        stale = {*again.changed, *held.intersection(sources.joined(described, held, self.contents).images)}
        self._refuse_fixed(stale, "have changed since they were added")
        if new := [path for path in photos if path not in held or path in again.changed]:
            described.append(describe(self.model, new, self.manifest["resolution"], progress=progress))
            sources.one_manifest([self.manifest, described[-1].manifest])
        joined = sources.joined(described, held, self.contents)
        unreadable = [*again.gone, *(one for part in described for one in part.unreadable)]
        renewed = held.intersection(joined.images)
        self._drop(renewed | {one["path"] for one in unreadable if one["path"] in again.changed})
        faiss_index.add(self.rows, joined.rows)
        self.images = [*self.images, *joined.images]
        self.contents = {**self.contents, **again.same, **joined.contents}
        already = len(photos) - len(new) - len(again.gone) + joined.already
        self.left_out, self.renewed = LeftOut(already, unreadable, again.unhashed + joined.unhashed), len(renewed)
        return len(joined.images) - len(renewed)

    def remove(self, paths: Iterable[str | Path]) -> int:
        """How many photos went out: those of the paths, and those below the paths that are folders, there or not.

        Raises InputError, and removes nothing, where a path is of no photo of the index, where no photo would be left,
        or the index is of a kind whose rows cannot be removed.
        """
        wanted = {os.path.abspath(path) for path in paths}
        self._refuse_fixed(wanted, "are to be removed")
        removed: set[str] = set()
        known: set[str] = set()
        for path in self.images:
            if named := wanted.intersection(_above(path)):
                removed.add(path)
                known |= named
        if unknown := sorted(wanted - known):
            said = f"{len(unknown)} of {len(wanted)} paths are not in the index: {', '.join(unknown[:NAMED])}"
            raise InputError(f"{said}; nothing is removed")
        if len(removed) == len(self.images):
            raise InputError(f"these are all {len(removed)} photos of the index: remove its folder, or name fewer")
        self._drop(removed)
        return len(removed)

    def missing(self) -> list[str]:
        """Paths of the photos whose files are gone."""
        return [path for path in self.images if not os.path.isfile(path)]

    def _drop(self, paths: Collection[str]) -> None:
        if not paths:
            return
        faiss_index.remove(self.rows, np.flatnonzero([path in paths for path in self.images]))
        self.images = [path for path in self.images if path not in paths]
        self.contents = {path: one for path, one in self.contents.items() if path not in paths}

    def _refuse_fixed(self, paths: Collection[str], why: str) -> None:
        if paths and not faiss_index.removable(self.rows):
            raise InputError(
                f"{len(paths)} photos {why} (the first is {min(paths)}), and no rows can be removed from "
                f"{self.manifest['factory']}: build the index again; they can be from Flat, SQ8, PQ and IVF"
            )

    @property
    def model(self) -> Model:
        """The model that made the rows. Raises InputError for another one."""
        self.given = model = sources.model_of(self.given, self.manifest)
        return model

    def search(self, photo: str | Path | Rows, k: int = 10, exclude_self: bool = False) -> Found:
        """Score and path of the k photos that are nearest to a photo, or to a row (d,), best first.

        exclude_self: see `nearest_others`.
        """
        if not isinstance(photo, np.ndarray):
            query = self.describe([photo])
            return (self.nearest_others(query, k) if exclude_self else self.nearest(query.rows, k))[0]
        if exclude_self:
            raise InputError("exclude_self needs a photo: a row has no path and no bytes by which to know it")
        return self.nearest(np.atleast_2d(photo), k)[0]

    def describe(self, photos: Sequence[str | Path], progress: bool = False) -> Described:
        """Photos as the index's own are."""
        return describe(self.model, photos, self.manifest["resolution"], progress=progress)

    def nearest(self, rows: Rows, k: int = 10) -> list[Found]:
        """`search` for each row (n, d), of equal scores the photo that came in first; fewer than k where all are found.

        An inverted file looks into 16 of its clusters.
        """
        _refuse_count(k)
        if rows.ndim != 2 or rows.shape[1] != self.rows.d:
            raise InputError(f"rows must be (n, {self.rows.d}), as those of the index, got {rows.shape}")
        scores, at = self._nearest(rows, min(k, len(self.images)))
        return [
            [(max(-1.0, float(score)), self.images[i]) for score, i in zip(*row, strict=True) if i >= 0]
            for row in zip(scores, at, strict=True)
        ]

    def nearest_others(self, queries: Described, k: int = 10) -> list[Found]:
        """`nearest` of photos without themselves: without photos of a query's path, and copies of its bytes."""
        _refuse_count(k)
        others: list[Found] = [[] for _ in queries.images]
        left, wide = list(range(len(others))), k + 1
        while left:
            found = self.nearest(queries.rows[left], wide)
            for i, of_query in zip(left, found, strict=True):
                others[i] = [one for one in of_query if not self._is(one[1], queries, i)][:k]
            left = [i for i, of_query in zip(left, found, strict=True) if len(others[i]) < k and len(of_query) == wide]
            wide *= 2
        return others

    def _is(self, path: str, queries: Described, i: int) -> bool:
        query, held, asked = queries.images[i], self.contents.get(path), queries.contents.get(queries.images[i])
        copy = held is not None and asked is not None and held.hash == asked.hash
        return copy or path == query or os.path.realpath(path) == os.path.realpath(query)

    def _nearest(self, rows: Rows, k: int) -> tuple[Rows, Indices]:
        # faiss gives any of equals: where they stand on both sides of the edge, all of them are asked for.
        wide = k
        while True:
            wide = min(2 * wide, len(self.images))
            faiss_index.tune(self.rows, faiss_index.PROBED, max(CANDIDATES, wide))
            scores, at = faiss_index.nearest(self.rows, rows, wide)
            scores = np.minimum(scores, 1)  # rounding, and codes, make cosines larger
            order = np.lexsort((at, -scores), axis=-1)
            scores, at = np.take_along_axis(scores, order, 1), np.take_along_axis(at, order, 1)
            torn = (scores[:, k - 1] == scores[:, -1]) & (at[:, k - 1] >= 0)
            if wide == len(self.images) or not torn.any():
                return scores[:, :k], at[:, :k]


def _refuse_count(k: int) -> None:
    if type(k) is not int or k < 1:
        raise InputError(f"k must be a whole number from 1, got {k!r}")


def _above(path: str) -> Iterator[str]:
    """The path and every folder that it lies in."""
    yield path
    while (above := os.path.dirname(path)) != path:
        yield (path := above)
