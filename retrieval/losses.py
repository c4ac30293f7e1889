"""Losses on a batch of descriptors (B, d) and landmark labels (B,), from pytorch-metric-learning."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from torch import nn

from retrieval.config import build


def from_config(cfg: Mapping[str, Any] | DictConfig, num_classes: int, dim: int) -> nn.Module:
    """The loss that a config describes; classifying ones learn `num_classes` vectors of `dim` values."""
    return build(cfg, num_classes=num_classes, embedding_size=dim)
