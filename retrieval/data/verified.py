"""A full decode of photos before anything else is done, remembered by their stamps and hashes."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from retrieval.atomic import replace
from retrieval.data import contents, images
from retrieval.data.contents import Stamp
from retrieval.data.images import Photo
from retrieval.data.snapshot import Read, Snapshot
from retrieval.errors import InputError


def verify(photos: Sequence[Photo], may_skip: bool, cache: Path | None) -> Snapshot:
    """Decode every photo; those that cannot be decoded are `faults` where they may be skipped, else UnreadablePhoto.

    What `cache` remembers of files with the same stamps, or the same bytes, is not decoded again.
    """
    files = Snapshot([photo.path for photo in photos] if may_skip else ())
    stamps = files.stamp_all(photos)
    memory = cache / "verified" / f"{_name(photos)}.json" if cache else None
    known = _remembered(memory)
    hashes = set(known.values())

    def check(photo: Photo) -> Read:
        try:
            data, (found, stamp) = contents.read(photo.path, known=True)
        except (InputError, OSError) as error:
            return Read(None, "", f"unreadable photo {photo.path}: {error}")
        return Read(stamp, found, "" if found in hashes else images.fault(photo, data))

    files.hashes.update(known)
    new = [photo for photo, stamp in zip(photos, stamps, strict=True) if stamp not in known]
    with ThreadPoolExecutor() as pool:
        for photo, read in zip(new, tqdm(pool.map(check, new), "checking photos", len(new), leave=False, disable=None),
                               strict=True):  # fmt: skip
            files.note([photo], [read])
    if memory and new:
        good = [photo for photo in photos if photo.path not in files.faults]
        _remember(memory, {files.stamps[photo.path]: files.hash(photo) for photo in good})
    return files


def _name(photos: Sequence[Photo]) -> str:
    above = os.path.commonpath([os.path.dirname(os.path.abspath(photo.path)) for photo in photos])
    return contents.hash_bytes(os.fsencode(above))[:32]


def _remembered(memory: Path | None) -> dict[Stamp, str]:
    if memory is None or not memory.is_file():
        return {}
    return {Stamp(*stamp): digest for stamp, digest in json.loads(memory.read_text())}


def _remember(memory: Path, good: dict[Stamp, str]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(memory.with_suffix(".lock")):
        written = json.dumps(list({**_remembered(memory), **good}.items())).encode()
        replace(memory, lambda file: file.write(written))
