"""What comes between descriptors and rankings: whitening, search, re-ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval import rerank
from retrieval.benchmarks import Benchmark
from retrieval.benchmarks.google import Recognition
from retrieval.descriptors import Descriptors, Rows
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.heads import Whitening
from retrieval.rerank import Diffusion, KReciprocal, Ranking, Step, SuperGlobal
from retrieval.search import Exact, Search

SAMPLE, EQUAL = 100, 1e-6  # photos of the gallery that are looked at, how far numbers of one descriptor are apart


def alike(queries: Rows, gallery: Descriptors) -> bool:
    """Whether all queries and some gallery photos, evenly spread, have one descriptor: nothing is told apart."""
    some = gallery.take(np.linspace(0, len(gallery) - 1, min(len(gallery), SAMPLE)).astype(int))
    return len(some) > 1 and bool((np.ptp(np.concatenate([queries, some]), axis=0) <= EQUAL).all())


@dataclass(frozen=True)
class Method:
    """How descriptors are judged.

    whitening: what fits it, on the photos and pairs of `pairs` (see `retrieval.whitening`). rerank: steps, in order.
    """

    search: Search = field(default_factory=Exact)
    rerank: Sequence[Step] = ()
    whitening: Any = None
    pairs: Any = None

    def check(self, models: Sequence[Embedder], benchmarks: Mapping[str, Benchmark], resolutions: int) -> None:
        """Refuse, before anything is described, what cannot be fitted, searched or re-ranked so."""
        rerank.check(self.rerank, self.search)
        ordering = [step.label for step in self.rerank if isinstance(step, (Diffusion, KReciprocal, SuperGlobal))]
        if ordering and any(isinstance(benchmark, Recognition) for benchmark in benchmarks.values()):
            raise InputError(
                f"{ordering[0]} gives an order and no scores, and recognition judges scores; accepted: alpha_qe, "
                "database_augmentation or none"
            )
        galleries = len(models) * len(benchmarks) * resolutions
        if getattr(self.search, "index", None) and galleries > 1:
            raise InputError(
                f"search.index is a file for one gallery, asked for were {galleries}: {len(models)} models x "
                f"{len(benchmarks)} benchmarks x {resolutions} resolutions; accepted: one of each, or no search.index"
            )
        for model in models:
            if self.whitening:
                self.whitening.check(model.dim, self.pairs)
            for benchmark in benchmarks.values():
                self.search.check((self.whitening and self.whitening.dim) or model.dim, len(benchmark.gallery))

    def ranking(self, queries: Rows, gallery: Descriptors, benchmark: Benchmark) -> Ranking:
        """The queries' ranking of the gallery of a benchmark, re-ranked."""
        levels = getattr(benchmark, "levels", {"": (benchmark.relevant, benchmark.ignored)})
        ignored = [ignored for _, ignored in levels.values()]
        return rerank.apply(self.rerank, Ranking(queries, gallery, self.search, benchmark.ignored, levels=ignored))

    def how(self, whitening: Whitening | None) -> dict[str, Any]:
        """What a result row says of it."""
        junk_known = any(step.junk_known for step in self.rerank)
        steps = {"rerank": rerank.label(self.rerank), "junk_known": junk_known, "search": self.search.label}
        return {"whitening": whitening.label if whitening else None, **steps}
