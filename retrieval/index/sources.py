"""Where the rows of an index come from: folders of descriptors, and photos, which are described first."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrieval.data.contents import Content, content, contents
from retrieval.descriptors import Descriptors
from retrieval.embed import Described, Model, folder, load, reading
from retrieval.errors import InputError

Source = str | Path | Described
Manifest = Mapping[str, Any]
ALIKE = ("fingerprint", "dim", "resolution", "scales")  # else scores would compare unlike with unlike


@dataclass(frozen=True)
class LeftOut:
    """already: how many photos the index has, or came twice. unhashed: of how many of these no hash is kept, so that
    it cannot be told whether they have changed. unreadable: path and reason of each of those."""

    already: int = 0
    unreadable: Sequence[Mapping[str, str]] = ()
    unhashed: int = 0


class Joined(NamedTuple):
    """Rows (n, d) of photos, each once, and the contents of their files. already, unhashed: as of `LeftOut`."""

    rows: Descriptors
    images: list[str]
    contents: dict[str, Content]
    already: int
    unhashed: int


def divided(sources: Source | Sequence[Source]) -> tuple[list[Described], list[str]]:
    """The descriptors among the sources, and the paths of the photos, each once."""
    several = [sources] if isinstance(sources, str | Path | Described) else list(sources)
    described = [one if isinstance(one, Described) else folder.read(one) for one in several if _is_described(one)]
    photos = [one for one in several if not isinstance(one, Described) and not _is_described(one)]
    return described, reading.found(photos) if photos else []


def _is_described(source: Source) -> bool:
    if isinstance(source, Described):
        return True
    return os.path.isdir(source) and any((Path(source) / name).exists() for name in (folder.ROWS, folder.SHARDS))


def one_manifest(manifests: Sequence[Manifest]) -> Manifest | None:
    """What made all of the rows; None where there are none. Raises InputError where they differ."""
    for other in manifests[1:]:
        for key in ALIKE:
            if other[key] != manifests[0][key]:
                raise InputError(
                    f"an index is of one model at one size: {key} {manifests[0][key]} of {manifests[0]['model']}, and "
                    f"{other[key]} of {other['model']}"
                )
    return manifests[0] if manifests else None


def model_of(given: Model | str | Path | None, manifest: Manifest | None) -> Model:
    """The model, loaded where it is not; without one, that which made the rows. Raises InputError for another."""
    given = manifest["model"] if given is None and manifest else given
    if given is None:
        raise InputError("photos need a model that describes them: name an .onnx file, a model's folder or its id")
    if isinstance(given, str | Path):
        given = load(given, None if manifest is None else manifest["scales"])
    if manifest and given.fingerprint != manifest["fingerprint"]:
        raise InputError(
            f"{given.source} is another model (fingerprint {given.fingerprint[:12]}) than the one that made the rows "
            f"({manifest['fingerprint'][:12]}, then at {manifest['model']}): name where that one lies now"
        )
    if manifest and list(given.scales) != list(manifest["scales"]):
        raise InputError(f"{given.source} describes at scales {list(given.scales)}, the rows at {manifest['scales']}")
    return given


def joined(
    parts: Sequence[Described], held: Collection[str] = (), known: Mapping[str, Content] | None = None
) -> Joined:
    """The rows of all parts, each photo once, and of those that are held the ones alone whose bytes have changed.

    known: contents of what is held. Of two rows of different bytes the one is taken whose bytes the file has now.
    Raises InputError where it has neither's.
    """
    places: dict[str, int] = {}
    of_path, unhashed = dict(known or {}), 0
    listed = [(path, part.contents.get(path)) for part in parts for path in part.images]
    for place, (path, mine) in enumerate(listed):
        before = of_path.get(path)
        if path in held or path in places:
            unhashed += before is None or mine is None
            if not before or not mine or before.hash == mine.hash or has_first(path, before, mine):
                continue
        places[path] = place
        if mine:
            of_path[path] = mine
    shards = [part.rows for part in parts] or [np.empty((0, 0), np.float32)]
    rows = Descriptors(shards, np.fromiter(places.values(), np.int64))
    read = {path: of_path[path] for path in places if path in of_path}
    return Joined(rows, list(places), read, len(listed) - len(places), unhashed)


class Compared(NamedTuple):
    """Photos that an index holds against their files. same: contents, by path, of those with the bytes that they had;
    changed: paths of those with others; gone: path and reason of those without a file; unhashed: as of `LeftOut`."""

    same: dict[str, Content]
    changed: set[str]
    gone: list[dict[str, str]]
    unhashed: int


def compared(paths: Sequence[str], known: Mapping[str, Content]) -> Compared:
    """known: contents of files as they were described, by path."""
    hashed = [path for path in paths if path in known]
    now = dict(zip(hashed, contents(hashed, [known[path] for path in hashed]), strict=True))
    same = {path: one for path, one in now.items() if one and one.hash == known[path].hash}
    gone = [{"path": path, "reason": "its file is gone, its row stays"} for path, one in now.items() if one is None]
    changed = {path for path, one in now.items() if one and path not in same}
    return Compared(same, changed, gone, len(paths) - len(hashed))


def has_first(path: str, first: Content, second: Content) -> bool:
    """Whether a file has the first content, else the second one. Raises InputError where it has neither."""
    now = content(path, second)
    if now is None or now.hash not in (first.hash, second.hash):
        said = "is gone" if now is None else "has others now"
        raise InputError(f"{path} was described twice, from different bytes, and {said}: describe it again")
    return now.hash == first.hash
