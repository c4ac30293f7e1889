"""Which photos go together: landmarks x photos for training, equal shapes for extraction."""

import math
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from retrieval.config import InputError

Draw = tuple[int, int]  # a photo's index and the seed of its augmentation


class LandmarkBatches(Sampler[list[Draw]]):
    """P landmarks x K photos a batch; an epoch is as many batches as hold all photos once.

    Landmarks come in shuffled rounds, equally often; so do the photos of each. Photos come with a seed of their own,
    so that augmentation depends neither on the number of workers nor on what ran before.
    """

    def __init__(self, labels: Sequence[int], landmarks: int, photos: int, seed: int) -> None:
        self.members = [np.flatnonzero(np.asarray(labels) == label) for label in range(max(labels) + 1)]
        if photos < 2 or landmarks < 2:
            raise InputError(
                f"a batch needs at least 2 landmarks x 2 photos, got data.landmarks_per_batch = {landmarks}, "
                f"data.photos_per_landmark = {photos}"
            )
        if landmarks > len(self.members):
            raise InputError(
                f"data.landmarks_per_batch = {landmarks} is more than the {len(self.members)} landmarks there are "
                "to train on"
            )
        self.landmarks, self.photos, self.seed, self.epoch = landmarks, photos, seed, 0
        self.batches = math.ceil(len(labels) / (landmarks * photos))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        landmarks = Rounds(range(len(self.members)), rng)
        photos = [Rounds(members.tolist(), rng) for members in self.members]
        for _ in range(self.batches):
            chosen = [index for c in landmarks.take(self.landmarks) for index in photos[c].take(self.photos)]
            yield [(index, int(rng.integers(2**31))) for index in chosen]


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


def by_shape(shapes: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """Batches of indices of equal shape, at most `batch_size` each, in a fixed order."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, shape in enumerate(shapes):
        groups[shape].append(index)
    return [group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)]


def by_size(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Batches of indices of sizes that differ little, in a fixed order: sorted by width, then height, and cut."""
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
