"""Training photos, decoded and put into batches by worker processes."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retrieval.data import images, tensors
from retrieval.data.augment import Augment
from retrieval.data.batching import Batches, Draw, TupleBatches
from retrieval.data.folder import LandmarkPhotos
from retrieval.features import Features
from retrieval.stopping import unheeding


class TrainingBatch(NamedTuple):
    """pixels: tensors (b, 3, H, W) uint8, each of photos of one shape, or what a frozen backbone gives for them. order
    (B,): the place in the batch of each photo of these, one after the other. labels (B,) and paths are in the batch's
    order."""

    pixels: list[Tensor] | list[Features]
    order: Tensor
    labels: Tensor
    paths: list[str]


class TrainingPhotos(Dataset[tuple[Tensor | Features, int, str]]):
    """A draw -> a photo (3, H, W) uint8, its landmark and its path; the same draw gives the same pixels.

    features: what a frozen backbone gives for each photo, by resolution, to be had in its place.
    """

    def __init__(
        self,
        photos: LandmarkPhotos,
        labels: Sequence[int],
        augment: Augment,
        features: Mapping[int, Sequence[Features]] = MappingProxyType({}),
    ) -> None:
        self.photos, self.labels, self.augment, self.features = photos.photos, labels, augment, features

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, draw: Draw) -> tuple[Tensor | Features, int, str]:
        photo = self.photos[draw.index]
        if self.features:
            return self.features[draw.resolution][draw.index], self.labels[draw.index], photo.path
        side = math.ceil(draw.resolution / self.augment.crop)  # a crop of this share is no smaller
        changed = self.augment(images.decode(photo, target=(side, side)), draw.resolution, draw.seed)
        return tensors.to_bytes(changed), self.labels[draw.index], photo.path


class Loader(DataLoader[TrainingBatch]):
    """The batches of one epoch after another. It knows which one it gave last, so a run that was killed goes on with
    the next.

    mine: called with the number of an epoch before its first batch.
    """

    def __init__(
        self, dataset: Dataset, batches: Batches, workers: int, mine: Callable[[int], None] | None = None
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batches,  # pyright: ignore[reportArgumentType]
            collate_fn=collated,
            num_workers=workers,
            worker_init_fn=unheeding,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its seeds are not to be drawn from those of the network
        )
        self.batches, self.mine, self.epoch, self.position = batches, mine, 0, 0

    def __iter__(self) -> Iterator[TrainingBatch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        if self.mine is not None and self.position == 0:
            self.mine(self.epoch)
        self.batches.start = self.epoch, self.position
        for batch in super().__iter__():
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, and the tuples of this epoch."""
        sampler = self.batches.sampler
        mined = sampler.mined_for if isinstance(sampler, TupleBatches) else None
        tuples = None if mined is None else torch.from_numpy(mined[1])
        return {"epoch": self.epoch, "position": self.position, "tuples": tuples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        if state["tuples"] is not None:
            self.batches.sampler.mined_for = self.epoch, state["tuples"].numpy()


def collated(items: Sequence[tuple[Tensor | Features, int, str]]) -> TrainingBatch:
    """Photos of one shape together, channels last in memory."""
    places: dict[torch.Size, list[int]] = defaultdict(list)
    for place, (photo, _, _) in enumerate(items):
        places[photo.patches.shape if isinstance(photo, Features) else photo.shape].append(place)
    pixels: Any = [together([items[i][0] for i in group]) for group in places.values()]
    order = torch.tensor([place for group in places.values() for place in group])
    return TrainingBatch(pixels, order, torch.tensor([label for _, label, _ in items]), [path for _, _, path in items])


def together(photos: Sequence[Any]) -> Tensor | Features:
    """Photos (3, H, W) of one shape as one tensor, or the features of several as one."""
    if isinstance(photos[0], Features):
        return Features(torch.cat([one.patches for one in photos]), torch.cat([one.prefix for one in photos]))
    return torch.stack([photo.permute(1, 2, 0) for photo in photos]).permute(0, 3, 1, 2)
