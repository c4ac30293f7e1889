"""Losses of tuples (Q, 2 + N, d): a query, its positive and N negatives each, summed over the tuples."""

import math

import torch
from torch import Tensor, nn

from retrieval.errors import InputError

EPS = 1e-6  # added to every difference: no distance is 0, where its gradient is undefined


class TupleLoss(nn.Module):
    """Of tuples (Q, 2 + N, d), ordered query, positive, negatives; a margin that is no positive number is refused."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = float(margin)
        if not 0 < self.margin < math.inf:
            raise InputError(f"loss.margin must be a positive number, got {margin}")


class TupleContrastive(TupleLoss):
    """Sum of D(q, p)^2 / 2 and, over the negatives, max(0, margin - D(q, n))^2 / 2, with D(x, y) = |x - y + 1e-6|.

    Radenovic et al., TPAMI 2019, as `contrastive_loss` of filipradenovic/cnnimageretrieval-pytorch computes it.
    """

    def forward(self, tuples: Tensor) -> Tensor:
        far = distances(tuples)
        return (far[:, 0] ** 2).sum() / 2 + ((self.margin - far[:, 1:]).clamp(min=0) ** 2).sum() / 2


class TupleTriplet(TupleLoss):
    """Sum over the negatives of max(0, |q - p|^2 - |q - n|^2 + margin).

    `triplet_loss` of filipradenovic/cnnimageretrieval-pytorch, whose margin is 0.1.
    """

    def forward(self, tuples: Tensor) -> Tensor:
        squares = ((tuples[:, :1] - tuples[:, 1:]) ** 2).sum(-1)
        return (squares[:, :1] - squares[:, 1:] + self.margin).clamp(min=0).sum()


def distances(tuples: Tensor) -> Tensor:
    """D(query, other) of every other of a tuple (Q, 1 + N)."""
    return torch.linalg.vector_norm(tuples[:, :1] - tuples[:, 1:] + EPS, dim=-1)
