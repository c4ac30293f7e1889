"""Losses of a batch's descriptors, a file per family; `from_config` makes the objective that a config describes."""

from retrieval.losses.memory import Memory
from retrieval.losses.objective import Objective, from_config
from retrieval.losses.pairs import Contrastive, SemihardMiner, Triplet
from retrieval.losses.ranking import AveragePrecisionLoss, QuantisedAP, SmoothAP
from retrieval.losses.tuples import TupleContrastive, TupleLoss, TupleTriplet

__all__ = [
    "AveragePrecisionLoss",
    "Contrastive",
    "Memory",
    "Objective",
    "QuantisedAP",
    "SemihardMiner",
    "SmoothAP",
    "Triplet",
    "TupleContrastive",
    "TupleLoss",
    "TupleTriplet",
    "from_config",
]
