"""Images -> descriptors, at any resolution and at several scales."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from retrieval.backbones import TimmBackbone, real_part
from retrieval.config import InputError
from retrieval.data import images
from retrieval.data.batching import by_shape, by_size
from retrieval.data.images import Batch, Photo, Size
from retrieval.embedder import Embedder, square_map
from retrieval.scales import AGGREGATES, multi_scale

# Read when the module is: what a running program computes does not change with its files.
CODE = [path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))]
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

    def __post_init__(self) -> None:
        for name, values, kind in (("resolutions", self.resolutions, int), ("scales", self.scales, (int, float))):
            if not isinstance(values, Sequence) or not values or not all(isinstance(v, kind) and v > 0 for v in values):
                whole = "whole " if kind is int else ""
                raise InputError(f"extract.{name} must be a list of positive {whole}numbers, got {values}")
        for name, accepted in (("aspect", ASPECTS), ("dtype", DTYPES), ("aggregate", AGGREGATES)):
            if getattr(self, name) not in accepted:
                raise InputError(f"extract.{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        for name in ("compile", "draft"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"extract.{name} must be true or false, got {getattr(self, name)!r}")
        if self.compile and self.aspect == "padded":
            raise InputError("extract.compile=true takes extract.aspect=native or square, got padded")
        if self.batch_size < 1 or self.workers < 0:
            raise InputError(
                f"extract needs batch_size >= 1 and workers >= 0, got {self.batch_size} and {self.workers}"
            )
        device_of(self.device)


def device_of(name: str) -> torch.device:
    """The device asked for; 'auto' is the first GPU where there is one. An absent GPU is refused."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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


class _Photos(Dataset[Tensor]):
    def __init__(self, photos: Sequence[Photo], sizes: Sequence[Size], draft: bool) -> None:
        self.photos, self.sizes, self.draft = photos, sizes, draft

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Tensor:
        photo, size = self.photos[index], self.sizes[index]
        return images.to_bytes(images.resized(images.decode(photo, size if self.draft else None), size))


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
    embedders: Sequence[Embedder], photos: Sequence[Photo], resolution: int, extract: Extract, progress: bool = False
) -> list[NDArray[np.float32]]:
    """Descriptors (N, d) of each embedder at one resolution, float32 unit rows in the order of `photos`; all share one
    backbone.

    Each photo is decoded once and passes the backbone once a scale, whatever the number of embedders. An unreadable
    photo raises UnreadablePhoto; a descriptor that is not finite raises NotFinite; both name the photo.
    """
    for embedder in embedders:
        check(embedder, [resolution], extract.scales, extract.aspect)
    batches, loader = loaded(embedders[0], photos, resolution, extract)
    each = [np.empty((len(photos), embedder.dim), dtype=np.float32) for embedder in embedders]
    with tqdm(total=len(photos), desc=f"describing at {resolution}", disable=None if progress else True) as bar:
        for indices, vectors in zip(batches, _vectors(embedders, loader, extract), strict=True):
            for rows, described in zip(each, vectors, strict=True):
                rows[indices] = described
            bar.update(len(indices))
    for rows, embedder in zip(each, embedders, strict=True):
        finite(rows, photos, type(embedder.pooling).__name__)
    return each


def loaded(
    embedder: Embedder, photos: Sequence[Photo], resolution: int, extract: Extract
) -> tuple[list[list[int]], DataLoader[Batch]]:
    """Indices of the photos of each batch, of one shape unless padded, and a loader of these as `images.Batch`."""
    multiple, square = embedder.backbone.multiple, extract.aspect == "square"
    sizes = images.target_sizes(photos, resolution, multiple, square)
    batches = (by_size if extract.aspect == "padded" else by_shape)(sizes, extract.batch_size)
    loader = DataLoader(
        _Photos(photos, sizes, extract.draft),
        batch_sampler=batches,  # pyright: ignore[reportArgumentType]
        collate_fn=images.padded,
        num_workers=min(extract.workers, len(batches)),
        pin_memory=device_of(extract.device).type == "cuda",
    )
    return batches, cast("DataLoader[Batch]", loader)


@torch.no_grad()
def _vectors(
    embedders: Sequence[Embedder], loader: DataLoader[Batch], extract: Extract
) -> Iterator[list[NDArray[np.float32]]]:
    device, dtype = device_of(extract.device), DTYPES[extract.dtype]
    training, home = embedders[0].training, next(embedders[0].parameters()).device
    backbone = embedders[0].backbone
    for embedder in embedders:
        embedder.eval().to(device)
    try:
        with backbone.compiled() if extract.compile else nullcontext():
            for batch in loader:
                photos, sizes = on_device(batch, backbone, device)
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    each = multi_scale(embedders, photos, extract.scales, extract.aggregate, sizes)
                yield [vectors.float().cpu().numpy() for vectors in each]
    finally:
        for embedder in embedders:
            embedder.train(training).to(home)


def on_device(batch: Batch, backbone: TimmBackbone, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The photos (B, 3, H, W), normalised where they are computed with, 0 in the padding; and their sizes (B, 2)."""
    photos = images.normalised(batch.pixels.to(device, non_blocking=True), backbone.mean, backbone.std)
    if batch.sizes is None:
        return photos, None
    sizes = batch.sizes.to(device)
    return photos.mul_(real_part(sizes, *photos.shape[-2:])[:, None]), sizes


def remembered(
    folder: Path, made_of: Sequence[object], compute: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """What `compute` returns, kept in `folder` under a hash of all that it is made of, this package's code included."""
    digest = hashlib.sha256(repr((made_of, CODE)).encode()).hexdigest()[:32]
    kept = folder / f"{digest}.npy"
    if not kept.is_file():
        rows = compute()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            np.save(file, rows)
        Path(file.name).replace(kept)
    return np.load(kept)


def fingerprint(embedder: Embedder, photos: Sequence[Photo]) -> tuple[str, str]:
    """Hashes of every weight and of every photo's path, size, time of change and box."""
    weights, files = hashlib.sha256(), hashlib.sha256()
    for name, tensor in embedder.state_dict().items():
        weights.update(name.encode() + tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for photo in photos:
        stat = Path(photo.path).stat()
        files.update(repr((Path(photo.path).resolve(), photo, stat.st_size, stat.st_mtime_ns)).encode())
    return weights.hexdigest(), files.hexdigest()


def finite(rows: NDArray[np.float32], photos: Sequence[Photo], by: str) -> None:
    """Raise NotFinite, naming a photo, where a row is not finite; `by` is what gave it."""
    bad = [photo.path for photo, row in zip(photos, rows, strict=True) if not np.isfinite(row).all()]
    if bad:
        raise NotFinite(f"{len(bad)} descriptors are not finite, the first of {bad[0]}, by {by}")
