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
from retrieval.data.images import Photo, UnreadablePhoto
from retrieval.data.snapshot import say_once
from retrieval.features import Features
from retrieval.stopping import unheeding


class TrainingBatch(NamedTuple):
    """pixels: tensors (b, 3, H, W) uint8, each of photos of one shape, or what a frozen backbone gives for them. order
    (B,): the place in the batch of each photo of these, one after the other. labels (B,) and paths are in the batch's
    order. faults: what is wrong with photos that others stand in for; no pixels where none can."""

    pixels: list[Tensor] | list[Features]
    order: Tensor
    labels: Tensor
    paths: list[str]
    faults: list[str]


class Drawn(NamedTuple):
    """A photo (3, H, W) uint8 or its features, None where there is none; its landmark, its path, and what is wrong with
    those in whose place it came."""

    pixels: Tensor | Features | None
    label: int
    path: str
    faults: list[str]


class TrainingPhotos(Dataset[Drawn]):
    """A draw -> a photo; the same draw gives the same pixels.

    In place of a photo that cannot be decoded and may be skipped comes the next one of its landmark. features: what a
    frozen backbone gives for each photo, by resolution, to be had in its place.
    """

    def __init__(
        self,
        photos: LandmarkPhotos,
        labels: Sequence[int],
        augment: Augment,
        features: Mapping[int, Sequence[Features]] = MappingProxyType({}),
    ) -> None:
        self.photos, self.labels, self.augment, self.features = photos.photos, labels, augment, features
        self.may_skip = photos.may_skip

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, draw: Draw) -> Drawn:
        label, faults = self.labels[draw.index], list[str]()
        if self.features:
            return Drawn(self.features[draw.resolution][draw.index], label, self.photos[draw.index].path, faults)
        side = math.ceil(draw.resolution / self.augment.crop)  # a crop of this share is no smaller
        for photo in self._stand_ins(draw.index):
            try:
                rgb = images.decode(photo, target=(side, side))
            except UnreadablePhoto as error:
                faults.append(str(error))
                continue
            changed = self.augment(rgb, draw.resolution, draw.seed)
            return Drawn(tensors.to_bytes(changed), label, photo.path, faults)
        return Drawn(None, label, self.photos[draw.index].path, faults)

    def _stand_ins(self, index: int) -> Iterator[Photo]:
        """The photo, then, where it may be skipped, those of its landmark that are listed after it, and before."""
        yield self.photos[index]
        alike = [i for i, label in enumerate(self.labels) if label == self.labels[index]] if self.may_skip else []
        yield from (self.photos[i] for i in sorted(alike, key=lambda i: (i < index, i)) if i != index)


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
            if not batch.pixels:
                raise UnreadablePhoto(batch.faults[0])
            for fault in batch.faults:
                say_once(f"another photo of its landmark is taken: {fault}")
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


def collated(items: Sequence[Drawn]) -> TrainingBatch:
    """Photos of one shape together, channels last in memory."""
    places: dict[torch.Size, list[int]] = defaultdict(list)
    for place, (photo, _, _, faults) in enumerate(items):
        if photo is None:
            return TrainingBatch([], torch.empty(0), torch.empty(0), [], faults)
        places[photo.patches.shape if isinstance(photo, Features) else photo.shape].append(place)
    pixels: Any = [together([items[i].pixels for i in group]) for group in places.values()]
    order = torch.tensor([place for group in places.values() for place in group])
    faults = [fault for item in items for fault in item.faults]
    labels = torch.tensor([item.label for item in items])
    return TrainingBatch(pixels, order, labels, [item.path for item in items], faults)


def together(photos: Sequence[Any]) -> Tensor | Features:
    """Photos (3, H, W) of one shape as one tensor, or the features of several as one."""
    if isinstance(photos[0], Features):
        return Features(torch.cat([one.patches for one in photos]), torch.cat([one.prefix for one in photos]))
    return torch.stack([photo.permute(1, 2, 0) for photo in photos]).permute(0, 3, 1, 2)
