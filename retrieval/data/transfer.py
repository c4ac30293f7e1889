"""One file over HTTP: resumed where it was cut off, checked, whole or not at all."""

import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from retrieval.data.archives import room
from retrieval.errors import InputError

CHUNK = 1 << 18
AGENT = {"User-Agent": "retrieval"}
TRANSIENT = (408, 429)  # besides 500 and above: worth another attempt


class DownloadError(InputError):
    """What was asked for cannot be fetched; the message says from where, why, and what to do by hand."""


class _Interrupted(Exception):
    """An attempt that failed in a way that another one may not."""


def fetch(
    url: str, target: Path, checksum: str | None = None, size: int | None = None, *, timeout: float = 30.0,
    attempts: int = 5, pause: float = 1.0,
) -> Path:  # fmt: skip
    """The file at an http address, at `target`, whole or not at all; one that is there already is only checked.

    Until it is whole it is `<target>.part`, which this and later calls go on with where the server can and still has
    the same file. checksum: 'md5:...' or 'sha256:...'; a file that has another one is removed. size: in bytes. Lost
    connections, 5xx, and a server that sends nothing for `timeout` seconds are tried again, `attempts` times in all,
    after `pause` seconds, then twice as many, and so on.

    Raises DownloadError, which names the address and what to do by hand; InputError where the disk has no room.
    """
    target = Path(target)
    _refuse_malformed(url, checksum)
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone(target.with_name(f".{target.name}.lock")):
        if target.exists():
            _check(target, url, checksum, size)
            return target
        part = target.with_name(f"{target.name}.part")
        _download(url, part, size, timeout, attempts, pause)
        try:
            _check(part, url, checksum, size)
        except DownloadError:
            part.unlink()
            raise
        part.replace(target)
        _note(part).unlink(missing_ok=True)
    return target


def announced(url: str, timeout: float = 30.0) -> int | None:
    """The size in bytes that the server announces for a file, without its content; None where it does not tell."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=AGENT, method="HEAD"), timeout=timeout) as head:
            return _version(head)["size"]
    except (OSError, http.client.HTTPException):
        return None


def digest(path: Path, algorithm: str) -> str:
    """The file's checksum in hexadecimal digits; 'md5' or 'sha256'."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _download(url: str, part: Path, size: int | None, timeout: float, attempts: int, pause: float) -> None:
    for attempt in range(1, attempts + 1):
        try:
            return _attempt(url, part, size, timeout)
        except _Interrupted as error:
            fault = error
        tqdm.write(f"{url}: {fault} (attempt {attempt} of {attempts})")
        if attempt < attempts:
            time.sleep(pause * 2 ** (attempt - 1))
    raise DownloadError(
        f"{url} could not be fetched in {attempts} attempts, the last one: {fault}. What came is kept in {part}: run "
        f"again to go on, or fetch it by hand to {part.with_suffix('')}"
    )


def _attempt(url: str, part: Path, size: int | None, timeout: float) -> None:
    """Goes on with `part`, or begins it; returns when it is whole."""
    kept = _version_of(part, url)
    have = part.stat().st_size if kept else 0
    if kept and have == kept["size"]:
        return
    with _opened(url, part, have, kept, timeout) as response:
        found = _version(response)
        if response.status == http.client.PARTIAL_CONTENT:
            _refuse_other_bytes(response, part, have, kept, found)
        else:  # the whole file: the server cannot go on, or has another file by now
            part.unlink(missing_ok=True)
            have = 0
            write(_note(part), {"url": url, **found})
        total = found["size"]
        if None not in (size, total) and size != total:
            raise DownloadError(f"{url} must have {size} bytes, the server announces {total}")
        room(part.parent, (total or 0) - have, url)
        progress = {"desc": part.stem, "unit": "B", "unit_scale": True, "mininterval": 1}
        with part.open("ab") as file, tqdm(initial=have, total=total, **progress) as bar:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise _Interrupted(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _opened(url: str, part: Path, have: int, kept: dict[str, Any], timeout: float) -> http.client.HTTPResponse:
    headers = dict(AGENT)
    if have:
        strong = kept["etag"] if kept["etag"] and not kept["etag"].startswith("W/") else kept["modified"]
        headers |= {"Range": f"bytes={have}-", **({"If-Range": strong} if strong else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            raise _Interrupted("the server has fewer bytes than came before, so this begins anew") from error
        if error.code >= 500 or error.code in TRANSIENT:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from error
        where = part.with_suffix("")
        raise DownloadError(f"{url} answered {error.code} {error.reason}: fetch it by hand to {where}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"no answer: {error}") from error
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise DownloadError(f"{url} gave a web page, not a file: fetch it by hand to {part.with_suffix('')}")
    return response


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What comes, as it comes: of a connection that is cut, every byte that arrived."""
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"the connection was lost: {error or type(error).__name__}") from error


def _version(response: http.client.HTTPResponse) -> dict[str, Any]:
    """What tells one version of a file from another: validators, and the size in bytes where it is announced."""
    headers = response.headers
    partial = response.status == http.client.PARTIAL_CONTENT
    total = headers.get("Content-Range", "").rpartition("/")[2] if partial else headers.get("Content-Length", "")
    return {
        "etag": headers.get("ETag"),
        "modified": headers.get("Last-Modified"),
        "size": int(total) if total.isdigit() else None,
    }


def _version_of(part: Path, url: str) -> dict[str, Any]:
    """The version whose first bytes `part` holds; empty where that is unknown, which means to begin anew."""
    try:
        kept = json.loads(_note(part).read_text())
    except (OSError, ValueError):
        return {}
    told = any(kept[key] is not None for key in ("etag", "modified", "size"))
    return kept if kept["url"] == url and part.exists() and told else {}


def _refuse_other_bytes(
    response: http.client.HTTPResponse, part: Path, have: int, kept: dict[str, Any], found: dict[str, Any]
) -> None:
    """The rest must begin where `part` ends and be of the same version: servers may overlook `If-Range`."""
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    changed = [key for key in found if None not in (kept[key], found[key]) and kept[key] != found[key]]
    if not start or int(start[1]) != have or changed:
        part.unlink()
        raise _Interrupted(f"the file is another one by now ({', '.join(changed) or 'range'}), so this begins anew")


def _check(path: Path, url: str, checksum: str | None, size: int | None) -> None:
    found = path.stat().st_size
    if size is not None and found != size:
        raise DownloadError(f"{url} must have {size} bytes, {path} has {found}")
    if checksum:
        algorithm, _, expected = checksum.partition(":")
        if (got := digest(path, algorithm)) != expected.lower():
            raise DownloadError(f"{url} must have the {algorithm} {expected}, {path} has {got}")


def _refuse_malformed(url: str, checksum: str | None) -> None:
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"an address must begin with http:// or https://, got {url}")
    if checksum and not re.fullmatch("md5:[0-9a-fA-F]{32}|sha256:[0-9a-fA-F]{64}", checksum):
        raise DownloadError(f"a checksum must be md5:<32 digits> or sha256:<64 digits>, got {checksum!r} for {url}")


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def write(path: Path, content: dict[str, Any]) -> None:
    """The content as JSON, at `path` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(json.dumps(content, indent=1))
    scratch.replace(path)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process works under this lock, and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tqdm.write(f"waiting for another process that holds {path}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
