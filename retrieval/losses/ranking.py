"""Average precision of every query's ranking, made smooth: 1 - mAP is the loss.

similarities (N, M) of N queries to M images, relevant (N, M); or descriptors (B, d), unit rows, and labels (B,), where
each descriptor is a query among the others. Queries without relevant images are left out; where none has any, the loss
is 0.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from retrieval.errors import InputError


class AveragePrecisionLoss(nn.Module, ABC):
    """1 - mAP of (similarities, relevant) or of (descriptors, labels): labels have one dimension."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        similarities, relevant = (x, y.bool()) if y.ndim == 2 else among_others(x, y)
        asked = relevant.any(1)
        if not asked.any():
            return 0 * x.sum()
        return 1 - self.precision(similarities[asked], relevant[asked])

    @abstractmethod
    def precision(self, similarities: Tensor, relevant: Tensor) -> Tensor:
        """Smooth mAP of queries that each have a relevant image."""


class QuantisedAP(AveragePrecisionLoss):
    """AP-GeM's loss: similarities softly counted in `bins` bins over [-1, 1], precision and recall from the counts.

    Revaud et al., ICCV 2019 (20 bins there); He et al., CVPR 2018.
    """

    def __init__(self, bins: int = 20) -> None:
        super().__init__()
        if not isinstance(bins, int) or bins < 2:
            raise InputError(f"loss.bins must be a whole number, at least 2, got {bins}")
        self.bins = bins

    def precision(self, similarities: Tensor, relevant: Tensor) -> Tensor:
        shares = triangular(similarities, self.bins)  # (N, bins, M)
        found = (shares * relevant[:, None]).sum(-1)
        precisions = found.cumsum(-1) / (shares.sum(-1).cumsum(-1) + 1e-16)
        return (precisions * found / relevant.sum(-1, keepdim=True)).sum(-1).mean()


class SmoothAP(AveragePrecisionLoss):
    """Ranks counted with a sigmoid of similarity differences over `temperature` (Brown et al., ECCV 2020)."""

    def __init__(self, temperature: float = 0.01) -> None:
        super().__init__()
        self.temperature = float(temperature)
        if not self.temperature > 0:
            raise InputError(f"loss.temperature must be a positive number, got {temperature}")

    def precision(self, similarities: Tensor, relevant: Tensor) -> Tensor:
        query, image = relevant.nonzero(as_tuple=True)  # R relevant images, of all queries
        ahead = similarities[query] - similarities[query, image][:, None]  # (R, M)
        ahead = torch.sigmoid(ahead / self.temperature)
        # An image is not ahead of itself: 1 + sum - sigmoid(0).
        rank, rank_among_relevant = ahead.sum(-1) + 0.5, (ahead * relevant[query]).sum(-1) + 0.5
        return (rank_among_relevant / rank / relevant.sum(-1)[query]).sum() / len(relevant)


def among_others(descriptors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Similarities (B, B - 1) of every descriptor to the others, and which of those share its label."""
    return off_diagonal(descriptors @ descriptors.T), off_diagonal(labels[:, None] == labels)


def off_diagonal(square: Tensor) -> Tensor:
    """A (B, B) matrix without its diagonal, (B, B - 1)."""
    size = len(square)
    return square.flatten()[1:].view(size - 1, size + 1)[:, :-1].reshape(size, size - 1)


def triangular(similarities: Tensor, bins: int) -> Tensor:
    """Share of each similarity in each bin (N, bins, M), from 1 down to -1: it is split between the two nearest."""
    width = 2 / (bins - 1)
    centres = 1 - width * torch.arange(bins, device=similarities.device, dtype=similarities.dtype)
    away = (similarities.clamp(-1, 1)[:, None] - centres[:, None]).abs() / width
    return (1 - away).clamp(min=0)
