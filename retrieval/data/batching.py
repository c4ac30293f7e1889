"""Which photos go together: landmarks x photos, single photos or tuples for training, equal shapes for extraction."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from retrieval import processes
from retrieval.errors import InputError

Indices = NDArray[np.int64]
Unit = list[int]  # photos that stay on one process


class Draw(NamedTuple):
    """A photo of a batch: its index, the seed of its augmentation, the resolution of its batch."""

    index: int
    seed: int
    resolution: int


class LandmarkBatches:
    """P landmarks x K photos a batch; an epoch is as many batches as hold all photos once.

    Landmarks come in shuffled rounds, equally often; so do the photos of each. labels: the landmark of each photo.
    """

    tuple_size: int | None = None

    def __init__(self, labels: Sequence[int], seed: int, landmarks: int = 8, photos: int = 4) -> None:
        if photos < 2 or landmarks < 2:
            raise InputError(
                f"a batch needs at least 2 landmarks x 2 photos, got sampler.landmarks = {landmarks}, "
                f"sampler.photos = {photos}"
            )
        self._draw_from(labels, seed, landmarks, photos, "sampler.landmarks")
        if landmarks > len(self.members):
            largest = len(self.members) - len(self.members) % processes.world_size()
            raise InputError(
                f"sampler.landmarks = {landmarks} is more than the {len(self.members)} landmarks there are to train "
                f"on: the largest accepted is sampler.landmarks={largest}"
            )

    def _draw_from(self, labels: Sequence[int], seed: int, landmarks: int, photos: int, key: str) -> None:
        self.members, self.seed, self.landmarks, self.photos = members(labels), seed, landmarks, photos
        self.batches = math.ceil(len(labels) / (landmarks * photos))
        processes.part(range(landmarks), key)

    def __len__(self) -> int:
        return self.batches

    def units(self, epoch: int) -> Iterator[list[Unit]]:
        """The batches of an epoch, each of `landmarks` units of `photos` indices."""
        rng = np.random.default_rng([self.seed, epoch])
        landmarks = Rounds(range(len(self.members)), rng)
        photos: dict[int, Rounds] = {}
        for _ in range(self.batches):
            chosen = landmarks.take(self.landmarks)
            for c in chosen:
                if c not in photos:
                    photos[c] = Rounds(self.members[c].tolist(), rng)
            yield [photos[c].take(self.photos) for c in chosen]


class BalancedBatches(LandmarkBatches):
    """`size` photos a batch of as many landmarks: landmarks with few photos come as often as those with many."""

    def __init__(self, labels: Sequence[int], seed: int, size: int = 64) -> None:
        if size < 2:
            raise InputError(f"a batch needs at least 2 photos, got sampler.size = {size}")
        self._draw_from(labels, seed, size, 1, "sampler.size")


class TupleBatches:
    """`tuples` tuples (query, positive, `negatives` hard negatives) a batch, mined anew for every epoch.

    An epoch takes `queries` of the pairs at random, and looks for negatives in `pool` photos at random (Radenovic et
    al., TPAMI 2019). pairs: queries and their positives, by index; None makes one of each photo and another of its
    landmark, drawn anew for every epoch. Which photos are hard is not known here: see `retrieval.mining`.
    """

    def __init__(
        self,
        labels: Sequence[int],
        seed: int,
        pairs: tuple[Indices, Indices] | None = None,
        queries: int = 2000,
        pool: int = 22000,
        negatives: int = 5,
        tuples: int = 5,
    ) -> None:
        if min(queries, pool, negatives, tuples) < 1:
            raise InputError(
                "a batch of tuples needs sampler.queries, pool, negatives and tuples of at least 1, got "
                f"{queries}, {pool}, {negatives} and {tuples}"
            )
        self.labels, self.seed, self.pairs = np.asarray(labels, dtype=np.int64), seed, pairs
        self.pool, self.negatives, self.tuples = min(pool, len(labels)), negatives, tuples
        self.tuple_size = 2 + negatives
        self.batches = min(queries, len(self.pairs_of(0)[0])) // tuples
        processes.part(range(tuples), "sampler.tuples")
        if not self.batches:
            pairs_drawn = min(queries, len(self.pairs_of(0)[0]))
            raise InputError(f"sampler.tuples = {tuples} is more than the {pairs_drawn} pairs that an epoch draws")
        if (clusters := len(np.unique(self.labels))) <= negatives:
            raise InputError(
                f"sampler.negatives = {negatives} of other landmarks each need {negatives + 1} landmarks to train on, "
                f"there are {clusters}: the largest accepted is sampler.negatives={clusters - 1}"
            )
        self.mined_for: tuple[int, Indices] | None = None  # an epoch and its tuples (queries, 2 + negatives)

    def __len__(self) -> int:
        return self.batches

    def pairs_of(self, epoch: int) -> tuple[Indices, Indices]:
        """Queries and positives that the epoch may draw from."""
        return self.pairs or partners(self.labels, np.random.default_rng([self.seed, epoch, 1]))

    def chosen(self, epoch: int) -> tuple[Indices, Indices, Indices]:
        """Queries (q,), their positives (q,) and the pool (m,) of an epoch, as indices of photos."""
        rng = np.random.default_rng([self.seed, epoch])
        queries, positives = self.pairs_of(epoch)
        drawn = rng.permutation(len(queries))[: self.batches * self.tuples]
        return queries[drawn], positives[drawn], rng.permutation(len(self.labels))[: self.pool]

    def units(self, epoch: int) -> Iterator[list[Unit]]:
        """The batches of an epoch that was mined, each of `tuples` units."""
        if self.mined_for is None or self.mined_for[0] != epoch:
            raise ValueError(f"epoch {epoch} has no tuples yet, mined is {self.mined_for and self.mined_for[0]}")
        rows = self.mined_for[1].tolist()
        yield from (rows[i : i + self.tuples] for i in range(0, len(rows), self.tuples))


class Batches(Sampler[list[Draw]]):
    """This process's part of a sampler's batches, whole units of each, from `start` = (epoch, position) on.

    A batch has one of `resolutions`, and each photo a seed of its own; both follow from seed, epoch and position alone,
    so neither the workers, nor the processes, nor what ran before changes a pixel.
    """

    def __init__(self, sampler: Any, resolutions: Sequence[int], seed: int) -> None:
        self.sampler, self.resolutions, self.seed, self.start = sampler, list(resolutions), seed, (0, 0)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, first = self.start
        for position, units in enumerate(self.sampler.units(epoch)):
            if position < first:
                continue
            rng = np.random.default_rng([self.seed, epoch, position])
            resolution = int(rng.choice(self.resolutions))
            seeds = iter(rng.integers(2**31, size=sum(map(len, units))).tolist())
            drawn = [[Draw(index, next(seeds), resolution) for index in unit] for unit in units]
            yield [draw for unit in processes.part(drawn, "a batch") for draw in unit]


def members(labels: Sequence[int] | Indices) -> list[Indices]:
    """The photos of each label 0, 1, ..., in one pass: there may be 81,313 labels."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels))[:-1])


def partners(labels: Indices, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Every photo whose label stands twice or more, in shuffled order within labels, and another one of that label."""
    groups = [rng.permutation(group) for group in members(labels) if len(group) > 1]
    if not groups:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate(groups), np.concatenate([np.roll(group, 1) for group in groups])


class Rounds:
    """The items in shuffled order, over and over; what clashes with the same taking waits for the next one."""

    def __init__(self, items: Sequence[int], rng: np.random.Generator) -> None:
        self.items, self.rng, self.waiting = items, rng, deque[int]()

    def take(self, count: int) -> list[int]:
        """The next `count` items, none twice unless there are fewer."""
        taken: list[int] = []
        clashes: list[int] = []
        while len(taken) < count:
            self.waiting = self.waiting or deque(int(item) for item in self.rng.permutation(self.items))
            item = self.waiting.popleft()
            (clashes if item in taken and len(set(taken)) < len(self.items) else taken).append(item)
        self.waiting.extendleft(reversed(clashes))
        return taken
