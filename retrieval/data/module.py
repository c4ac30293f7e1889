"""LightningDataModules: which photos are trained on, which landmarks are held out, how photos are augmented."""

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2 as T

from retrieval.config import InputError, near
from retrieval.data import images, landmarks
from retrieval.data.batching import Draw, LandmarkBatches
from retrieval.data.folder import LandmarkPhotos, read

SPLIT_SEED = 0  # the same landmarks are held out whatever the run's seed, so that runs can be compared


class FolderData(pl.LightningDataModule):
    """Photos `root/<landmark>/<image>`, P landmarks x K photos a batch, random crops of `resolution` pixels.

    mean and std are the backbone's; `summary` says what there is to train on.
    validation: this many landmarks are held out whole; the lists of `groups` name landmarks that stand together and
    stay on one side. crop: least share of a photo that a random crop keeps. jitter: strength of colour changes.
    """

    def __init__(
        self,
        root: str,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        on_unreadable: str = "refuse",
        validation: int = 0,
        groups: Sequence[Sequence[str]] = (),
        resolution: int = 224,
        landmarks_per_batch: int = 8,
        photos_per_landmark: int = 4,
        crop: float = 0.5,
        flip: bool = True,
        jitter: float = 0.2,
        workers: int = 2,
    ) -> None:
        super().__init__()
        if not 0 < crop <= 1 or jitter < 0:
            raise InputError(f"data.crop must be in (0, 1] and data.jitter >= 0, got {crop} and {jitter}")
        photos = read(root, on_unreadable)
        held_out = hold_out(photos.landmarks, int(validation), groups)
        self.train = photos.of([name for name in photos.landmarks if name not in held_out])
        self.validation = photos.of(held_out) if held_out else None
        out = f", {len(held_out)} landmarks held out" if held_out else ""
        skipped = f", {photos.skipped} photos skipped" if photos.skipped else ""
        self.summary = f"{len(self.train.photos)} photos of {len(self.train.landmarks)} landmarks{out}{skipped}"
        self.resolution, self.workers = int(resolution), int(workers)
        names = {name: i for i, name in enumerate(self.train.landmarks)}
        self.labels = [names[label] for label in self.train.labels]
        self.num_classes = len(names)
        self.batches = LandmarkBatches(self.labels, landmarks_per_batch, photos_per_landmark, seed)
        augment = T.Compose(
            [
                T.RandomResizedCrop(self.resolution, (crop, 1.0), antialias=True),
                *([T.RandomHorizontalFlip()] if flip else []),
                *([T.ColorJitter(jitter, jitter, jitter)] if jitter else []),
            ]
        )
        self.dataset = TrainingPhotos(self.train, self.labels, augment, mean, std)

    def check(self, multiple: int, fixed_size: tuple[int, int] | None) -> None:
        """Refuse a crop that the backbone cannot take."""
        wanted = fixed_size[0] if fixed_size else images.nearest(self.resolution, multiple)
        if self.resolution != wanted:
            rule = f"{wanted} x {wanted} only" if fixed_size else f"sides that are multiples of {multiple}"
            raise InputError(f"the backbone takes {rule}, got data.resolution = {self.resolution}; nearest: {wanted}")

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_sampler=self.batches,  # pyright: ignore[reportArgumentType]
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


class EmbeddedData(FolderData):
    """The training part of the embedded landmarks, drawn into `root` if it is not there yet."""

    def __init__(self, root: str, landmarks_seed: int = 0, **kwargs) -> None:  # noqa: ANN003
        super().__init__(root=str(landmarks.write(Path(root), landmarks_seed) / "train"), **kwargs)


class TrainingPhotos(Dataset[tuple[Tensor, int, str]]):
    """(index, seed) -> a random crop (3, R, R), its landmark and its path; the same pair gives the same crop."""

    def __init__(
        self,
        photos: LandmarkPhotos,
        labels: Sequence[int],
        augment: T.Compose,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.photos, self.labels, self.augment, self.mean, self.std = photos.photos, labels, augment, mean, std

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, str]:
        index, seed = draw
        photo = self.photos[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            crop = self.augment(images.decode(photo))
        return images.to_tensor(crop, self.mean, self.std), self.labels[index], photo.path


def hold_out(names: Sequence[str], count: int, groups: Sequence[Sequence[str]] = ()) -> list[str]:
    """`count` landmarks drawn at random, groups kept together; always the same for the same landmarks."""
    grouped = [name for group in groups for name in group]
    for name in grouped:
        if name not in names:
            raise InputError(f"data.groups names no landmark of this folder: '{name}': {near(name, names)}")
    if len(set(grouped)) < len(grouped):
        raise InputError("data.groups must name each landmark once")
    units = [list(group) for group in groups] + [[name] for name in names if name not in set(grouped)]
    reached: dict[int, list[str]] = {0: []}
    for i in np.random.default_rng(SPLIT_SEED).permutation(len(units)):
        for size, chosen in list(reached.items()):
            reached.setdefault(size + len(units[i]), chosen + units[i])
    if count not in reached or count == 1 or len(names) - count < 2:
        raise InputError(
            f"data.validation must be 0, or at least 2 landmarks and leave 2 to train on, in whole groups; got {count} "
            f"of {len(names)} landmarks in units of {sorted(map(len, units))}"
        )
    return sorted(reached[count])
