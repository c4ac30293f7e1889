"""Photos through a model, batch by batch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrieval import stages
from retrieval.data.contents import Content
from retrieval.data.images import Size, by_shape
from retrieval.embed import reading
from retrieval.embed.folder import Described, Rows
from retrieval.embed.models import Model
from retrieval.embed.reading import WORKERS, Faults, hidden
from retrieval.errors import InputError
from retrieval.spec import MOST

BATCH = 16


class NothingReadable(InputError):
    """None of the photos could be described."""


class Part(NamedTuple):
    """Of a batch: the photos that were described, their rows (n, d), why the others were not, and the contents read."""

    indices: list[int]
    rows: Rows
    faults: Faults
    contents: dict[int, Content]


def describe(
    model: Model,
    images: str | Path | Iterable[str | Path],
    resolution: int | None = None,
    batch_size: int = BATCH,
    workers: int = WORKERS,
    progress: bool = False,
) -> Described:
    """Unit rows of photos, in memory.

    images: photos and folders, see `reading.found`. resolution: longer side in pixels (the model's own if not given).
    workers: threads that decode. Photos that cannot be described are in `.unreadable`; raises InputError where that is
    all of them.
    """
    resolution = resolution_of(model, resolution)
    refuse_counts(batch_size, workers)
    paths = reading.found([images] if isinstance(images, str | Path) else images)
    sizes, faults = reading.sizes_of(paths, resolution, model.multiple, model.size, progress)
    rows, contents = np.empty((len(paths), model.dim), dtype=np.float32), {}
    with stages.bar(total=len(paths), initial=len(faults), desc="describing", disable=hidden(progress)) as bar:
        for part in described(model, paths, sizes, batched(sizes, batch_size), workers):
            rows[part.indices] = part.rows
            faults |= part.faults
            contents |= {paths[i]: content for i, content in part.contents.items()}
            bar.update(len(part.indices) + len(part.faults))
    kept, unreadable = divided(paths, faults)
    return Described(rows[kept], [paths[i] for i in kept], manifest_of(model, resolution), unreadable, contents)


def described(
    model: Model,
    paths: Sequence[str],
    sizes: Mapping[int, Size | None] | Sequence[Size | None],
    batches: Iterable[list[int]],
    workers: int,
) -> Iterator[Part]:
    """The rows of each batch, whose photos have one size."""
    for indices, photos, faults, contents in reading.decoded(paths, sizes, batches, workers):
        rows = np.empty((0, model.dim), dtype=np.float32)
        if photos:
            try:
                rows = model(np.stack(photos).transpose(0, 3, 1, 2))
            except InputError as error:  # too small for it
                faults |= dict.fromkeys(indices, str(error))
                indices = []
        bad = [i for i, row in zip(indices, rows, strict=True) if not np.isfinite(row).all()]
        faults |= dict.fromkeys(bad, f"its descriptor by {model.name} is not finite")
        yield Part([i for i in indices if i not in bad], rows[np.isfinite(rows).all(axis=1)], faults, contents)


def batched(sizes: Sequence[Size | None], batch_size: int) -> list[list[int]]:
    """Batches of the photos of one size; those without one are in none."""
    known = [i for i, size in enumerate(sizes) if size is not None]
    return [[known[i] for i in batch] for batch in by_shape([sizes[i] for i in known], batch_size)]


def divided(paths: Sequence[str], faults: Faults) -> tuple[list[int], list[dict[str, str]]]:
    """Indices of the photos described, and what is said of the others. Raises NothingReadable."""
    unreadable = [{"path": paths[i], "reason": faults[i]} for i in sorted(faults)]
    if len(faults) == len(paths):
        raise NothingReadable(f"none of {len(paths)} photos can be described; {paths[0]}: {faults[0]}")
    return [i for i in range(len(paths)) if i not in faults], unreadable


def resolution_of(model: Model, asked: int | None) -> int:
    """Longer side of the photos; another one than that of a model of one size is refused."""
    if asked is None:
        return max(model.size or [model.resolution])
    if not 1 <= asked <= MOST:
        raise InputError(f"the resolution must be a whole number from 1 to {MOST}, got {asked}")
    if model.size and asked != max(model.size):
        raise InputError(
            f"{model.source} takes photos of {model.size[0]} x {model.size[1]} alone: accepted is no resolution, or "
            f"{max(model.size)}, got {asked}"
        )
    return asked


def refuse_counts(batch_size: int, workers: int) -> None:
    if batch_size < 1 or workers < 1:
        raise InputError(f"batch size and workers must be at least 1, got {batch_size} and {workers}")


def manifest_of(model: Model, resolution: int) -> dict[str, Any]:
    """What made the rows."""
    said = {key: getattr(model, key) for key in ("fingerprint", "name", "dim")}
    return {"model": model.source, **said, "resolution": resolution, "scales": list(model.scales)}
