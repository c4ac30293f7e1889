"""Shards of a folder of descriptors that is being filled.

`00000.npz` holds indices of photos, their rows, why others could not be described, and the contents of the files. Of a
photo in several shards the last one counts.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval.atomic import replace
from retrieval.data.contents import Content, Stamp
from retrieval.descriptors import Indices
from retrieval.embed.describing import Part
from retrieval.embed.reading import Faults


def sharded(batches: Sequence[list[int]], size: int) -> list[list[list[int]]]:
    """Batches in shards of at least `size` photos."""
    shards: list[list[list[int]]] = []
    room = 0
    for batch in batches:
        if room <= 0:
            shards.append([])
            room = size
        shards[-1].append(batch)
        room -= len(batch)
    return shards


def stored(shards: Path) -> list[Path]:
    return sorted(shards.glob("*.npz"))


def save(shards: Path, parts: Sequence[Part]) -> None:
    """Write the next shard."""
    indices = np.array([i for part in parts for i in part.indices], dtype=np.int64)
    faults = json.dumps({i: reason for part in parts for i, reason in part.faults.items()})
    contents = json.dumps({i: one for part in parts for i, one in part.contents.items()})
    rows = np.concatenate([part.rows for part in parts])
    path = shards / f"{len(stored(shards)):05}.npz"
    replace(
        path,
        lambda file: np.savez(file, indices=indices, rows=rows, faults=np.array(faults), contents=np.array(contents)),
    )


def _read(path: Path) -> tuple[list[int], Faults, dict[int, Content]]:
    """A shard without its rows."""
    with np.load(path, allow_pickle=False) as held:
        faults, contents = json.loads(str(held["faults"])), json.loads(str(held["contents"]))
        read = {int(i): Content(hashed, Stamp(*stamp)) for i, (hashed, stamp) in contents.items()}
        return held["indices"].tolist(), {int(i): reason for i, reason in faults.items()}, read


def summary(shards: Path, count: int) -> tuple[Indices, Faults, dict[int, Content]]:
    """Number of the last shard of each photo, -1 where there is none, and what these say."""
    last, faults, contents = np.full(count, -1), {}, {}
    for number, path in enumerate(stored(shards)):
        indices, unread, read = _read(path)
        for i in (*indices, *unread):
            last[i] = number
            faults.pop(i, None)
            contents.pop(i, None)
        faults |= unread
        contents |= read
    return last, faults, contents
