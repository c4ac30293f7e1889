"""A folder of descriptors: described once, kept in shards, gone on with where a killed process left it.

`manifest.json` says what made it, `batches.json` which photos were described together, `shard-00000.npy`, ... hold
their rows. A file is there whole or not at all. Any number of processes may fill one store: a shard is worked on under
a lock, which the system lets go of when its process ends, however it ends.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import nn
from tqdm import tqdm

from retrieval import extraction, stages
from retrieval.atomic import replace
from retrieval.descriptors import Descriptors
from retrieval.errors import InputError
from retrieval.extraction import Extract

SHARD = 512  # photos, at the least: what a killed process loses at the most
DTYPES = ("float32", "float16")
VERSIONS = {library: version(library) for library in ("torch", "timm", "lightning", "numpy", "pillow")}
HERE = Path(__file__).parent
# Read when the module is: what a running program computes does not change with its files.
CODE = hashlib.sha256(
    b"".join(
        file.read_bytes()
        for part in (
            "backbones",
            "timm_models",
            "poolings",
            "features",
            "heads",
            "embedder",
            "extraction",
            "frozen",
            "scales",
            "data",
            "store",
            "reuse",
        )
        for file in sorted(HERE.glob(f"{part}*/*.py")) + sorted(HERE.glob(f"{part}.py"))
    )
).hexdigest()

NO_MATTER = ("resolutions", "workers", "device", "store", "store_dtype")  # how it is done, not what comes out

Batches = list[list[int]]
Describe = Callable[[Iterable[list[int]]], Iterator[tuple[list[int], Sequence[Any]]]]


class Store:
    """Descriptors (count, dim) in `folder`, made of what `made_of` says (names to plain values).

    A folder that holds descriptors made of anything else is refused, the difference named. A shard has at least
    `size` rows. entry: what is noted of a row beside it, by its index, in JSON's types.
    """

    suffix = ".npy"

    def __init__(
        self,
        folder: Path,
        made_of: Mapping[str, Any],
        count: int,
        dim: int,
        dtype: str = "float32",
        size: int = SHARD,
        entry: Callable[[int], Any] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"descriptors are kept as {' or '.join(DTYPES)}, got {dtype!r}")
        self.folder, self.count, self.dtype, self.size, self.entry = folder, count, np.dtype(dtype), size, entry
        refuse_other(folder, {**made_of, "count": count, "dim": dim, "kept_as": dtype, "shard": size})

    def shards(self, plan: Callable[[], Batches]) -> list[Batches]:
        """The batches of each shard; `plan` gives those of all photos, and is asked once in a store's life."""
        with self.locked("manifest"):
            batches: Batches = read_or_write(self.folder / "batches.json", plan)
        shards, room = [], 0
        for batch in batches:
            if room <= 0:
                shards.append([])
                room = self.size
            shards[-1].append(batch)
            room -= len(batch)
        return shards

    def whole(self) -> bool:
        """Whether every row is there."""
        planned = (self.folder / "batches.json").is_file()
        return planned and all(self.has(shard) for shard in range(len(self.shards(list))))

    def has(self, shard: int) -> bool:
        return self.path(shard).is_file()

    def path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05}{self.suffix}"

    def write(self, shard: int, parts: Sequence[Any], indices: Sequence[int]) -> None:
        """Keep what the batches of a shard gave, whose lock is held; a full disk costs this shard alone."""
        for left in self.folder.glob(f"{self.path(shard).stem}.*.tmp"):  # by a process that was killed
            left.unlink()
        if self.entry:  # first, as a shard that is there is whole
            noted = json.dumps([self.entry(index) for index in indices]).encode()
            replace(self.path(shard).with_suffix(".json"), lambda file: file.write(noted))
        replace(self.path(shard), lambda file: self.save(file, parts))

    def save(self, file: BinaryIO, parts: Sequence[Any]) -> None:
        np.save(file, np.concatenate(parts).astype(self.dtype))

    def locked(self, name: str, timeout: float = -1) -> FileLock:
        """A lock between processes, waited for `timeout` seconds at most (-1: as long as it takes)."""
        return locked(self.folder, name, timeout)

    def opened(self, shards: Sequence[Batches]) -> Descriptors:
        """All rows, in the order of the photos; every shard must be there."""
        places = np.empty(self.count, dtype=np.int64)
        places[[index for batches in shards for batch in batches for index in batch]] = np.arange(self.count)
        return Descriptors([self.path(shard) for shard in range(len(shards))], places)


class Counted:
    """Describes as `describe` does, and counts the photos and the seconds that they took, without what is done to
    keep them."""

    def __init__(self, describe: Describe) -> None:
        self.describe, self.photos, self.seconds = describe, 0, 0.0

    def __call__(self, batches: Iterable[list[int]]) -> Iterator[tuple[list[int], Sequence[Any]]]:
        start = time.perf_counter()
        for indices, rows in self.describe(batches):
            self.seconds += time.perf_counter() - start
            self.photos += len(indices)
            yield indices, rows
            start = time.perf_counter()


def fill(
    stores: Sequence[Store], plan: Callable[[], Batches], describe: Describe, title: str = ""
) -> list[Descriptors]:
    """The descriptors of each store; shards that one of them lacks are described for all, in one pass.

    describe: batches of indices -> the indices and the rows (n, d) for each store, batch by batch. What other processes
    are working on is waited for, and taken over where they die.
    """
    shards = complete(stores, plan, describe, title)
    return [store.opened(shards) for store in stores]


def complete(
    stores: Sequence[Store], plan: Callable[[], Batches], describe: Describe, title: str = ""
) -> list[Batches]:
    """Fill the stores, whatever they keep of each batch; the batches of each shard."""
    shards = [store.shards(plan) for store in stores][-1]
    there = sum(len(batch) for i, batches in enumerate(shards) if not _lacking(stores, i) for batch in batches)
    with stages.bar(total=stores[0].count, initial=there, desc=title, disable=None if title else True) as bar:
        while lacking := [i for i in range(len(shards)) if _lacking(stores, i)]:
            if not _described(stores, shards, lacking, describe, bar):
                time.sleep(0.2)
    return shards


def _described(
    stores: Sequence[Store], shards: list[Batches], wanted: Sequence[int], describe: Describe, bar: tqdm
) -> int:
    """Describe those of the shards that no other process is working on; how many there were."""
    claimed: deque[tuple[int, ExitStack]] = deque()
    parts: list[Sequence[Any]] = []
    finished = 0

    def claims() -> Iterator[list[int]]:  # runs ahead of the rows, as workers load what comes next
        for shard in wanted:
            if locks := _claim(stores, shard):
                claimed.append((shard, locks))
                yield from shards[shard]

    try:
        for indices, rows in describe(claims()):
            parts.append(rows)
            bar.update(len(indices))
            shard, locks = claimed[0]
            if len(parts) == len(shards[shard]):
                for store, of_store in zip(stores, zip(*parts, strict=True), strict=True):
                    if not store.has(shard):
                        store.write(shard, of_store, [index for batch in shards[shard] for index in batch])
                claimed.popleft()[1].close()
                parts, finished = [], finished + 1
    finally:
        for _, locks in claimed:
            locks.close()
    return finished


def _lacking(stores: Sequence[Store], shard: int) -> list[Store]:
    return [store for store in stores if not store.has(shard)]


def _claim(stores: Sequence[Store], shard: int) -> ExitStack | None:
    """The locks of the stores that lack a shard; None where another process has one of them, or all are done."""
    with ExitStack() as locks:
        try:
            for store in sorted(_lacking(stores, shard), key=lambda store: store.folder):  # or two hold one each
                locks.enter_context(store.locked(f"shard-{shard:05}", timeout=0))
        except Timeout:
            return None
        return locks.pop_all() if _lacking(stores, shard) else None


def locked(folder: Path, name: str, timeout: float = -1) -> FileLock:
    """A lock between processes, waited for `timeout` seconds at most (-1: as long as it takes)."""
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "locks" / name, timeout=timeout)


def refuse_other(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Note in a folder what made its descriptors; refuse one whose descriptors were made of anything else."""
    wanted = json.loads(json.dumps(made_of))
    with locked(folder, "manifest"):
        held = read_or_write(folder / "manifest.json", lambda: wanted)
    for key in wanted.keys() | held.keys():
        if wanted.get(key) != held.get(key):
            raise InputError(
                f"{folder} holds descriptors made otherwise: {key} is {held.get(key)} there, {wanted.get(key)} was "
                "asked for; accepted: another folder, or none, or remove this one"
            )


def read_or_write(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file says, which is made where it is not there."""
    if not path.is_file():
        made = json.dumps(make()).encode()
        replace(path, lambda file: file.write(made))
    return json.loads(path.read_text())


def made_of(embedder: nn.Module, extract: Extract, resolution: int) -> dict[str, Any]:
    """All that decides the descriptors of photos beside these: weights, how they are described, this package's code."""
    how = {key: value for key, value in asdict(extract).items() if key not in NO_MATTER}
    device = extraction.device_of(extract.device).type
    return {"weights": fingerprint(embedder), "resolution": resolution, **how, "device": device, "code": CODE}


def fingerprint(embedder: nn.Module) -> str:
    """A hash of every weight, computed once as long as none changes."""
    weights = embedder.state_dict()
    state = [(name, tensor.data_ptr(), tensor._version) for name, tensor in weights.items()]
    if (known := _FINGERPRINTS.get(embedder)) and known[0] == state:
        return known[1]
    found = hashlib.sha256()
    for name, tensor in weights.items():
        found.update(name.encode() + tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    _FINGERPRINTS[embedder] = state, found.hexdigest()
    return found.hexdigest()


_FINGERPRINTS: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


def digest(made_of: Any) -> str:
    """The name of a folder for what is made so."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=list).encode()).hexdigest()[:32]
