"""A folder of photos, `<landmark>/<image>`."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from retrieval.data.files import Listing
from retrieval.data.images import SUFFIXES, Photo, unreadable
from retrieval.errors import InputError


@dataclass(frozen=True)
class LandmarkPhotos:
    """Photos and the landmark each one shows; `skipped` could not be read."""

    photos: list[Photo]
    labels: list[str]
    skipped: int = 0

    @property
    def landmarks(self) -> list[str]:
        return sorted(set(self.labels))

    def of(self, landmarks: Iterable[str]) -> "LandmarkPhotos":
        """The photos of these landmarks alone."""
        wanted = set(landmarks)
        pairs = [(p, label) for p, label in zip(self.photos, self.labels, strict=True) if label in wanted]
        return LandmarkPhotos([p for p, _ in pairs], [label for _, label in pairs])


def read(root: str | Path, on_unreadable: str = "refuse") -> LandmarkPhotos:
    """All photos of `root/<landmark>/`; each landmark must have two or more that can be read."""
    root, listing = Path(root), Listing()
    if not root.is_dir():
        raise InputError(f"no folder of photos at {root}")
    loose, folders = listing.entries(root)
    listing.left_out["outside a landmark's folder"] += len(loose)
    photos = {Path(folder).name: [Photo(path) for path in listing.photos(folder)] for folder in folders}
    listing.tell(root)
    if not any(photos.values()):
        raise InputError(f"{root} holds no photos: expected <landmark>/<image> with {', '.join(SUFFIXES)}")
    labels = [name for name, group in photos.items() for _ in group]
    everything = LandmarkPhotos([photo for group in photos.values() for photo in group], labels)
    return readable(everything, on_unreadable, photos, str(root))


def readable(photos: LandmarkPhotos, on_unreadable: str, landmarks: Iterable[str], source: str) -> LandmarkPhotos:
    """Those that can be decoded; each of `landmarks` must have two or more. source: where they are listed."""
    skipped = set(unreadable(photos.photos, on_unreadable))
    kept = [(p, label) for p, label in zip(photos.photos, photos.labels, strict=True) if p.path not in skipped]
    counts = Counter(label for _, label in kept)
    if few := [f"{name} ({counts[name]})" for name in landmarks if counts[name] < 2]:
        raise InputError(
            f"every landmark of {source} needs at least two readable photos; too few in {', '.join(few[:5])}"
        )
    return LandmarkPhotos([p for p, _ in kept], [label for _, label in kept], len(skipped))
