"""Images -> descriptors, at any resolution and at several scales."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retrieval import processes, stages
from retrieval.backbones import TimmBackbone, real_part
from retrieval.data import contents, images, tensors
from retrieval.data.images import Photo, Size, UnreadablePhoto, by_shape, by_size
from retrieval.data.snapshot import Read, Snapshot
from retrieval.data.tensors import Batch
from retrieval.embedder import Embedder, square_map
from retrieval.errors import InputError, flag
from retrieval.features import Features
from retrieval.scales import AGGREGATES, aggregated, at_scales
from retrieval.stopping import unheeding

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ASPECTS = ("native", "square", "padded")


class NotFinite(InputError, FloatingPointError):
    """A network that gives NaN or infinity."""


@dataclass(frozen=True)
class Extract:
    """How photos become descriptors (the `extract` config).

    resolutions: longer sides in pixels. scales: factors inside each resolution, aggregated as `aggregate` says (see
    `retrieval.scales`). dtype: of the network's computation. compile: run the backbone through torch.compile, or raise.
    draft: let the JPEG decoder shrink photos first (see `images.decode`), faster and with other pixels.
    aspect:
    - native: photos of one shape share a batch; exact.
    - square: each photo squeezed to resolution x resolution.
    - padded: photos of nearly one size share a batch, padded at the right and below; poolings leave the padding out.
      Exact for many CNNs, for others and for ViTs nearly (see `TimmBackbone`).
    store: a folder for the descriptors, refused where it holds others; without one they are kept in the cache.
    store_dtype: float32 or float16.
    """

    resolutions: Sequence[int] = (224, 320, 448)
    scales: Sequence[float] = (1.0,)
    aspect: str = "native"
    batch_size: int = 16
    workers: int = 2
    device: str = "auto"
    dtype: str = "float32"
    aggregate: str = "paper"
    compile: bool = False
    draft: bool = False
    store: str | None = None
    store_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, values, kind in (("resolutions", self.resolutions, int), ("scales", self.scales, (int, float))):
            if not isinstance(values, Sequence) or not values or not all(isinstance(v, kind) and v > 0 for v in values):
                whole = "whole " if kind is int else ""
                raise InputError(f"extract.{name} must be a list of positive {whole}numbers, got {values}")
        for name, accepted in (("aspect", ASPECTS), ("dtype", DTYPES), ("aggregate", AGGREGATES)):
            if getattr(self, name) not in accepted:
                raise InputError(f"extract.{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        for name in ("compile", "draft"):
            flag(f"extract.{name}", getattr(self, name))
        if self.compile and self.aspect == "padded":
            raise InputError("extract.compile=true takes extract.aspect=native or square, got padded")
        counts = self.batch_size, self.workers
        if not all(isinstance(count, int) for count in counts) or self.batch_size < 1 or self.workers < 0:
            raise InputError(
                f"extract needs batch_size >= 1 and workers >= 0, got {self.batch_size} and {self.workers}"
            )
        device_of(self.device)

    def how(self) -> dict[str, Any]:
        """What a result row says of it: all but the resolution that decides a value, and where it was computed."""
        keys = ("aggregate", "aspect", "dtype", "compile", "draft", "store_dtype")
        said = {"scales": list(self.scales), **{key: getattr(self, key) for key in keys}}
        return {**said, "device": device_of(self.device).type}


def device_of(name: str) -> torch.device:
    """The device asked for; 'auto' is this process's GPU where there is one. An absent GPU is refused."""
    if name == "auto":
        return torch.device(f"cuda:{processes.local_rank()}" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"no device '{name}': accepted are auto, cpu, cuda, cuda:0, ...") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device '{name}' is not one of auto, cpu, cuda, cuda:0, ...")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device '{name}' was asked for, this machine has {torch.cuda.device_count()} GPUs")
    return device


def check(embedder: Embedder, resolutions: Sequence[int], scales: Sequence[float], aspect: str) -> None:
    """Refuse, before anything is computed, sizes that the backbone or the pooling cannot take."""
    check_map(embedder, resolutions, scales, aspect)
    backbone = embedder.backbone
    if backbone.fixed_size is None:
        return
    if backbone.fixed_size[0] != backbone.fixed_size[1]:
        raise InputError(
            f"backbone '{backbone.name}' takes one size only, {backbone.fixed_size[0]} x {backbone.fixed_size[1]}, and "
            "photos are squeezed to squares alone; accepted: backbone.kwargs.img_size=[S,S]"
        )
    sides = {float(resolution * scale) for resolution in resolutions for scale in scales}
    if aspect != "square" or sides != {float(backbone.fixed_size[0])}:
        raise InputError(
            f"backbone '{backbone.name}' takes one size only, {backbone.fixed_size[0]} x {backbone.fixed_size[1]}; "
            f"asked for was aspect = {aspect}, resolutions = {list(resolutions)}, scales = {list(scales)}; "
            f"accepted: extract.aspect=square extract.resolutions=[{backbone.fixed_size[0]}] extract.scales=[1.0]"
        )


def check_map(embedder: Embedder, resolutions: Sequence[int], scales: Sequence[float], aspect: str) -> None:
    """Refuse photos whose map is not the one that the pooling takes, where it takes one alone."""
    wanted, backbone = embedder.map_size, embedder.backbone
    sides = {int(resolution * scale) for resolution in resolutions for scale in scales}
    if wanted is None or (aspect == "square" and all(square_map(backbone, side) == wanted for side in sides)):
        return
    fitting = square_of(backbone, wanted, "extract.aspect=square extract.resolutions=[{}] extract.scales=[1.0]")
    raise InputError(
        f"{type(embedder.pooling).__name__} takes maps of {wanted[0]} x {wanted[1]} positions only, so square photos "
        f"of one size; asked for was aspect = {aspect}, resolutions = {list(resolutions)}, scales = {list(scales)}; "
        f"accepted: {fitting}"
    )


def square_of(backbone: TimmBackbone, size: tuple[int, int], words: str) -> str:
    """`words` with the side of square photos that have a map of this size."""
    for stride in (32, 16, 14, 8, 28, 64, 4):
        side = size[0] * stride
        if side % backbone.multiple == 0 and square_map(backbone, side) == size:
            return words.format(side)
    return "none, no square photo has that map"


class _Photos(Dataset[tuple[Tensor, Read]]):
    """A photo (3, H, W) at its size, and what reading its file told; black where it cannot be decoded.

    sizes: None where no header was read; `size_of` gives those, from a photo and its full size.
    """

    def __init__(
        self, photos: Sequence[Photo], sizes: Sequence[Size | None], size_of: Callable[..., Size], draft: bool
    ) -> None:
        self.photos, self.sizes, self.size_of, self.draft = photos, sizes, size_of, draft

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, Read]:
        photo, size = self.photos[index], self.sizes[index]
        stamp, digest = None, ""
        try:
            data, (digest, stamp) = contents.read(photo.path, known=True)
            size = size or self.size_of(photo, whole=images.full_size(photo, data))
            rgb = images.resized(images.decode(photo, size if self.draft else None, size, data), size)
        except (InputError, OSError) as error:
            width, height = size or self.size_of(photo, square=True)
            fault = str(error) if isinstance(error, UnreadablePhoto) else f"unreadable photo {photo.path}: {error}"
            return torch.zeros(3, height, width, dtype=torch.uint8), Read(stamp, digest, fault)
        return tensors.to_bytes(rgb), Read(stamp, digest)


class Loaded(NamedTuple):
    """A `tensors.Batch`, and what reading its files told."""

    pixels: Tensor
    sizes: Tensor | None
    read: list[Read]


def _collated(items: Sequence[tuple[Tensor, Read]]) -> Loaded:
    return Loaded(*tensors.padded([photo for photo, _ in items]), [read for _, read in items])


def describe(
    embedder: Embedder,
    paths: Sequence[str | Path | Photo],
    resolution: int = 1024,
    scales: Sequence[float] = (1.0,),
    aspect: str = "native",
    batch_size: int = 16,
    workers: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    progress: bool = False,
    aggregate: str = "paper",
) -> NDArray[np.float32]:
    """Descriptors (N, d), float32 unit rows in the order of `paths`: `describe_each` with one embedder."""
    photos = [path if isinstance(path, Photo) else Photo(str(path)) for path in paths]
    extract = Extract([int(resolution)], scales, aspect, batch_size, workers, device, dtype, aggregate)
    return describe_each([embedder], photos, resolution, extract, progress)[0]


def describe_each(
    embedders: Sequence[Embedder],
    photos: Sequence[Photo],
    resolution: int,
    extract: Extract,
    progress: bool = False,
    files: Snapshot | None = None,
) -> list[NDArray[np.float32]]:
    """Descriptors (N, d) of each embedder at one resolution, float32 unit rows in the order of `photos`; all share one
    backbone.

    Each photo is decoded once and passes the backbone once a scale, whatever the number of embedders. An unreadable
    photo raises UnreadablePhoto; a descriptor that is not finite raises NotFinite; both name the photo. files: see
    `vectors`.
    """
    files = files or Snapshot()
    for embedder in embedders:
        check(embedder, [resolution], extract.scales, extract.aspect)
    batches = plan(embedders[0], photos, resolution, extract, None, files)
    each = [np.empty((len(photos), embedder.dim), dtype=np.float32) for embedder in embedders]
    with stages.bar(total=len(photos), desc=f"describing at {resolution}", disable=None if progress else True) as bar:
        for indices, of_batch in vectors(embedders, photos, batches, resolution, extract, False, files):
            for rows, of_embedder in zip(each, of_batch, strict=True):
                rows[indices] = of_embedder
            bar.update(len(indices))
    return each


def plan(
    embedder: Embedder,
    photos: Sequence[Photo],
    resolution: int,
    extract: Extract,
    multiple: int | None = None,
    files: Snapshot | None = None,
) -> list[list[int]]:
    """Indices of the photos of each batch, of one shape unless padded; the shapes come from the files' headers.

    multiple: of their sides; None: that of the backbone. files: what is known of the files already.
    """
    multiple, square = multiple or embedder.backbone.multiple, extract.aspect == "square"
    sizes = (files or Snapshot()).target_sizes(photos, resolution, multiple, square)
    return (by_size if extract.aspect == "padded" else by_shape)(sizes, extract.batch_size)


def loaded(
    embedder: Embedder,
    photos: Sequence[Photo],
    batches: Iterable[list[int]],
    resolution: int,
    extract: Extract,
    multiple: int | None = None,
    files: Snapshot | None = None,
) -> DataLoader[Loaded]:
    """A loader of these batches; they are asked for one by one, as they are needed.

    A photo that cannot be decoded comes as a black one: `Snapshot.note` says what is to be done.
    """
    multiple, square = multiple or embedder.backbone.multiple, extract.aspect == "square"
    sizes = (files or Snapshot()).planned(photos, resolution, multiple, square)
    size_of = partial(images.target_size, resolution=resolution, multiple=multiple)
    loader = DataLoader(
        _Photos(photos, sizes, size_of, extract.draft),
        batch_sampler=batches,  # pyright: ignore[reportArgumentType]
        collate_fn=_collated,
        num_workers=extract.workers,
        worker_init_fn=unheeding,
        pin_memory=device_of(extract.device).type == "cuda",
        generator=torch.Generator(),  # or the workers' seed would be drawn from a training's random numbers
    )
    return cast("DataLoader[Loaded]", loader)


@torch.no_grad()
def vectors(
    embedders: Sequence[Embedder],
    photos: Sequence[Photo],
    batches: Iterable[list[int]],
    resolution: int,
    extract: Extract,
    once: bool = False,
    files: Snapshot | None = None,
) -> Iterator[tuple[list[int], list[NDArray[np.float32]]]]:
    """Indices of a batch and its descriptors (n, d) by each embedder; batches are asked for ahead of their turn.

    once: these photos will not come together again, so that a frozen backbone need not keep their features. files: what
    is known of the files; the photos that it lets be skipped have rows of NaN where they cannot be decoded. A
    descriptor that is not finite raises NotFinite, which names its photo.
    """
    files = files or Snapshot()
    maps = passed if once else embedders[0].backbone.frozen or passed
    with computing(embedders, extract):
        for indices, features in maps(embedders[0], photos, batches, resolution, extract, files=files):
            with mixed(extract):
                each = aggregated(embedders, features, extract.aggregate)
            rows = [of_embedder.float().cpu().numpy() for of_embedder in each]
            left_out = np.array([photos[i].path in files.faults for i in indices])
            there = [photos[i] for i in indices if photos[i].path not in files.faults]
            for of_embedder, embedder in zip(rows, embedders, strict=True):
                finite(of_embedder[~left_out], there, type(embedder.pooling).__name__)
                of_embedder[left_out] = np.nan
            yield indices, rows


def passed(
    embedder: Embedder,
    photos: Sequence[Photo],
    batches: Iterable[list[int]],
    resolution: int,
    extract: Extract,
    multiple: int | None = None,
    files: Snapshot | None = None,
) -> Iterator[tuple[list[int], Iterator[Features]]]:
    """Indices of a batch and what the backbone, as it is `computing`, gives at each scale when asked."""
    asked: deque[list[int]] = deque()
    ahead = (asked.append(indices) or indices for indices in batches)
    backbone, device, files = embedder.backbone, device_of(extract.device), files or Snapshot()
    for batch in loaded(embedder, photos, ahead, resolution, extract, multiple, files):
        indices = asked.popleft()
        files.note([photos[i] for i in indices], batch.read)
        pixels, sizes = on_device(batch, backbone, device)
        yield indices, at_scales(backbone, pixels, extract.scales, sizes)


@contextmanager
def computing(embedders: Sequence[Embedder], extract: Extract) -> Iterator[None]:
    """Within it the embedders, which share a backbone, are in evaluation mode on the device, and compiled if asked."""
    training, home = embedders[0].training, next(embedders[0].parameters()).device
    for embedder in embedders:
        embedder.eval().to(device_of(extract.device))
    try:
        with embedders[0].backbone.compiled() if extract.compile else nullcontext():
            yield
    finally:
        for embedder in embedders:
            embedder.train(training).to(home)


def mixed(extract: Extract) -> torch.autocast:
    """Within it the network computes with the numbers that were asked for."""
    dtype = DTYPES[extract.dtype]
    return torch.autocast(device_of(extract.device).type, dtype, enabled=dtype != torch.float32)


def on_device(batch: Batch | Loaded, backbone: TimmBackbone, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The photos (B, 3, H, W), normalised where they are computed with, 0 in the padding; and their sizes (B, 2)."""
    photos = tensors.normalised(batch.pixels.to(device, non_blocking=True), backbone.mean, backbone.std)
    if batch.sizes is None:
        return photos, None
    sizes = batch.sizes.to(device)
    return photos.mul_(real_part(sizes, *photos.shape[-2:])[:, None]), sizes


def finite(rows: NDArray[np.float32], photos: Sequence[Photo], by: str) -> None:
    """Raise NotFinite, naming a photo, where a row is not finite; `by` is what gave it."""
    bad = [photo.path for photo, row in zip(photos, rows, strict=True) if not np.isfinite(row).all()]
    if bad:
        raise NotFinite(f"the descriptor of {bad[0]} is not finite, by {by} ({len(bad)} of its batch of {len(photos)})")
