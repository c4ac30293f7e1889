"""Every pooling sits on every backbone: a class with `dim`, `out_dim` and `forward(Features) -> (B, out_dim)`."""

from retrieval.poolings.aggregations import SALAD, ConvAP, MixVPR, NetVLAD
from retrieval.poolings.spatial import (
    RMAC,
    GeM,
    GlobalAverage,
    GlobalMax,
    LogSumExp,
    RegionalGeM,
    SpatialPyramid,
    StridedConv,
)
from retrieval.poolings.tokens import CLS, Attention, CLSGeM, Gated, LastToken, MaxToken, MeanToken

__all__ = [
    "CLS",
    "RMAC",
    "SALAD",
    "Attention",
    "CLSGeM",
    "ConvAP",
    "Gated",
    "GeM",
    "GlobalAverage",
    "GlobalMax",
    "LastToken",
    "LogSumExp",
    "MaxToken",
    "MeanToken",
    "MixVPR",
    "NetVLAD",
    "RegionalGeM",
    "SpatialPyramid",
    "StridedConv",
]
