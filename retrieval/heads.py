"""What may follow the pooling: a learned projection."""

from torch import nn


class Projection(nn.Linear):
    """A linear layer (B, dim) -> (B, out_dim)."""

    def __init__(self, dim: int, out_dim: int = 512, bias: bool = True) -> None:
        super().__init__(int(dim), int(out_dim), bias=bias)
