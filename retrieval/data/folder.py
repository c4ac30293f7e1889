"""A folder of photos, `<landmark>/<image>`."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from retrieval.data.files import Listing
from retrieval.data.images import SUFFIXES, Photo
from retrieval.data.verified import verify
from retrieval.errors import InputError, flag


@dataclass(frozen=True)
class LandmarkPhotos:
    """Photos and the landmark each one shows; `skipped` were left out, as they cannot be decoded.

    may_skip: whether one that turns out so may be left out too. source: where they are listed. hashes: of the files
    that were read, by path.
    """

    photos: list[Photo]
    labels: list[str]
    skipped: int = 0
    may_skip: bool = False
    source: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def landmarks(self) -> list[str]:
        return sorted(set(self.labels))

    def of(self, landmarks: Iterable[str]) -> "LandmarkPhotos":
        """The photos of these landmarks alone."""
        wanted = set(landmarks)
        pairs = [(p, label) for p, label in zip(self.photos, self.labels, strict=True) if label in wanted]
        return replace(self, photos=[p for p, _ in pairs], labels=[label for _, label in pairs])

    def without(self, paths: Collection[str]) -> "LandmarkPhotos":
        """All but these files; each landmark must keep two or more."""
        kept = [(p, label) for p, label in zip(self.photos, self.labels, strict=True) if p.path not in paths]
        left = replace(self, photos=[p for p, _ in kept], labels=[label for _, label in kept])
        refuse_few(left, self.landmarks)
        return replace(left, skipped=self.skipped + len(self.photos) - len(kept))


def read(
    root: str | Path, on_unreadable: str = "refuse", verify: bool = False, cache: str | Path | None = None
) -> LandmarkPhotos:
    """All photos of `root/<landmark>/`; each landmark must have two or more. See `readable`."""
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
    return readable(everything, on_unreadable, photos, str(root), verify, cache)


def readable(
    photos: LandmarkPhotos,
    on_unreadable: str,
    landmarks: Iterable[str],
    source: str,
    check: bool = False,
    cache: str | Path | None = None,
) -> LandmarkPhotos:
    """Those that may be taken; each of `landmarks` must have two or more. source: where they are listed.

    on_unreadable: what becomes of a photo that cannot be decoded, 'refuse' or 'skip'. check: decode all of them now;
    without it none is opened, and a broken one is met where it is decoded. cache: where a check is remembered.
    """
    if on_unreadable not in ("refuse", "skip"):
        raise InputError(f"on_unreadable must be 'refuse' or 'skip', got {on_unreadable!r}")
    listed = replace(photos, may_skip=on_unreadable == "skip", source=source)
    refuse_few(listed, landmarks)
    if not flag("verify", check):
        return listed
    files = verify(listed.photos, listed.may_skip, Path(cache) if cache else None)
    return replace(listed.without(files.faults), hashes={p.path: files.hash(p) for p in listed.photos})


def refuse_few(photos: LandmarkPhotos, landmarks: Iterable[str]) -> None:
    """Refuse photos of which one of `landmarks` has fewer than two."""
    counts = Counter(photos.labels)
    if few := [f"{name} ({counts[name]})" for name in landmarks if counts[name] < 2]:
        raise InputError(
            f"every landmark of {photos.source} needs at least two readable photos; too few in {', '.join(few[:5])}"
        )
