"""A folder of descriptors filled, and gone on with where a killed process left it.

While that lasts `shards/` holds `manifest.json`, what was asked for, `plan.json`, the sizes of the photos, and for each
shard, once it is described, `00000.npz`: indices of photos, their rows, and why others could not be described.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from retrieval.atomic import replace
from retrieval.embed import reading
from retrieval.embed.describing import (
    BATCH,
    NothingReadable,
    Part,
    batched,
    described,
    divided,
    manifest_of,
    refuse_counts,
    resolution_of,
)
from retrieval.embed.folder import (
    IMAGES,
    MANIFEST,
    ROWS,
    SHARDS,
    UNREADABLE,
    Described,
    read,
    read_json,
    write_json,
)
from retrieval.embed.models import Model
from retrieval.embed.reading import WORKERS, Faults, hidden
from retrieval.errors import InputError

SHARD = 512  # photos, at the least: what a killed process loses at the most
LOCK = ".lock"
COMPARED = ("fingerprint", "name", "dim", "resolution", "scales", "photos")


def fill(
    folder: str | Path,
    model: Model,
    images: Sequence[str],
    resolution: int | None = None,
    batch_size: int = BATCH,
    workers: int = WORKERS,
    progress: bool = True,
    size: int = SHARD,
) -> Described:
    """Photos described as `describe` does, and kept in `folder`; one that is finished is read.

    Refused is a folder that another process fills, that holds anything else, or descriptors of another model,
    resolution, scales or photos. size: photos of a shard, at the least. Raises InputError.
    """
    folder = Path(folder)
    refuse_counts(batch_size, workers)
    paths = reading.found(images)
    manifest = {**manifest_of(model, resolution_of(model, resolution)), "photos": photos_hash(paths)}
    with locked(folder):
        if not (folder / MANIFEST).is_file():
            refuse_or_start(folder, manifest)
            describe_rest(folder / SHARDS, model, paths, manifest["resolution"], batch_size, workers, size, progress)
            finish(folder, paths, model.dim)
        refuse_other(folder, read_json(folder / MANIFEST), manifest)
        shutil.rmtree(folder / SHARDS, ignore_errors=True)
        return read(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it no other process fills the folder; the system lets go of the lock however this one ends."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{folder} is being filled by another process: wait for it, or name another folder") from error
    except OSError as error:
        raise InputError(f"{folder} is no folder that can be written to: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def photos_hash(paths: Sequence[str]) -> str:
    """A hash of every path, size and time of change."""
    digest = hashlib.sha256()
    for path in paths:
        stat = os.stat(path) if os.path.exists(path) else None
        digest.update(repr((path, stat and (stat.st_size, stat.st_mtime_ns))).encode())
    return digest.hexdigest()


def refuse_or_start(folder: Path, manifest: dict[str, Any]) -> None:
    """Go on with what was asked for before, or write down what is asked for now."""
    asked = folder / SHARDS / MANIFEST
    if asked.is_file():
        return refuse_other(folder, read_json(asked), manifest)
    if others := sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, SHARDS)):
        raise InputError(f"{folder} holds other files ({', '.join(others[:3])}): name an empty folder, or a new one")
    asked.parent.mkdir(exist_ok=True)
    return write_json(asked, manifest)


def refuse_other(folder: Path, held: Any, wanted: dict[str, Any]) -> None:
    """Refuse descriptors made of anything else, naming the first difference."""
    for key in COMPARED:
        there = held.get(key) if isinstance(held, dict) else None
        if there != wanted[key]:
            said = f"{key} is {there} there, {wanted[key]} was asked for"
            if key == "photos":
                said = "its photos are others, or have changed since"
            raise InputError(f"{folder} holds other descriptors: {said}; accepted: another folder, or remove this one")


def describe_rest(
    shards: Path,
    model: Model,
    paths: Sequence[str],
    resolution: int,
    batch_size: int,
    workers: int,
    size: int,
    progress: bool,
) -> None:
    """Describe the photos of the shards that are not there yet."""
    if not (shards / "plan.json").is_file():
        sizes, faults = reading.sizes_of(paths, resolution, model.multiple, model.size, progress)
        plan = {"sizes": sizes, "faults": faults, "shards": sharded(batched(sizes, batch_size), size)}
        write_json(shards / "plan.json", plan)
    plan = read_json(shards / "plan.json")
    lacking = [i for i in range(len(plan["shards"])) if not shard_path(shards, i).is_file()]
    left = sum(len(batch) for i in lacking for batch in plan["shards"][i])
    bar = tqdm(total=len(paths), initial=len(paths) - left, desc="describing", disable=hidden(progress))
    batches = (batch for i in lacking for batch in plan["shards"][i])
    parts = described(model, paths, [size and tuple(size) for size in plan["sizes"]], batches, workers)
    with bar:
        for i in lacking:
            done = []
            for batch in plan["shards"][i]:
                done.append(next(parts))
                bar.update(len(batch))
            save_shard(shard_path(shards, i), done)


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


def shard_path(shards: Path, i: int) -> Path:
    return shards / f"{i:05}.npz"


def save_shard(path: Path, parts: Sequence[Part]) -> None:
    indices = np.array([i for part in parts for i in part.indices], dtype=np.int64)
    faults = json.dumps({i: reason for part in parts for i, reason in part.faults.items()})
    rows = np.concatenate([part.rows for part in parts])
    replace(path, lambda file: np.savez(file, indices=indices, rows=rows, faults=np.array(faults)))


def read_shard(path: Path) -> Part:
    with np.load(path, allow_pickle=False) as held:
        return Part(held["indices"].tolist(), held["rows"], of_json(json.loads(str(held["faults"]))))


def of_json(faults: dict[str, str]) -> Faults:
    return {int(i): reason for i, reason in faults.items()}


def finish(folder: Path, paths: Sequence[str], dim: int) -> None:
    """The rows in the order of the photos, and what is said of them; the manifest comes last. Each shard is read twice,
    so that no more than one is in memory."""
    shards = folder / SHARDS
    plan = read_json(shards / "plan.json")
    files = [shard_path(shards, i) for i in range(len(plan["shards"]))]
    faults = of_json(plan["faults"])
    for file in files:
        faults |= read_shard(file).faults
    try:
        kept, unreadable = divided(paths, faults)
    except NothingReadable:
        shutil.rmtree(shards)  # nothing to go on with
        raise
    row_of = np.full(len(paths), -1)
    row_of[kept] = np.arange(len(kept))
    rows = np.lib.format.open_memmap(shards / ROWS, "w+", np.float32, (len(kept), dim))
    for file in files:
        shard = read_shard(file)
        rows[row_of[shard.indices]] = shard.rows
    rows.flush()
    write_json(shards / IMAGES, [paths[i] for i in kept])
    write_json(shards / UNREADABLE, unreadable)
    for name in (ROWS, IMAGES, UNREADABLE, MANIFEST):
        (shards / name).replace(folder / name)
