"""A folder of descriptors filled, gone on with where a killed process left it, and renewed where photos changed.

While that lasts `shards/` holds `manifest.json`, what was asked for, and the shards that are described.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from retrieval import stages
from retrieval.data import contents
from retrieval.data.contents import Content
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
    BLOCK,
    CONTENTS,
    IMAGES,
    MANIFEST,
    ROWS,
    SHARDS,
    UNREADABLE,
    Described,
    read,
    read_json,
    write_contents,
    write_json,
)
from retrieval.embed.models import Model
from retrieval.embed.reading import WORKERS, hidden
from retrieval.embed.shards import save, sharded, stored, summary
from retrieval.errors import InputError
from retrieval.terminal import say

SHARD = 512  # photos, at the least: what a killed process loses at the most
LOCK = ".lock"
COMPARED = ("fingerprint", "name", "dim", "resolution", "scales", "paths")


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
    """Photos described as `describe` does, and kept in `folder`; of one that is finished, or was killed, those alone
    whose files' bytes have changed since.

    Refused is a folder that another process fills, that holds anything else, or descriptors of another model,
    resolution, scales or list of photos. size: photos of a shard, at the least. Raises InputError.
    """
    folder = Path(folder)
    refuse_counts(batch_size, workers)
    paths = reading.found(images)
    manifest = {**manifest_of(model, resolution_of(model, resolution)), "paths": paths_hash(paths)}
    with locked(folder):
        left, changed = started(folder, paths, manifest)
        if changed and progress:
            say(f"{changed} of {len(paths)} photos have changed since they were described: they are described again")
        if (folder / SHARDS / MANIFEST).is_file():
            longer = manifest["resolution"]
            describe_rest(folder / SHARDS, model, paths, left, longer, batch_size, workers, size, progress)
            finish(folder, paths, model.dim)
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


def paths_hash(paths: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path) + b"\0")
    return digest.hexdigest()


def started(folder: Path, paths: Sequence[str], manifest: dict[str, Any]) -> tuple[list[int], int]:
    """Indices of the photos left to describe, and how many of those have changed since they were. What is asked for now
    is written down in `shards/` where there is something to do."""
    shards = folder / SHARDS
    if (shards / MANIFEST).is_file():
        refuse_other(folder, read_json(shards / MANIFEST), manifest)
        last, _, known = summary(shards, len(paths))
        done = np.flatnonzero(last >= 0).tolist()
        now = contents.contents([paths[i] for i in done], [known.get(i) for i in done])
        changed = [i for i, one in zip(done, now, strict=True) if differs(known.get(i), one)]
        return sorted([*changed, *np.flatnonzero(last < 0).tolist()]), len(changed)
    if (folder / MANIFEST).is_file():
        refuse_other(folder, read_json(folder / MANIFEST), manifest)
        changed = reopened(folder, paths, manifest)
        return changed, len(changed)
    if others := sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, SHARDS)):
        raise InputError(f"{folder} holds other files ({', '.join(others[:3])}): name an empty folder, or a new one")
    shards.mkdir(exist_ok=True)
    write_json(shards / MANIFEST, manifest)
    return list(range(len(paths))), 0


def reopened(folder: Path, paths: Sequence[str], manifest: dict[str, Any]) -> list[int]:
    """Indices of the photos of a finished folder that have changed; where some have, shards of all others are made."""
    held, shards = read(folder), folder / SHARDS
    now = contents.contents(paths, [held.contents.get(path) for path in paths])
    changed = [i for i, path in enumerate(paths) if differs(held.contents.get(path), now[i])]
    read_now = {i: one for i, one in enumerate(now) if one}
    if not changed:
        if (by_path := {paths[i]: one for i, one in read_now.items()}) != held.contents:  # copies, with other stamps
            write_contents(folder / CONTENTS, by_path)
        return []
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir()
    index, stale = {path: i for i, path in enumerate(paths)}, set(changed)
    faults = {index[one["path"]]: one["reason"] for one in held.unreadable}
    faults = {i: reason for i, reason in faults.items() if i not in stale}
    kept = [row for row, path in enumerate(held.images) if index[path] not in stale]
    save(shards, [Part([], held.rows[:0], faults, {i: read_now[i] for i in faults if i in read_now})])
    for start in range(0, len(kept), BLOCK):
        rows = kept[start : start + BLOCK]
        indices = [index[held.images[row]] for row in rows]
        save(shards, [Part(indices, held.rows[rows], {}, {i: read_now[i] for i in indices if i in read_now})])
    write_json(shards / MANIFEST, manifest)
    return changed


def differs(before: Content | None, now: Content | None) -> bool:
    return (before and before.hash) != (now and now.hash)


def refuse_other(folder: Path, held: Any, wanted: dict[str, Any]) -> None:
    """Refuse descriptors made of anything else, naming the first difference."""
    for key in COMPARED:
        there = held.get(key) if isinstance(held, dict) else None
        if there != wanted[key]:
            said = f"{key} is {there} there, {wanted[key]} was asked for"
            if key == "paths":
                said = "its photos are others" if there else "an older version wrote it, without hashes of its photos"
            raise InputError(f"{folder} holds other descriptors: {said}; accepted: another folder, or remove this one")


def describe_rest(
    shards: Path,
    model: Model,
    paths: Sequence[str],
    left: Sequence[int],
    resolution: int,
    batch_size: int,
    workers: int,
    size: int,
    progress: bool,
) -> None:
    """Describe the photos that are left, in shards after those that are there."""
    sizes, faults = reading.sizes_of([paths[i] for i in left], resolution, model.multiple, model.size, progress)
    if faults:
        said = {left[at]: reason for at, reason in faults.items()}
        read = {i: one for i in said if (one := contents.content(paths[i]))}
        save(shards, [Part([], np.empty((0, model.dim), np.float32), said, read)])
    planned = sharded([[left[at] for at in batch] for batch in batched(sizes, batch_size)], size)
    batches = (batch for shard in planned for batch in shard)
    parts = described(model, paths, dict(zip(left, sizes, strict=True)), batches, workers)
    done = len(paths) - len(left) + len(faults)
    with stages.bar(total=len(paths), initial=done, desc="describing", disable=hidden(progress)) as bar:
        for shard in planned:
            held = []
            for batch in shard:
                held.append(next(parts))
                bar.update(len(batch))
            save(shards, held)


def finish(folder: Path, paths: Sequence[str], dim: int) -> None:
    """The rows in the order of the photos, and what is said of them; the manifest comes last. Each shard is read twice,
    so that no more than one is in memory."""
    shards = folder / SHARDS
    last, faults, known = summary(shards, len(paths))
    try:
        kept, unreadable = divided(paths, faults)
    except NothingReadable:
        shutil.rmtree(shards)  # nothing to go on with
        raise
    row_of = np.full(len(paths), -1)
    row_of[kept] = np.arange(len(kept))
    rows = np.lib.format.open_memmap(shards / ROWS, "w+", np.float32, (len(kept), dim))
    for number, path in enumerate(stored(shards)):
        with np.load(path, allow_pickle=False) as held:
            mine = last[indices := held["indices"]] == number
            rows[row_of[indices[mine]]] = held["rows"][mine]
    rows.flush()
    write_json(shards / IMAGES, [paths[i] for i in kept])
    write_json(shards / UNREADABLE, unreadable)
    write_contents(shards / CONTENTS, {paths[i]: one for i, one in known.items()})
    (folder / MANIFEST).unlink(missing_ok=True)  # of what is renewed: no one reads half of it
    for name in (ROWS, IMAGES, UNREADABLE, CONTENTS, MANIFEST):
        (shards / name).replace(folder / name)
