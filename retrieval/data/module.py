"""LightningDataModules: which photos are trained on, which landmarks are held out, in which batches photos come."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np

from retrieval.config import build
from retrieval.data import images, landmarks
from retrieval.data.augment import Augment
from retrieval.data.batching import Batches, Indices, partners
from retrieval.data.folder import LandmarkPhotos, read
from retrieval.data.loading import Loader, TrainingPhotos
from retrieval.errors import InputError, near
from retrieval.features import Features

WHITENED = 10_000  # pairs that a whitening layer is fitted to at the most: 20,000 photos are described
SPLIT_SEED = 0  # the same landmarks are held out whatever the run's seed, so that runs can be compared


class LandmarkData(pl.LightningDataModule):
    """Photos of landmarks, in the batches of a sampler (the `sampler` config).

    photos, pairs, held_out: what there is to train on; (queries, positives) as indices of photos, where a set comes
    with them; photos of other landmarks that may be held out, where a set has such a part. validation: this many
    landmarks are held out whole; the lists of `groups` name landmarks that stand together and stay on one side.
    resolutions: each batch draws one; None: [resolution]. The other arguments are `Augment`'s. `summary` says what
    there is to train on.
    """

    def __init__(
        self,
        photos: LandmarkPhotos,
        seed: int,
        sampler: Mapping[str, Any],
        pairs: tuple[Indices, Indices] | None = None,
        held_out: LandmarkPhotos | None = None,
        validation: int = 0,
        groups: Sequence[Sequence[str]] = (),
        resolution: int = 224,
        resolutions: Sequence[int] | None = None,
        aspect: str = "square",
        bucket: int = 32,
        crop: float = 0.5,
        flip: bool = True,
        jitter: float = 0.2,
        workers: int = 2,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        if sampler.get("_target_") is None:
            raise InputError("sampler=none is for data=gldv2_stream; accepted: sampler=landmarks, balanced or tuples")
        self.augment = Augment(aspect, bucket, crop, flip, jitter, multiple)
        self.resolutions = sides(resolutions if resolutions is not None else [resolution])
        self.resolution, self.workers = max(self.resolutions), int(workers)
        self._split(photos, pairs, held_out, validation, groups)
        names = {name: i for i, name in enumerate(self.train.landmarks)}
        self.labels, self.num_classes = [names[label] for label in self.train.labels], len(names)
        self.sampler = build(sampler, labels=self.labels, seed=seed, pairs=self.pairs)
        self.batches = Batches(self.sampler, self.resolutions, seed)
        self.mine: Callable[[int], None] | None = None
        self.features: Mapping[int, Sequence[Features]] = {}  # see TrainingPhotos

    def _split(
        self,
        photos: LandmarkPhotos,
        pairs: tuple[Indices, Indices] | None,
        held_out: LandmarkPhotos | None,
        validation: int,
        groups: Sequence[Sequence[str]],
    ) -> None:
        others = photos if held_out is None else held_out
        chosen = hold_out(others.landmarks, validation, groups, held_out is None)
        self.validation = others.of(chosen) if chosen else None
        self.train, self.pairs = photos, pairs
        if chosen and held_out is None:
            kept = np.flatnonzero(~np.isin(photos.labels, chosen))
            left = [photos.photos[i] for i in kept], [photos.labels[i] for i in kept]
            self.train = replace(photos, photos=left[0], labels=left[1])
            self.pairs = None if pairs is None else among(pairs, kept, len(photos.photos))
        out = f", {len(chosen)} landmarks held out" if chosen else ""
        skipped = f", {photos.skipped} photos skipped" if photos.skipped else ""
        self.summary = f"{len(self.train.photos)} photos of {len(self.train.landmarks)} landmarks{out}{skipped}"

    def whitening_pairs(self) -> tuple[Indices, Indices]:
        """Pairs of photos to fit a whitening layer to: those of the set, or each photo with another of its landmark."""
        rng = np.random.default_rng(SPLIT_SEED)
        queries, positives = self.pairs or partners(np.asarray(self.labels), rng)
        some = np.sort(rng.permutation(len(queries))[:WHITENED])
        return queries[some], positives[some]

    def train_dataloader(self) -> Loader:
        dataset = TrainingPhotos(self.train, self.labels, self.augment, self.features)
        return Loader(dataset, self.batches, self.workers, self.mine)


class FolderData(LandmarkData):
    """Photos `root/<landmark>/<image>`.

    on_unreadable: what becomes of a photo that cannot be decoded, when a batch has it: 'refuse', or 'skip' (named, and
    another photo of its landmark comes in its place). verify: decode all of them before anything else, so that those
    are left out and counted; `cache` remembers that.
    """

    def __init__(
        self,
        root: str,
        on_unreadable: str = "refuse",
        verify: bool = False,
        cache: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(read(root, on_unreadable, verify, cache), **kwargs)


class EmbeddedData(FolderData):
    """The training part of the embedded landmarks, drawn into `root` if it is not there yet."""

    def __init__(self, root: str, landmarks_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(root=str(landmarks.write(Path(root), landmarks_seed) / "train"), **kwargs)


def sides(resolutions: Sequence[int]) -> list[int]:
    """Whole, positive numbers of pixels, at least one."""
    if (
        not isinstance(resolutions, Sequence)
        or not resolutions
        or not all(type(r) is int and r > 0 for r in resolutions)
    ):
        raise InputError(f"data.resolutions must be a list of positive whole numbers of pixels, got {resolutions}")
    return list(resolutions)


def refuse_sizes(augment: Augment, resolutions: Sequence[int], backbone: Any) -> None:
    """Refuse sizes that the backbone cannot take: the `multiple` of its sides, or its `fixed_size`."""
    multiple, fixed = backbone.multiple, backbone.fixed_size
    if augment.aspect == "native":
        if fixed:
            raise InputError(f"the backbone takes {fixed[0]} x {fixed[1]} only: give data.aspect=square")
        return
    for resolution in resolutions:
        wanted = fixed[0] if fixed else images.nearest(resolution, multiple)
        if resolution != wanted:
            rule = f"{wanted} x {wanted} only" if fixed else f"sides that are multiples of {multiple}"
            raise InputError(f"the backbone takes {rule}, got data.resolution = {resolution}; nearest: {wanted}")


def among(pairs: tuple[Indices, Indices], kept: Indices, count: int) -> tuple[Indices, Indices]:
    """The pairs of which both photos are kept, of `count`, renumbered."""
    place = np.full(count, -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    queries, positives = (place[side] for side in pairs)
    both = (queries >= 0) & (positives >= 0)
    return queries[both], positives[both]


def hold_out(
    names: Sequence[str], count: int, groups: Sequence[Sequence[str]] = (), of_training: bool = True
) -> list[str]:
    """`count` landmarks drawn at random, groups kept together; always the same for the same landmarks.

    of_training: at least two others must be left to train on.
    """
    grouped = [name for group in groups for name in group]
    for name in grouped:
        if name not in names:
            raise InputError(f"data.groups names no landmark of this folder: '{name}': {near(name, names)}")
    if len(set(grouped)) < len(grouped):
        raise InputError("data.groups must name each landmark once")
    units = [list(group) for group in groups] + [[name] for name in names if name not in set(grouped)]
    reached: dict[int, list[str]] = {0: []}
    for i in np.random.default_rng(SPLIT_SEED).permutation(len(units)):
        if count in reached:
            break
        for size, chosen in list(reached.items()):
            if size + len(units[i]) <= count:
                reached.setdefault(size + len(units[i]), chosen + units[i])
    if type(count) is not int or count not in reached or count == 1 or len(names) - count < 2 * of_training:
        left = " and leave 2 to train on" if of_training else ""
        raise InputError(
            f"data.validation must be 0, or at least 2 landmarks{left}, in whole groups; got {count} "
            f"of {len(names)} landmarks in units of {sorted(map(len, units))[:20]}"
        )
    return sorted(reached[count])
