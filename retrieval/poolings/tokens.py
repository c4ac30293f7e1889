"""Poolings that read tokens (B, T, D), the prefix first; a CNN's map is a set of tokens without a prefix."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from retrieval.errors import InputError
from retrieval.features import Features
from retrieval.poolings import functional as F
from retrieval.poolings.spatial import GeM


class CLS(nn.Module):
    """The class token. prefix: how many tokens the backbone puts first; one without a class token is refused."""

    def __init__(self, dim: int, prefix: int = 1) -> None:
        super().__init__()
        check_class_token("cls", prefix)
        self.dim = self.out_dim = dim

    def forward(self, features: Features) -> Tensor:
        return F.at_least_float32(features.prefix[:, 0])


class CLSGeM(GeM):
    """The class token and GeM of the patches, each L2-normalised, concatenated: (B, 2 D). Takes GeM's settings."""

    def __init__(self, dim: int, prefix: int = 1, **gem: Any) -> None:
        super().__init__(dim, **gem)
        check_class_token("cls_gem", prefix)
        self.out_dim = 2 * dim

    def forward(self, features: Features) -> Tensor:
        both = F.at_least_float32(features.prefix[:, 0]), super().forward(features)
        return torch.cat([normalize(one, dim=1) for one in both], 1)


def check_class_token(name: str, prefix: int) -> None:
    if prefix == 0:
        raise InputError(f"pooling={name} needs a backbone with a class token, this one has none")


class MeanToken(nn.Module):
    """The mean over all tokens, the class token included."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.out_dim = dim

    def forward(self, features: Features) -> Tensor:
        tokens, mask = features.tokens, features.token_mask
        return F.average(tokens.transpose(1, 2)[..., None], None if mask is None else mask[..., None])


class MaxToken(nn.Module):
    """The maximum over all tokens, the class token included."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.out_dim = dim

    def forward(self, features: Features) -> Tensor:
        tokens, mask = features.tokens, features.token_mask
        return F.maximum(tokens.transpose(1, 2)[..., None], None if mask is None else mask[..., None])


class LastToken(nn.Module):
    """The last real token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.out_dim = dim

    def forward(self, features: Features) -> Tensor:
        return F.last_token(features.tokens, features.token_mask)


class Attention(nn.Module):
    """`seeds` learned queries attend to the tokens; their outputs are concatenated, or averaged.

    One query starts at zero, so that untrained it is the mean of the tokens; several start apart, as they could
    never part otherwise (Lee et al., ICML 2019, pooling by multi-head attention).
    """

    def __init__(self, dim: int, seeds: int = 1, concatenate: bool = True) -> None:
        super().__init__()
        if seeds < 1:
            raise InputError(f"attention needs at least one query, got seeds = {seeds}")
        self.dim, self.concatenate = dim, concatenate
        self.out_dim = dim * seeds if concatenate else dim
        self.queries = nn.Parameter(torch.zeros(1, dim) if seeds == 1 else torch.randn(seeds, dim))

    def forward(self, features: Features) -> Tensor:
        pooled = F.attention(features.tokens, self.queries, features.token_mask)
        return pooled.flatten(1) if self.concatenate else pooled.mean(1)


class Gated(nn.Module):
    """Each token has a learned gate between 0 and 1; untrained all are equal, the mean of the tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.out_dim = dim
        self.weight, self.bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(1))

    def forward(self, features: Features) -> Tensor:
        return F.gated(features.tokens, self.weight, self.bias, features.token_mask)
