"""What most benchmarks are: queries that rank a gallery, judged by where the relevant photos stand."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieval import metrics
from retrieval.data.images import Photo
from retrieval.data.snapshot import Snapshot
from retrieval.errors import InputError
from retrieval.metrics import Array, Indices, Measure

NONE: Indices = np.empty(0, dtype=np.int64)
Level = tuple[list[Indices], list[Indices]]  # relevant and ignored gallery indices per query


class Ranked:
    """Queries, a gallery, and per level which photos of it are relevant to a query and which count for nothing.

    levels: by name, or one without a name; `shown` is the one that pictures of rankings and re-ranking go by.
    landmarks: per query, what it shows: resampling goes by it, as photos of one landmark are not independent.
    convention: what else decides the values. skipped: photos left out because they could not be read.
    """

    may_skip = False

    def __init__(
        self,
        queries: list[Photo],
        gallery: list[Photo],
        landmarks: Sequence[str],
        levels: Mapping[str, Level],
        measures: Mapping[str, Measure],
        convention: Mapping[str, Any],
        shown: str = "",
        skipped: int = 0,
    ) -> None:
        if not any(len(relevant) for both in levels.values() for relevant in both[0]):
            raise InputError(f"at least one of the {len(queries)} queries must have a relevant photo in the gallery")
        self.queries, self.gallery, self.landmarks = queries, gallery, list(landmarks)
        # A measure of the first k photos alone says nothing of the rest of the ranking.
        curve = {"precision": metrics.precision_over_recall} if "AP" in measures else {}
        self.levels, self.measures = levels, {**measures, **curve, metrics.TIES: metrics.ties}
        self.relevant, self.ignored = levels[shown]
        self.convention, self.skipped = dict(convention), skipped
        self.counts: Mapping[str, int] = {}

    def settled(self, files: Snapshot) -> Self:
        """The same benchmark: no photo of it may be left out."""
        return self

    def per_query(self, blocks: Iterable[ArrayLike]) -> dict[str, Array]:
        """`medium/AP`, ... of each query, (Q,), of curves (Q, points), from row blocks (c, N), in order, of the scores;
        see `metrics`."""
        return metrics.measured(blocks, self.levels, self.measures)

    def values(self, per_query: Mapping[str, Array]) -> dict[str, float]:
        """`medium/mAP`, ...: means over the queries that have a relevant photo."""
        return metrics.mean(per_query)

    def judge(self, scores: NDArray) -> dict[str, float]:
        """The values for scores (Q, N), higher is nearer."""
        return self.values(self.per_query([scores]))
