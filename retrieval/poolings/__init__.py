"""Every pooling sits on every backbone: a class with `dim`, `out_dim` and `forward(Features) -> (B, out_dim)`."""

from retrieval.poolings.spatial import GeM, GlobalAverage, GlobalMax, StridedConv

__all__ = ["GeM", "GlobalAverage", "GlobalMax", "StridedConv"]
