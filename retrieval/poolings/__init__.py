"""Every pooling sits on every backbone: a class with `dim`, `out_dim` and `forward(Features) -> (B, out_dim)`."""

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
    "Attention",
    "CLSGeM",
    "Gated",
    "GeM",
    "GlobalAverage",
    "GlobalMax",
    "LastToken",
    "LogSumExp",
    "MaxToken",
    "MeanToken",
    "RegionalGeM",
    "SpatialPyramid",
    "StridedConv",
]
