"""Re-ranking: steps that each turn one ranking into another, applied in order; a file per family."""

import itertools
from collections.abc import Sequence
from typing import Protocol

from retrieval.errors import InputError
from retrieval.rerank.diffusion import Diffusion
from retrieval.rerank.expansion import AlphaQE, DatabaseAugmentation
from retrieval.rerank.ranking import Ranking
from retrieval.rerank.reciprocal import KReciprocal
from retrieval.rerank.superglobal import SuperGlobal
from retrieval.search import Search

__all__ = ["AlphaQE", "DatabaseAugmentation", "Diffusion", "KReciprocal", "Ranking", "Step", "SuperGlobal"]


class Step(Protocol):
    """`label` says in a result row what was done, `junk_known` whether the step was told which images are junk."""

    @property
    def label(self) -> str: ...
    @property
    def junk_known(self) -> bool: ...
    def __call__(self, ranking: Ranking) -> Ranking: ...


def check(steps: Sequence[Step], search: Search) -> None:
    """Refuse a chain that would lose what one of its steps did, before anything is described."""
    for before, step in itertools.pairwise(steps):
        if isinstance(step, DatabaseAugmentation) and isinstance(before, (Diffusion, KReciprocal, SuperGlobal)):
            raise InputError(
                f"rerank has {before.label} before {step.label}, which searches anew among changed images and would "
                "lose it: put database_augmentation first"
            )
    if any(isinstance(step, DatabaseAugmentation) for step in steps) and getattr(search, "index", None):
        raise InputError(
            "search.index holds one gallery, and database_augmentation searches two, before and after: leave out index"
        )


def apply(steps: Sequence[Step], ranking: Ranking) -> Ranking:
    """The ranking after every step, in order."""
    for step in steps:
        ranking = step(ranking)
    return ranking


def label(steps: Sequence[Step]) -> str | None:
    """The steps for a result row, joined by ', '; None if there are none."""
    return ", ".join(step.label for step in steps) or None
