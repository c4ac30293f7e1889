"""Google Landmarks v2 straight from its tar archives, where a file system has no room for a million small files.

The archives are those that Google publishes, images_000.tar to images_499.tar, or others that hold photos by id:
folders in front of the names make no difference, and photos that the table of landmarks does not list are passed over.
All of an archive is read whether listed or not: 500 GB an epoch, of which train_clean.csv lists four tenths, so
archives of its photos alone are worth making.
"""

import glob
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any
from zlib import crc32

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, get_worker_info
from tqdm import tqdm
from webdataset.filters import shuffle
from webdataset.pipeline import DataPipeline
from webdataset.shardlists import SimpleShardList, expand_urls, split_by_worker
from webdataset.tariterators import tarfile_to_samples

from retrieval import processes
from retrieval.data import google, images, sources, tensors
from retrieval.data.augment import Augment
from retrieval.data.folder import LandmarkPhotos
from retrieval.data.loading import Drawn, TrainingBatch, collated
from retrieval.data.module import sides
from retrieval.data.shards import Landmarks, counted
from retrieval.errors import InputError
from retrieval.terminal import printable

Given = tuple[TrainingBatch | None, list[str]]  # a batch, if there is one, and what could not be read before it


class StreamedData(pl.LightningDataModule):
    """Batches of `size` photos, over all processes, from tar archives; square random crops.

    shards: a path with `*`, `?` or `{000..499}`, or a list of such. table: train_clean.csv or train.csv; landmarks with
    fewer than `least` photos are left out. buffer: photos among which a worker draws the next one; it holds them as
    they are stored, 0.1 MB each. cache: a folder that remembers how many photos there are, as counting them reads the
    headers of all archives. The other arguments are `LandmarkData`'s, and so are the attributes, but that `train` has
    labels alone: its photos are no files.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        table: str,
        cache: str,
        seed: int,
        least: int = 2,
        size: int = 64,
        buffer: int = 1000,
        resolution: int = 224,
        resolutions: Sequence[int] | None = None,
        crop: float = 0.5,
        flip: bool = True,
        jitter: float = 0.2,
        workers: int = 2,
    ) -> None:
        super().__init__()
        if size < 2 or buffer < 1:
            raise InputError(f"data.size must be at least 2 and data.buffer at least 1, got {size} and {buffer}")
        self.augment = Augment(crop=crop, flip=flip, jitter=jitter)
        self.resolutions = sides(resolutions if resolutions is not None else [resolution])
        self.resolution, self.workers = max(self.resolutions), int(workers)
        self.validation = self.sampler = None
        names, labels = google.frequent(*google.training(Path(table)), least, table)
        self.train, known = LandmarkPhotos([], labels), Landmarks(names, labels)
        self.labels, self.num_classes = known.listed, len(known.landmarks)
        paths = found(shards)
        photos = counted(paths, known, Path(cache))
        self.batches = ShardLoader(
            paths, photos, Crops(known, self.augment, self.resolutions, seed), size, buffer, self.workers
        )
        self.summary = (
            f"{sum(photos)} photos of {self.num_classes} landmarks from {len(paths)} archives, "
            f"{len(self.batches) * size} of them an epoch"
        )

    def train_dataloader(self) -> "ShardLoader":
        return self.batches


@dataclass
class Crops:
    """The end of a stream, in the workers: stored photos -> batches of crops.

    A batch draws one of the resolutions by (seed, epoch, its number), the same on every process; a crop follows from
    (seed, epoch, the photo's id). What cannot be read is passed over, noted in `faults`, and told with the next batch.
    """

    known: Landmarks
    augment: Augment
    resolutions: Sequence[int]
    seed: int
    epoch: int = 0
    size: int = 0  # photos of a batch on this process
    faults: list[str] = field(default_factory=list)

    def __call__(self, stored: Iterable[dict[str, Any]]) -> Iterator[Given]:
        stored, worker = iter(stored), get_worker_info()
        for number in count(worker.id if worker else 0, worker.num_workers if worker else 1):
            resolution = int(np.random.default_rng([self.seed, self.epoch, number]).choice(self.resolutions))
            items = list(islice(self.items(stored, resolution), self.size))
            faults, self.faults[:] = self.faults[:], []
            whole = len(items) == self.size
            yield collated(items) if whole else None, faults
            if not whole:
                return

    def items(self, stored: Iterator[dict[str, Any]], resolution: int) -> Iterator[Drawn]:
        for photo in stored:
            suffix = next(key for key in photo if not key.startswith("__"))
            path = f"{photo['__url__']}/{photo['__key__']}.{suffix}"
            number = self.known.number(path)
            assert number is not None  # others were passed over before they were read
            try:
                rgb = decoded(photo[suffix], path)
            except images.UnreadablePhoto as error:
                self.fault(error)
                continue
            seed = np.random.default_rng([self.seed, self.epoch, crc32(photo["__key__"].encode())]).integers(2**31)
            yield Drawn(tensors.to_bytes(self.augment(rgb, resolution, int(seed))), number, path, [])

    def fault(self, error: Exception) -> bool:
        """Note what cannot be read; True tells webdataset to go on."""
        self.faults.append(str(error))
        return True


def decoded(content: bytes, path: str) -> Image.Image:
    """The photo that a file holds, in RGB, not turned by EXIF."""
    photo = images.Photo(path, upright=False)
    with images.opened(photo, content) as image:
        return images.pixels(image, photo)


class ShardLoader:
    """The batches of one epoch after another, the same number on every process in every epoch.

    Archives are shuffled by (seed, epoch), and dealt out to the processes and on to their workers: no photo comes twice
    in an epoch. As processes and workers get unequal numbers of photos, an epoch ends where the one with the fewest
    might: what is left over (one archive a process, a batch a worker) is left out, and is another part in each epoch.
    Where unreadable photos make a process run short, it goes through its archives again. `skipped`: what could not be
    read, each once.

    A run that was killed goes on with the next batch: those before are read, decoded and dropped, which takes as long
    as it took without the network. The same batches come again with the same numbers of processes and workers.
    """

    def __init__(
        self, shards: Sequence[str], photos: Sequence[int], crops: Crops, size: int, buffer: int, workers: int
    ) -> None:
        self.shards, self.photos, self.crops = list(shards), list(photos), crops
        self.size, self.buffer, self.workers = size, buffer, workers
        self.epoch, self.position, self.skipped = 0, 0, set[str]()

    @property
    def share(self) -> int:
        """Photos of a batch on this process."""
        return len(processes.part(range(self.size), "data.size"))

    def __len__(self) -> int:
        """Batches that any process can make whichever archives it gets."""
        ready = sum(sorted(self.photos)[: len(self.photos) // processes.world_size()])
        shared_by = min(max(1, self.workers), -(-len(self.photos) // processes.world_size()))
        batches = (ready - shared_by * (self.share - 1)) // self.share
        if batches < 1:
            raise InputError(
                f"an epoch must have a batch: {len(self.photos)} archives with {sum(self.photos)} photos of the table "
                f"are too few for data.size = {self.size} on {processes.world_size()} processes of {self.workers} "
                "workers; accepted: more archives than processes, smaller batches, fewer workers"
            )
        return batches

    def __iter__(self) -> Iterator[TrainingBatch]:
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        with closing(self._endless(self.epoch)) as batches:
            for batch in islice(batches, self.position, len(self)):
                self.position += 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Where it stands."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def _endless(self, epoch: int) -> Generator[TrainingBatch, None, None]:
        """This process's archives of an epoch, over and over."""
        for again in count():
            given = 0
            for batch, faults in self._loader(epoch, again):
                self._tell(faults)
                if batch is not None:
                    given += 1
                    yield batch
            if not given:
                raise InputError(f"the archives gave no batch of {self.share} photos in epoch {epoch}")

    def _loader(self, epoch: int, again: int) -> DataLoader:
        shuffled = np.random.default_rng([self.crops.seed, epoch]).permutation(self.shards).tolist()
        seed = int(np.random.default_rng([self.crops.seed, epoch, again]).integers(2**31))
        crops = replace(self.crops, epoch=epoch, size=self.share, faults=[])
        stream = DataPipeline(
            SimpleShardList(shuffled[processes.rank() :: processes.world_size()]),
            split_by_worker,
            tarfile_to_samples(handler=crops.fault, select_files=crops.known.has),
            shuffle(self.buffer, initial=self.buffer, seed=seed),
            crops,
        )
        return DataLoader(
            stream,  # pyright: ignore[reportArgumentType]
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its seeds are not to be drawn from those of the network
        )

    def _tell(self, faults: Iterable[str]) -> None:
        for fault in faults:
            if fault not in self.skipped:
                tqdm.write(printable(f"skipped: {fault}"))
            self.skipped.add(fault)


def _as_it_is(given: Any) -> Any:
    return given


def found(shards: str | Sequence[str]) -> list[str]:
    """Absolute paths of the archives, sorted; each pattern must find some, and none may be found twice."""
    patterns = [one for text in ([shards] if isinstance(shards, str) else shards) for one in expand_urls(text)]
    held = {pattern: glob.glob(str(Path(pattern).absolute())) for pattern in patterns}
    if empty := [pattern for pattern, paths in held.items() if not paths]:
        raise InputError(
            f"data.shards must name archives that are there: nothing at {', '.join(empty[:3])}, {len(empty)} of "
            f"{len(patterns)} patterns. The archives come from {sources.LANDMARKS}/train/images_000.tar to 499"
        )
    paths = [path for pattern in patterns for path in held[pattern]]
    if len(set(paths)) < len(paths):
        raise InputError(f"data.shards may name an archive once, {len(paths) - len(set(paths))} are named again")
    return sorted(paths)
