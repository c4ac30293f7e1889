"""Any folder `<landmark>/<image>`: every photo queries all the others."""

import numpy as np
from numpy.typing import NDArray

from retrieval import metrics
from retrieval.data.folder import LandmarkPhotos, read


class SameLandmark:
    """Every photo is a query and finds the photos of its landmark among all the others."""

    def __init__(self, photos: LandmarkPhotos) -> None:
        self.queries = self.gallery = photos.photos
        self.skipped = photos.skipped
        labels = np.asarray(photos.labels)
        self.ignored = [np.array([i]) for i in range(len(labels))]
        self.relevant = [np.setdiff1d(np.flatnonzero(labels == label), [i]) for i, label in enumerate(labels)]

    def judge(self, scores: NDArray) -> dict[str, float]:
        """`mAP` and `mP@k` from scores (N, N); a photo is taken out of its own ranking."""
        return metrics.mean(metrics.per_query(scores, self.relevant, self.ignored))


class Folder(SameLandmark):
    """The photos below `root`. on_unreadable: 'refuse', or 'skip' (left out and counted)."""

    def __init__(self, root: str, on_unreadable: str = "refuse") -> None:
        super().__init__(read(root, on_unreadable))
