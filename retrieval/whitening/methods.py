"""How a whitening is chosen, and to which photos it is fitted (the `whitening` and `whitening_set` configs)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from retrieval.config import build
from retrieval.data.pairs import Pairs
from retrieval.errors import InputError
from retrieval.heads import Whitening, kept
from retrieval.whitening.fit import Vectors, fit_learned, fit_pca


@dataclass(frozen=True)
class PCA:
    """`fit_pca` to the photos of a set (the `whitening` config)."""

    dim: int | None = None
    shrinkage: float = 1.0

    @property
    def label(self) -> str:
        weaker = "" if self.shrinkage == 1 else f"shrinkage={self.shrinkage:g}"
        return " ".join(["pca", *([str(self.dim)] if self.dim else []), *([weaker] if weaker else [])])

    def check(self, length: int, pairs: Pairs | None) -> None:
        """Refuse what cannot be fitted to `length` dimensions, before any photo is described."""
        size, most = kept(self.dim, length), len(given(pairs, self.label).photos) - 1
        if size > most:
            raise InputError(
                f"PCA whitening of {most + 1} photos knows at most {most} directions of {length}: give 1 to {most} as "
                f"whitening.dim (as head.out_dim of a layer), or more photos; got {size}"
            )

    def fit(self, X: Vectors, pairs: Pairs | None) -> Whitening:
        """X: the descriptors of `pairs.photos`."""
        found = fit_pca(X, self.dim, self.shrinkage)
        found.label = f"{self.label}, {given(pairs, self.label).name}"
        return found


@dataclass(frozen=True)
class Learned:
    """`fit_learned` to the pairs of a set (the `whitening` config)."""

    dim: int | None = None

    @property
    def label(self) -> str:
        return f"learned {self.dim}" if self.dim else "learned"

    def check(self, length: int, pairs: Pairs | None) -> None:
        """Refuse what cannot be fitted to `length` dimensions, before any photo is described."""
        kept(self.dim, length)
        given(pairs, self.label)

    def fit(self, X: Vectors, pairs: Pairs | None) -> Whitening:
        """X: the descriptors of `pairs.photos`."""
        pairs = given(pairs, self.label)
        found = fit_learned(X, pairs.queries, pairs.positives, self.dim)
        found.label = f"{self.label}, {pairs.name}"
        return found


class Published:
    """The whitening that came with a published network, which its authors learned for one scale and for several.

    whitenings: those of the network, `ss` and `ms`; scales: the ones that photos are described at.
    """

    def __init__(self, whitenings: Mapping[str, Whitening], scales: Sequence[float], dim: int | None = None) -> None:
        key = "ms" if len(scales) > 1 else "ss"
        if key not in whitenings:
            raise InputError(
                f"this network came with no whitening for scales {list(scales)}: accepted are whitening=learned or pca "
                "with a whitening_set, or none; a network with a whitening layer needs none"
            )
        self.whitening = whitenings[key].first(dim)
        self.dim = self.whitening.out_features
        if self.dim < whitenings[key].out_features:
            self.whitening.label += f", {self.dim} dimensions"

    @property
    def label(self) -> str:
        return self.whitening.label

    def check(self, length: int, pairs: Pairs | None) -> None:
        """Refuse a whitening of other descriptors."""
        if self.whitening.in_features != length:
            raise InputError(
                f"the published whitening takes {self.whitening.in_features} dimensions, the network gives {length}"
            )

    def fit(self, X: Vectors | None, pairs: Pairs | None) -> Whitening:
        """Itself: nothing is described for it."""
        return self.whitening


def given(pairs: Pairs | None, label: str) -> Pairs:
    if pairs is None:
        raise InputError(f"whitening '{label}' is fitted to photos: say which, as whitening_set=folder or sfm120k")
    return pairs


def from_config(
    cfg: Mapping[str, Any] | DictConfig, whitenings: Mapping[str, Whitening], scales: Sequence[float]
) -> tuple[PCA | Learned | Published, Pairs | None] | None:
    """What `whitening` and `whitening_set` of a config say; None for whitening=none.

    whitenings: see `of_run`; scales: that photos are described at.
    """
    if cfg["whitening"].get("_target_") is None:
        return None
    method = build(cfg["whitening"], whitenings=whitenings, scales=scales)
    if isinstance(method, Published):
        return method, None
    return method, build(cfg["whitening_set"]) if cfg.get("whitening_set") else given(None, method.label)
