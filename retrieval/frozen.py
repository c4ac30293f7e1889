"""Features of a backbone that does not learn: computed once, kept in files, read by every pooling, epoch and job after.

A list of photos at a resolution has a folder, a `retrieval.store.Store` with one file a batch.
"""

import json
import math
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from retrieval import extraction, reuse, store
from retrieval.backbones import TimmBackbone
from retrieval.data import images
from retrieval.data.images import Photo
from retrieval.data.snapshot import Snapshot
from retrieval.embedder import Embedder
from retrieval.extraction import DTYPES, Extract
from retrieval.features import Features
from retrieval.store import VERSIONS, Batches, Store

LIMIT = 20e9  # bytes in the folder, at the most; and never more than half of what the disk has left


class Maps(Store):
    """The features of each batch at each scale, (patches, prefix, mask), as the backbone gave them: even the order in
    memory decides how a sum is rounded."""

    suffix = ".pt"

    def save(self, file: BinaryIO, parts: Sequence[Any]) -> None:
        torch.save(parts[0], file)

    def read(self, shard: int) -> list[Features]:
        """The features of a batch at each scale, mapped from their file."""
        kept = torch.load(self.path(shard), weights_only=True, mmap=True)
        return [Features(*one) for one in kept]

    def note_seconds(self, each: float) -> None:
        """What a photo took, for those who need not pass it again."""
        store.replace(self.folder / "seconds.json", lambda file: file.write(json.dumps(each).encode()))


class Frozen:
    """The features of a frozen backbone, in folders of `folder` that are named after what made them.

    It stands in for `extraction.passed`. `saved` says of each set how many photos did not pass the backbone, as their
    features were there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: dict[Path, float] = {}
        self.refused: set[Path] = set()

    def __call__(
        self,
        embedder: Embedder,
        photos: Sequence[Photo],
        batches: Iterable[list[int]],
        resolution: int,
        extract: Extract,
        files: Snapshot | None = None,
    ) -> Iterator[tuple[list[int], Iterable[Features]]]:
        """Indices of a batch and its features at each scale, on the device."""
        found = self.maps(embedder, photos, resolution, extract, None, files)
        if found is None:
            yield from extraction.passed(embedder, photos, batches, resolution, extract, None, files)
            return
        maps, planned = found
        place, device = {tuple(batch): i for i, batch in enumerate(planned)}, extraction.device_of(extract.device)
        for indices in batches:
            yield indices, [one.to(device) for one in maps.read(place[tuple(indices)])]
            self.count(maps, len(indices))

    def maps(
        self,
        embedder: Embedder,
        photos: Sequence[Photo],
        resolution: int,
        extract: Extract,
        multiple: int | None = None,
        files: Snapshot | None = None,
    ) -> tuple[Maps, Batches] | None:
        """The features of all photos and their batches, filled in where some are missing; None, and a warning, where
        they would take too much room."""
        backbone, files = embedder.backbone, files or Snapshot()
        made_of = store.made_of(backbone, extract, resolution) | {"multiple": multiple or backbone.multiple}
        made_of |= {"backbone": described(backbone), "versions": VERSIONS}
        made_of.pop("aggregate")
        folder = reuse.folder_of(self.folder / store.digest(made_of), photos, files)
        sides = resolution, made_of["multiple"], extract.aspect == "square"
        if folder in self.refused or not (
            folder.is_dir() or self.room(backbone, files.target_sizes(photos, *sides), resolution, extract)
        ):
            self.refused.add(folder)
            return None

        def plan() -> Batches:
            return extraction.plan(embedder, photos, resolution, extract, multiple, files)

        def describe(batches: Iterable[list[int]]) -> Iterator[tuple[list[int], list[Any]]]:
            for indices, features in extraction.passed(embedder, photos, batches, resolution, extract, multiple, files):
                with extraction.mixed(extract):
                    kept = [(_cpu(one.patches), _cpu(one.prefix), _cpu(one.mask)) for one in features]
                yield indices, [kept]

        maps = Maps(folder, made_of, len(photos), backbone.dim, size=1, entry=reuse.noting(photos, files))
        counted = store.Counted(describe)
        reuse.take(maps, plan, photos, files)
        shards = store.complete([maps], plan, counted, f"features at {resolution}")
        reuse.know_all(maps, shards, photos, files)
        if counted.photos:
            maps.note_seconds(counted.seconds / counted.photos)
            self.count(maps, -counted.photos)
        return maps, [batch for shard in shards for batch in shard]

    def room(self, backbone: TimmBackbone, sizes: Sequence[images.Size], resolution: int, extract: Extract) -> bool:
        """Whether the features of photos of these sizes fit; says so where they do not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = sum(size_of(backbone, size, extract) for size in sizes)
        kept = [file.stat() for file in self.folder.glob("*/*/*.pt")]
        held = sum({one.st_ino: one.st_size for one in kept}.values())  # one file may have several names
        left = min(LIMIT - held, shutil.disk_usage(self.folder).free / 2)
        if wanted > left:
            warnings.warn(
                f"features of {len(sizes)} photos at {resolution} px would take {wanted / 1e9:.2g} GB, and "
                f"{self.folder} has room for {max(left, 0) / 1e9:.2g} GB (at most {LIMIT / 1e9:g} GB, and half of what "
                "the disk has left): they pass the frozen backbone each time; what no sweep needs any more there may "
                "be removed",
                stacklevel=2,
            )
        return wanted <= left

    def count(self, maps: Maps, photos: float) -> None:
        self.saved[maps.folder] = self.saved.get(maps.folder, 0) + photos

    def savings(self) -> list[dict[str, Any]]:
        """For each set of photos the passes over them that were not made, and about how many seconds those take."""
        said = []
        for folder, photos in self.saved.items():
            held = json.loads((folder / "manifest.json").read_text())
            each = json.loads((folder / "seconds.json").read_text()) if (folder / "seconds.json").is_file() else 0.0
            about = {"what": "features", "resolution": held["resolution"], "photos": held["count"]}
            said.append({**about, "passes": photos / held["count"], "seconds": photos * each})
        return [one for one in said if one["passes"] > 0]


class Unkept(Frozen):
    """Keeps no features: in place of the other where nothing may be written."""

    def maps(self, *_: Any, **__: Any) -> None:
        return None


class TrainingFeatures(Sequence[Features]):
    """The features of training photos, one by one, at one scale."""

    def __init__(self, maps: Maps, planned: Batches) -> None:
        self.maps = maps
        place = {index: (i, row) for i, batch in enumerate(planned) for row, index in enumerate(batch)}
        self.places = [place[index] for index in range(maps.count)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Features:
        shard, row = self.places[index]
        (batch,) = self.maps.read(shard)
        patches, prefix = (one[row : row + 1].clone() for one in (batch.patches, batch.prefix))
        return Features(patches, prefix)


@torch.no_grad()
def of_training(
    embedder: Embedder, photos: Sequence[Photo], resolutions: Sequence[int], sides: int, extract: Extract
) -> dict[int, TrainingFeatures]:
    """The features of photos whose sides are multiples of `sides`, by resolution; {} where they do not fit."""
    found: dict[int, TrainingFeatures] = {}
    with extraction.computing([embedder], extract):
        for resolution in resolutions:
            maps = embedder.backbone.frozen.maps(embedder, photos, resolution, extract, sides)
            if maps is None:
                return {}
            found[resolution] = TrainingFeatures(*maps)
    return found


def freeze(backbone: TimmBackbone, folder: Path) -> None:
    """From now on the backbone has no gradients, stays in evaluation mode, and its features are kept."""
    backbone.requires_grad_(False)
    backbone.frozen = Frozen(folder)
    backbone.eval()


def described(backbone: TimmBackbone) -> str:
    """What decides features beside weights: a stride that `kwargs` set, or another mean, leaves the weights alike."""
    return repr((backbone.name, sorted(backbone.kwargs.items()), backbone.mean, backbone.std))


def size_of(backbone: TimmBackbone, size: images.Size, extract: Extract) -> float:
    """Bytes of the features of a photo at all scales, nearly."""
    positions = sum(math.prod(math.ceil(side * scale / backbone.stride) for side in size) for scale in extract.scales)
    return positions * backbone.dim * DTYPES[extract.dtype].itemsize


def _cpu(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x.cpu()
