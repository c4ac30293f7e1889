"""The sets of photos to train on that have a form of their own: which photos, in `LandmarkData`'s batches."""

from typing import Any

from retrieval.data import google, listed, sfm
from retrieval.data.folder import readable
from retrieval.data.module import LandmarkData


class SfM120kData(LandmarkData):
    """retrieval-SfM-120k with its pairs; landmarks are held out of its own validation part. See `sfm.read`."""

    def __init__(self, root: str, boxes: bool = False, download: bool = False, **kwargs: Any) -> None:
        photos, pairs, held_out = sfm.read(root, boxes, download)
        super().__init__(photos, pairs=pairs, held_out=held_out, **kwargs)


class GoogleLandmarksData(LandmarkData):
    """The training photos of Google Landmarks v2. See `google.read`."""

    def __init__(
        self, root: str, train: str = "train_clean.csv", least: int = 2, download: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(google.read(root, train, int(least), download), **kwargs)


class ListedData(LandmarkData):
    """Photos of a CSV file with columns path and landmark. root: what the paths are below; None: the file's folder.

    on_unreadable, verify, cache: see `FolderData`.
    """

    def __init__(
        self,
        file: str,
        root: str | None = None,
        on_unreadable: str = "refuse",
        verify: bool = False,
        cache: str | None = None,
        **kwargs: Any,
    ) -> None:
        photos = listed.read(file, root)
        super().__init__(readable(photos, on_unreadable, photos.landmarks, file, verify, cache), **kwargs)
