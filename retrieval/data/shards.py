"""Which photos of a table of landmarks there are in tar archives, told from the archives' headers."""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from retrieval.data import archives, images, transfer
from retrieval.subjects import digest

READERS = 16  # threads that read headers: a disk far away answers many at once


class Landmarks:
    """The number of the landmark that a photo shows, by the photo's id; arrays, as workers would each come to hold a
    copy of a dictionary of a million texts.

    `landmarks`: their names in order. `listed`: the number of each photo, in the order given.
    """

    def __init__(self, names: Sequence[str], labels: Sequence[str]) -> None:
        ids = np.array([name.encode() for name in names])
        self.landmarks, numbers = np.unique(labels, return_inverse=True)
        self.listed: list[int] = numbers.tolist()
        order = np.argsort(ids)
        self.ids, self.numbers = ids[order], numbers[order]

    def number(self, file: str) -> int | None:
        """That of `any/folder/<id>.jpg`; None where the table does not list it, or the file is no photo."""
        name = file.rpartition("/")[2]
        wanted = name.partition(".")[0].encode()
        place = bisect_left(self.ids, wanted)
        listed = place < len(self.ids) and self.ids[place] == wanted and name.lower().endswith(images.SUFFIXES)
        return int(self.numbers[place]) if listed else None

    def has(self, file: str) -> bool:
        return self.number(file) is not None


def counted(shards: Sequence[str], known: Landmarks, cache: Path) -> list[int]:
    """How many of each archive's photos have a landmark; counted once, and kept in `cache` for these archives."""
    about = [(path, Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in shards]
    kept = cache / f"{digest([about, hashlib.sha256(known.ids.tobytes()).hexdigest()])}.json"
    with transfer.alone(cache / "lock"):
        if not kept.exists():
            transfer.write(kept, {"photos": _count(shards, known)})
    return json.loads(kept.read_text())["photos"]


def _count(shards: Sequence[str], known: Landmarks) -> list[int]:
    def listed(shard: str) -> int:
        return sum(map(known.has, archives.names(Path(shard))))

    with ThreadPoolExecutor(READERS) as pool:
        return list(tqdm(pool.map(listed, shards), "counting photos", len(shards), leave=False, disable=None))
