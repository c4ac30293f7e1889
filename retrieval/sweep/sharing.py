"""What a sweep was saved, as its jobs noted it in `saved.json`."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def saved(sweep_dir: Path) -> str:
    """In a sentence or two; "" where nothing was."""
    notes = [note for file in sorted(sweep_dir.rglob("saved.json")) for note in read(file)]
    descriptors, features = ([n for n in notes if n["what"] == what] for what in ("descriptors", "features"))
    said = []
    if descriptors:
        poolings = max(note["poolings"] for note in descriptors)
        sizes = len({note["resolution"] for note in descriptors})
        at = f"{sizes} resolutions" if sizes > 1 else f"{descriptors[0]['resolution']} px"
        made = f"descriptors of {photos(descriptors)} photos at {at} were made once for {poolings} poolings"
        said.append(f"{made}: {cost(descriptors)}")
    if features:
        said.append(f"features of the frozen backbone were made once for all jobs and epochs: {cost(features)}")
    return "; ".join(said)


def read(file: Path) -> list[dict[str, Any]]:
    """What a job noted; nothing where a full disk left half of it."""
    with suppress(ValueError):
        return json.loads(file.read_text())
    return []


def photos(notes: Sequence[dict[str, Any]]) -> int:
    """How many photos passed at one resolution, whichever jobs' passes had a share in it."""
    first = notes[0]["resolution"]
    parts = {note["part"]: note["photos"] for note in notes if note["resolution"] == first}
    return sum(parts.values())


def cost(notes: Sequence[dict[str, Any]]) -> str:
    passes = round(sum(note["passes"] for note in notes))
    seconds = sum(note["seconds"] for note in notes)
    return f"{passes} passes over the photos saved, about {seconds:.0f} s"
