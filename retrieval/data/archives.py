"""Unpacking archives that strangers made: plain files alone, inside the folder alone, all of them or none."""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PureWindowsPath
from typing import IO, cast

from tqdm import tqdm

from retrieval.errors import InputError

UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)


class BrokenArchive(InputError):
    """An archive that cannot be read to its end."""


class UnsafeArchive(InputError):
    """An archive that would put something else than files, or put them elsewhere than asked."""


def unpack(archive: Path, folder: Path, flat: bool = False) -> list[Path]:
    """The files of a .zip or of a tar (plain, gz, bz2 or xz), put into `folder`, in alphabetic order.

    They are unpacked into a hidden folder beside each other first and moved when all are there, so a call that was
    killed leaves none of them in sight, and the next one begins anew; files of the same names are replaced.
    flat: they go straight into `folder`, without the archive's own folders and without its hidden files.

    Raises UnsafeArchive where a member is a link or a device, would lie outside `folder`, or has the name of another
    (flat); BrokenArchive where it cannot be read; InputError where the disk has less room than the archive takes. What
    is refused leaves nothing in `folder`.
    """
    archive, folder = Path(archive), Path(folder)
    scratch = folder / f".{archive.name}.unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        room(folder, archive.stat().st_size, archive.name)
        (_unzip if archive.suffix.lower() == ".zip" else _untar)(archive, scratch)
        return _moved(archive, scratch, folder, flat)
    except UnsafeArchive as error:
        raise UnsafeArchive(f"{archive} is refused: {error}") from error
    except UNREADABLE as error:
        raise BrokenArchive(f"{archive} is no whole tar or zip archive: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def room(folder: Path, needed: int, what: str) -> None:
    """Refuse what the disk has no room for; `needed` in bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{what} needs {needed / 1e9:.2f} GB in {folder}, the disk has {free / 1e9:.2f} GB left")


def _untar(archive: Path, scratch: Path) -> None:
    progress = {"total": archive.stat().st_size, "desc": f"unpacking {archive.name}"}
    with (
        archive.open("rb") as file,
        tqdm.wrapattr(file, "read", mininterval=1, **progress) as counted,
        tarfile.open(fileobj=cast(IO[bytes], counted), mode="r:*") as tar,
    ):
        tar.extractall(scratch, filter=_plain)
        _refuse_cut_off(tar)


def names(archive: Path) -> list[str]:
    """The files that a tar without compression holds, from its headers alone; BrokenArchive where it is cut off."""
    try:
        with tarfile.open(archive, "r:") as tar:
            held = [member.name for member in tar if member.isreg()]
            _refuse_cut_off(tar)
    except (*UNREADABLE, OSError) as error:
        raise BrokenArchive(f"{archive} is no whole tar archive: {error}") from error
    return held


def _refuse_cut_off(tar: tarfile.TarFile) -> None:
    """Where the next header should be and is none, tarfile takes the archive for ended."""
    tar.fileobj.seek(tar.offset)  # pyright: ignore[reportOptionalMemberAccess]
    if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # pyright: ignore
        raise tarfile.ReadError(f"it breaks off or is damaged after {tar.offset} bytes")


def _plain(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Python's own filter for data, stricter: sets of photos have no links, so none is let in."""
    _inside(member.name)
    if not member.isreg() and not member.isdir():
        raise UnsafeArchive(f"an archive may hold files and folders alone: {member.name} is neither")
    return tarfile.data_filter(member, folder)


def _unzip(archive: Path, scratch: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            _inside(member.filename)
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UnsafeArchive(f"an archive may hold files and folders alone: {member.filename} is neither")
        for member in tqdm(file.infolist(), desc=f"unpacking {archive.name}", mininterval=1):
            file.extract(member, scratch)


def _inside(name: str) -> None:
    path = PureWindowsPath(name)  # splits at either slash, and knows drives
    if path.drive or path.root or ".." in path.parts:
        raise UnsafeArchive(f"an archive's files must lie inside it: {name!r} leads out of the folder")


def _moved(archive: Path, scratch: Path, folder: Path, flat: bool) -> list[Path]:
    files = [path for path in sorted(scratch.rglob("*")) if path.is_file()]
    if flat:
        files = [path for path in files if not path.name.startswith(".")]
    targets = [folder / (path.name if flat else path.relative_to(scratch)) for path in files]
    if not files:
        raise BrokenArchive(f"{archive} holds no files")
    if len(set(targets)) < len(targets):
        twice = next(target.name for i, target in enumerate(targets) if target in targets[:i])
        raise UnsafeArchive(f"files that go into one folder need different names: {twice} comes twice")
    for path, target in zip(files, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    return sorted(targets)
