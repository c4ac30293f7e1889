"""The overview."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def watching(sweep_dir: Path) -> Iterator[None]:
    yield
