"""Data sets and networks from their official addresses, laid out as the benchmarks read them.

- `root/<set>/...`: the files, as `sources.py` says
- `root/<set>/.fetched/<file>`: on its way; it is moved to its place, or unpacked there, when it is whole
- `root/<set>/.fetched/<file>.json`: what was fetched (address, bytes, sha256) and that its place is finished
"""

import json
import re
from pathlib import Path
from typing import Any

from tqdm import tqdm

from retrieval.data.archives import BrokenArchive, room, unpack
from retrieval.data.sources import SOURCES, File, Source
from retrieval.data.transfer import DownloadError, alone, announced, digest, fetch, write
from retrieval.errors import InputError, near

__all__ = ["SOURCES", "DownloadError", "fetch", "prepare", "unpack"]


def prepare(name: str, root: Path, base: str | None = None, **how: Any) -> None:
    """All files of a set of `sources.SOURCES` below `root`, in the layout that its benchmark reads.

    What is finished is not fetched again, what was cut off goes on. Archives are removed once unpacked. Photos that
    another set has below the same root are linked, not fetched twice (Oxford and its revisited form). Processes that
    prepare one set at the same time wait for each other. base: the address of a mirror, which has
    `<base>/<host>/<path>` for each official `https://<host>/<path>`. how: `timeout`, `attempts`, `pause` of `fetch`.

    Raises InputError for an unknown name, for too little room and for what must be fetched by hand; DownloadError.
    """
    if name not in SOURCES:
        raise InputError(f"no data set or network '{name}' can be fetched: {near(name, SOURCES)}")
    source, root = SOURCES[name], Path(root)
    folder = root / source.folder
    if all(_finished(folder, file) for file in source.files):
        return
    with alone(folder / ".fetched" / "lock"):
        _link(source, root, folder)
        missing = [file for file in source.files if not _finished(folder, file)]
        if not missing or _laid_out_by_hand(source, folder):
            return
        tqdm.write(f"{name}: {source.terms}")
        room(folder, _announced(source, missing, base, how), name)
        for file in missing:
            _bring(file, source, folder, base, how)


def advice(key: str, fetched: str, root: str | Path) -> str:
    """What to type where a set is missing. key: of the config, the one that has `download`."""
    return f"{key}.download=true fetches {fetched}. {elsewhere(root)}"


def elsewhere(root: str | Path) -> str:
    return f"Where sets lie below another folder than {root}, the environment variable RETRIEVAL_DATA=DIR names it"


def _bring(file: File, source: Source, folder: Path, base: str | None, how: dict[str, Any]) -> None:
    """Fetches a file, puts it or what it holds in its place, and notes that this is finished."""
    place, note = folder / file.to, _finish(folder, file)
    checksum = None
    if source.by_hand:
        path = folder / file.name
        if not path.exists():
            raise InputError(source.by_hand.format(folder=folder))
    else:
        checksum = _published(file, note.parent, base, how)
        path = fetch(_address(file.url, base), note.with_suffix(""), checksum, **how)
    about = {"url": file.url, "bytes": path.stat().st_size, "sha256": digest(path, "sha256"), "checked": checksum}
    if file.unpack:
        try:
            made = unpack(path, place, file.flat)
        except BrokenArchive as error:
            if source.by_hand:
                raise
            path.unlink()
            raise DownloadError(f"{error}; it came from {file.url} and is removed: run again") from error
    else:
        place.mkdir(parents=True, exist_ok=True)
        made = [path.replace(place / file.name)]
    write(note, {**about, "files": len(made), "last": str(made[-1].relative_to(folder))})
    if not source.by_hand:
        path.unlink(missing_ok=True)


def _announced(source: Source, missing: list[File], base: str | None, how: dict[str, Any]) -> int:
    """Bytes of what is missing, as far as its servers tell beforehand."""
    total = 0
    for file in missing if not source.by_hand else ():
        size = announced(_address(file.url, base), how.get("timeout", 30.0))
        if size is None:
            break  # a server that does not tell would be waited for at each of its files
        total += size
    return total


def _published(file: File, inbox: Path, base: str | None, how: dict[str, Any]) -> str | None:
    """The checksum that the file's authors publish beside it."""
    if file.md5_at is None:
        return None
    text = fetch(_address(file.md5_at, base), inbox / file.md5_at.rpartition("/")[2], **how)
    word = (text.read_text(errors="replace").split() or [""])[0]
    text.unlink()
    if not re.fullmatch("[0-9a-fA-F]{32}", word):
        raise DownloadError(f"{file.md5_at} must begin with an md5 of 32 hexadecimal digits, it begins with {word!r}")
    return f"md5:{word}"


def _link(source: Source, root: Path, folder: Path) -> None:
    """Photos that another set below `root` has whole are linked."""
    photos, place = [file for file in source.files if file.to == "jpg"], folder / "jpg"
    if place.is_symlink() and not place.exists():
        place.unlink()  # the other set was removed
    for other in SOURCES.values():
        there = root / other.folder
        same = bool(photos) and other.folder != source.folder and set(photos) <= set(other.files)
        if same and not place.exists() and all(_finished(there, file) for file in photos):
            for file in photos:
                write(_finish(folder, file), json.loads(_finish(there, file).read_text()))
            place.symlink_to(Path("..") / other.folder / "jpg", target_is_directory=True)


def _laid_out_by_hand(source: Source, folder: Path) -> bool:
    """Photos stand in a folder that nothing here has unpacked."""
    begun = any(_finished(folder, file) or (folder / file.name).exists() for file in source.files)
    return source.by_hand is not None and not begun and any(folder.glob("*.jpg"))


def _finished(folder: Path, file: File) -> bool:
    note = _finish(folder, file)
    return note.exists() and (folder / json.loads(note.read_text())["last"]).exists()


def _finish(folder: Path, file: File) -> Path:
    return folder / ".fetched" / file.to / f"{file.name}.json"


def _address(url: str, base: str | None) -> str:
    return url if base is None else f"{base.rstrip('/')}/{url.partition('://')[2]}"
