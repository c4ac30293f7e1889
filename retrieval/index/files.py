"""The folder of an index: `index-MARK.faiss`, `images-MARK.json`, `contents-MARK.json` and, written last,
`manifest.json`, which names them.

A process that is killed while it writes leaves the index that was there, or none.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.data.contents import Content
from retrieval.embed import folder as descriptors
from retrieval.embed.folder import MANIFEST, read_json, write_json
from retrieval.errors import InputError
from retrieval.index.engine import faiss_index

NAMES = {"index": "index-{}.faiss", "images": "images-{}.json", "contents": "contents-{}.json"}


def write(
    folder: Path, index: Any, images: Sequence[str], manifest: dict[str, Any], contents: Mapping[str, Content]
) -> dict[str, Any]:
    """The manifest as written. manifest: as of descriptors, with `factory`, or as `read` gave it.

    Raises InputError where another index stands there: one that was not read, or that was written anew since.
    """
    standing = folder / MANIFEST
    if standing.exists() and f'"{manifest.get("index")}"' not in standing.read_text():
        raise InputError(f"{folder} holds another index, or this one was added to meanwhile: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    names = {key: name.format(secrets.token_hex(6)) for key, name in NAMES.items()}
    faiss_index.write(index, folder / names["index"])
    write_json(folder / names["images"], list(images))
    descriptors.write_contents(folder / names["contents"], contents)
    write_json(standing, written := {**manifest, **names})
    for pattern in NAMES.values():  # what stood there before, and what a killed process left
        for other in folder.glob(pattern.format("*")):
            if other.name not in names.values():
                other.unlink(missing_ok=True)
    return written


def read(folder: Path) -> tuple[Any, list[str], dict[str, Any], dict[str, Content]]:
    """Index, paths of its images, manifest, and contents of the files by path, which an older version did not write.

    Raises InputError for what is no index, is damaged or does not fit.
    """
    manifest = _manifest(folder / MANIFEST)
    images = read_json(folder / manifest["images"])
    if not isinstance(images, list) or not all(isinstance(path, str) for path in images):
        raise InputError(f"{folder / manifest['images']} must be a list of paths")
    index = faiss_index.read(folder / manifest["index"], "the index")
    if (index.ntotal, index.d) != (len(images), manifest["dim"]):
        raise InputError(
            f"{folder} holds an index of {index.ntotal} rows of {index.d} dimensions, paths of {len(images)} images "
            f"and a manifest that says {manifest['dim']} dimensions: they must agree"
        )
    contents = descriptors.read_contents(folder / manifest["contents"]) if "contents" in manifest else {}
    return index, images, manifest, contents


def refuse_taken(folder: Path) -> None:
    """Refuse a folder that holds something already, before anything is described for an index there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something already: name a new folder, or add to an index there by `add`")


def _manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path.parent} is no index: it has no {path.name}; accepted: what retrieval.index wrote")
    manifest = descriptors.checked(read_json(path), path)
    if not isinstance(manifest.get("factory"), str):
        raise InputError(f"{path}: factory must be a text, got {manifest.get('factory')!r}: is it of descriptors?")
    for key, name in NAMES.items():  # any other name could be that of a file elsewhere
        if key == "contents" and key not in manifest:  # of an older version
            continue
        if not re.fullmatch(name.format("[0-9a-f]{12}"), str(manifest.get(key))):
            raise InputError(f"{path}: {key} must be named {name.format('MARK')}, got {manifest.get(key)!r}")
    return manifest
