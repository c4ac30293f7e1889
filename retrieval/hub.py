"""Where the files of a model lie: in a folder here, or on the Hugging Face Hub, of which two files are fetched."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from retrieval.errors import InputError

DESCRIPTIONS = ("config.yaml", "config.json")  # alike: the first that is there is read
WEIGHTS = "model.safetensors"
ID = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\S+))?")
ACCEPTED = (
    f"accepted: a folder with {' or '.join(DESCRIPTIONS)} and {WEIGHTS}, or org/name or org/name@revision of the "
    "Hugging Face Hub"
)
FAILURES = (OSError, ValueError, EntryNotFoundError, HTTPError)


def find(path_or_id: str | Path, revision: str | None = None, **how: Any) -> Path:
    """The folder of a model: the path itself or, for an id of the Hub, that which holds what was fetched of it.

    A Path is always local, and so is a text of other than two parts or whose first part is a folder here: where
    nothing is there, nothing is asked of the network. how: goes to `hf_hub_download` as it is.
    """
    folder = Path(path_or_id)
    if folder.exists():
        return folder
    named = ID.fullmatch(path_or_id) if isinstance(path_or_id, str) else None
    if named is None:
        raise InputError(f"no folder at {path_or_id}; {ACCEPTED}")
    if Path(folder.parts[0]).exists():
        raise InputError(f"no folder at {path_or_id}, and no id of the Hub: {folder.parts[0]} is here; {ACCEPTED}")
    if revision and named["revision"]:
        raise InputError(f"{path_or_id} names a revision, and revision={revision} another: give one")
    return fetched(named["name"], revision or named["revision"], **how)


def fetched(name: str, revision: str | None = None, **how: Any) -> Path:
    """The folder with the config and the weights of org/name, both of one commit."""
    try:
        config = fetched_description(name, revision, **how)
        return Path(hf_hub_download(name, WEIGHTS, revision=config.parent.name, **how)).parent
    except FAILURES as error:
        whole = f"{name}@{revision}" if revision else name
        raise InputError(f"{whole} is not fetched from {constants.ENDPOINT}: {reason(error)}; {ACCEPTED}") from error


def fetched_description(name: str, revision: str | None, **how: Any) -> Path:
    """The first config that is there; one that was fetched before is asked for first, as the Hub may be out of reach,
    where huggingface_hub tries for half a minute."""
    *others, last = sorted(DESCRIPTIONS, key=lambda file: not is_kept(name, file, revision, how.get("cache_dir")))
    for file in others:
        with suppress(RemoteEntryNotFoundError):
            return Path(hf_hub_download(name, file, revision=revision, **how))
    return Path(hf_hub_download(name, last, revision=revision, **how))


def is_kept(name: str, file: str, revision: str | None, cache_dir: str | Path | None) -> bool:
    return isinstance(try_to_load_from_cache(name, file, cache_dir, revision), str)


def reason(error: Exception) -> str:
    """Why a file of the Hub did not come, in a line."""
    if isinstance(error, GatedRepoError):
        return "it is gated (ask its owners for access, then log in by `hf auth login`)"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such model, or it is private (log in by `hf auth login`)"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, RemoteEntryNotFoundError):
        lacking = str(error.response.url).rsplit("/", 1)[-1]
        return f"it holds no {lacking if lacking == WEIGHTS else ' or '.join(DESCRIPTIONS)}"
    if isinstance(error, LocalEntryNotFoundError):
        return f"it is not kept here, and the Hub is out of reach ({first_line(error.__cause__ or error)})"
    return first_line(error)


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def description(folder: Path) -> Path:
    """The config's file in a folder; the usual one where there is none."""
    files = [folder / name for name in DESCRIPTIONS]
    return next((file for file in files if file.is_file()), files[0])
