"""Photos described by several processes, each its share, for all of them: what training looks at between its epochs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed as dist

from retrieval import extraction, processes
from retrieval.data.images import Photo
from retrieval.data.snapshot import Snapshot
from retrieval.descriptors import Rows
from retrieval.embedder import Embedder
from retrieval.extraction import Extract

T = TypeVar("T")


def describe_together(
    embedder: Embedder,
    photos: Sequence[Photo],
    resolution: int,
    extract: Extract,
    device: str,
    once: bool = False,
    files: Snapshot | None = None,
) -> Rows:
    """Descriptors (N, d), float32 unit rows in the order of `photos`, on every process; each describes a share of them.

    At one scale and not compiled, whatever `extract` says, on `device`, which is this process's own. Batches are those
    of one process, so rows are too. once: see `extraction.vectors`. The embedder's mode and torch's random numbers are
    left as they were. An unreadable photo raises UnreadablePhoto, a descriptor that is not finite NotFinite, on the
    process that met it. files: see `extraction.vectors`; a photo that it lets be skipped has a row of NaN everywhere.
    """
    files = files or Snapshot()
    extract = replace(extract, scales=(1.0,), compile=False, device=device)
    extraction.check(embedder, [resolution], extract.scales, extract.aspect)
    batches = share(extraction.plan(embedder, photos, resolution, extract, None, files))
    rows = np.zeros((len(photos), embedder.dim), dtype=np.float32)
    for indices, (of_batch,) in extraction.vectors([embedder], photos, batches, resolution, extract, once, files):
        rows[indices] = of_batch
    return united(rows, device)


def share(items: Sequence[T]) -> Sequence[T]:
    """Every n-th of the items, for this one of n processes; the shares may differ by one. All items where one works."""
    return items[processes.rank() :: processes.world_size()] if processes.joined() else items


def united(own: NDArray[Any], device: str) -> NDArray[Any]:
    """The entries of all processes, each of which holds its own and 0 in the others' place: their sum, which is exact.

    device: where the processes' tensors are exchanged, a GPU's for NCCL.
    """
    if not processes.joined():
        return own
    whole = torch.from_numpy(own).to(device)
    dist.all_reduce(whole)
    return whole.cpu().numpy()
