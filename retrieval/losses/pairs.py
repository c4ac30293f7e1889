"""Losses and miners of squared distances, as in the papers, where pytorch-metric-learning's are of plain ones."""

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor


class Contrastive(ContrastiveLoss):
    """Half max(0, D - pos_margin)^2 of the positive pairs and half max(0, neg_margin - D)^2 of the negative ones, each
    averaged over those that are not 0; D is the Euclidean distance (Hadsell et al., CVPR 2006).

    pytorch-metric-learning's own leaves out the squares.
    """

    def pos_calc(self, pos_pair_dist: Tensor, margin: float) -> Tensor:
        return torch.relu(pos_pair_dist - margin) ** 2 / 2

    def neg_calc(self, neg_pair_dist: Tensor, margin: float) -> Tensor:
        return torch.relu(margin - neg_pair_dist) ** 2 / 2


class Triplet(TripletMarginLoss):
    """max(0, D(a, p)^2 - D(a, n)^2 + margin), averaged over the triplets that are not 0 (Schroff et al., CVPR 2015).

    pytorch-metric-learning's own compares the distances, not their squares.
    """

    def get_default_distance(self) -> LpDistance:
        return LpDistance(power=2)


class SemihardMiner(TripletMarginMiner):
    """All triplets with D(a, p)^2 < D(a, n)^2 <= D(a, p)^2 + margin (Schroff et al., CVPR 2015)."""

    def __init__(self, margin: float) -> None:
        super().__init__(margin=margin, type_of_triplets="semihard")

    def get_default_distance(self) -> LpDistance:
        return LpDistance(power=2)
