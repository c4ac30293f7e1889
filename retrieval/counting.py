"""How many photos a command is about to read, where that is quickly counted."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from retrieval.data.files import Listing

PATIENCE = 1.0  # seconds
NAMED = 3  # sources that a line names


def of_photos(sources: Sequence[str]) -> str:
    """`20 photos of DIR`, as the commands take them: files, folders, lists; `the photos of @LIST` where not counted."""
    named = f"{', '.join(sources[:NAMED])}{f' and {len(sources) - NAMED} more' if len(sources) > NAMED else ''}"
    if any(source == "-" or source.startswith("@") for source in sources):
        return f"the photos of {named}"
    numbers = within(
        PATIENCE, lambda: [len(Listing().photos_below(one)) if os.path.isdir(one) else 1 for one in sources]
    )
    return f"{sum(numbers)} photos of {named}" if numbers and all(numbers) else f"the photos of {named}"


def counted(root: Path) -> tuple[int, int] | None:
    """Photos and landmarks of `root/<landmark>/<image>`; None where they are not counted in time."""

    def count() -> list[int]:
        listing = Listing()
        return [len(listing.photos(folder)) for folder in listing.entries(root)[1]]

    numbers = within(PATIENCE, count)
    return (sum(numbers), sum(map(bool, numbers))) if numbers else None


def within(seconds: float, count: Callable[[], list[int]]) -> list[int]:
    """What `count` gives; [] where that takes longer, or fails."""
    numbers: list[int] = []

    def run() -> None:
        with suppress(OSError):
            numbers[:] = count()

    counting = threading.Thread(target=run, daemon=True)
    counting.start()
    counting.join(seconds)
    return [] if counting.is_alive() else numbers
