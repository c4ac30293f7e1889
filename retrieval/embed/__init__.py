"""Photos -> descriptors with a model that was taken away: an ONNX file, which needs no torch, or a model's folder."""

from retrieval.embed.describing import describe
from retrieval.embed.folder import Described
from retrieval.embed.models import Model, load

__all__ = ["Described", "Model", "describe", "load"]
