"""Where the rows of an index come from: folders of descriptors, and photos, which are described first."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.descriptors import Descriptors
from retrieval.embed import Described, Model, folder, load, reading
from retrieval.errors import InputError

Source = str | Path | Described
Manifest = Mapping[str, Any]
ALIKE = ("fingerprint", "dim", "resolution", "scales")  # else scores would compare unlike with unlike


@dataclass(frozen=True)
class LeftOut:
    """already: how many photos the index has, or came twice. unreadable: path and reason of each of those."""

    already: int = 0
    unreadable: Sequence[Mapping[str, str]] = ()


def divided(sources: Source | Sequence[Source]) -> tuple[list[Described], list[str]]:
    """The descriptors among the sources, and the paths of the photos, each once."""
    several = [sources] if isinstance(sources, str | Path | Described) else list(sources)
    described = [one if isinstance(one, Described) else folder.read(one) for one in several if _is_described(one)]
    photos = [one for one in several if not isinstance(one, Described) and not _is_described(one)]
    return described, reading.found(photos) if photos else []


def _is_described(source: Source) -> bool:
    return isinstance(source, Described) or any((Path(source) / name).exists() for name in (folder.ROWS, folder.SHARDS))


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


def joined(parts: Sequence[Described], known: Collection[str] = ()) -> tuple[Descriptors, list[str], LeftOut]:
    """The rows of all parts, each photo once and none that is known, their paths, and what is left out."""
    places: dict[str, int] = {}
    paths = [path for part in parts for path in part.images]
    for place, path in enumerate(paths):
        if path not in known:
            places.setdefault(path, place)
    unreadable = [one for part in parts for one in part.unreadable]
    rows = Descriptors([part.rows for part in parts], np.fromiter(places.values(), np.int64))
    return rows, list(places), LeftOut(len(paths) - len(places), unreadable)
