"""A model's folder at work, by PyTorch: the torch side of `retrieval.embed`."""

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf

from retrieval import embedder as models
from retrieval.data import tensors
from retrieval.embedder import PARTS, Embedder
from retrieval.errors import InputError
from retrieval.extraction import device_of
from retrieval.scales import multi_scale
from retrieval.spec import factors
from retrieval.store import fingerprint

RESOLUTION = 448  # where no config says at which ones a model is to be judged


class Network:
    """Photos (B, 3, H, W), uint8 RGB -> unit rows (B, dim), float32; as `retrieval.extraction.describe` makes them.

    resolution: the largest of `extract.resolutions` in the config that came with the model, as it is judged at those;
    448 without one; the only one of a model that takes squares of one size. Attributes as of `retrieval.embed.Model`.
    Raises InputError.
    """

    def __init__(
        self, embedder: Embedder, source: str = "", scales: Sequence[float] = (1.0,), device: str = "auto"
    ) -> None:
        self.device, self.source, self.scales = device_of(device), source, factors(scales)
        self.fingerprint = fingerprint_of(embedder)
        self.dim, self.multiple, self.name = embedder.dim, embedder.backbone.multiple, name_of(embedder)
        judged = list(OmegaConf.select(embedder.cfg, "extract.resolutions") or []) if embedder.cfg else []
        self.batch: int | None = None
        self.size = size_of(embedder, [*judged, RESOLUTION])
        self.resolution = max(self.size or judged or [RESOLUTION])
        if self.size and self.scales != (1.0,):
            raise InputError(f"{self.name} takes photos of {self.size[0]} x {self.size[1]} alone, so scale 1 alone")
        self.embedder = embedder.eval().to(self.device)

    @classmethod
    def load(cls, path_or_hub_id: str, scales: Sequence[float] = (1.0,), device: str = "auto") -> "Network":
        """Of the folder or hub id that `embedder.load` takes."""
        device_of(device)
        return cls(models.load(path_or_hub_id), path_or_hub_id, scales, device)

    @torch.no_grad()
    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        photos = torch.from_numpy(pixels).to(self.device)
        backbone = self.embedder.backbone
        batch = tensors.normalised(photos, backbone.mean, backbone.std)
        try:
            return multi_scale([self.embedder], batch, self.scales)[0].float().cpu().numpy()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a layer that has nothing left to look at
            raise InputError(f"{self.name} cannot take photos {pixels.shape}: {str(error).splitlines()[0]}") from error


def name_of(embedder: Embedder) -> str:
    """Backbone and pooling, as in the tables."""
    names = OmegaConf.select(embedder.cfg, "names") if embedder.cfg else None
    parts = [embedder.backbone.name, (names or {}).get("pooling") or type(embedder.pooling).__name__]
    return " ".join([*parts, *([] if isinstance(embedder.head, torch.nn.Identity) else [type(embedder.head).__name__])])


def size_of(embedder: Embedder, sides: Iterable[int]) -> tuple[int, int] | None:
    """(H, W) of a model that takes photos of one size alone: its backbone's, or of squares that have the pooling's map,
    which `sides` are tried for and then its map times each stride."""
    if embedder.backbone.fixed_size or embedder.map_size is None:
        return embedder.backbone.fixed_size
    strides = [embedder.map_size[0] * stride for stride in (embedder.backbone.stride, 32, 16, 14, 8)]
    for side in [*sides, *strides]:
        if models.square_map(embedder.backbone, side) == embedder.map_size:
            return models.squared(embedder.backbone, side)
    raise InputError(f"{embedder.backbone.name} has a map of {embedder.map_size} for none of the squares {[*sides]}")


def fingerprint_of(embedder: Embedder) -> str:
    """A hash of every weight, and of what a config says of the parts that these are of."""
    parts = {}
    if embedder.cfg is not None:
        cfg = models.without_weights(embedder.cfg)
        parts = {part: OmegaConf.to_container(cfg[part], resolve=True) for part in PARTS}
    weights = fingerprint(embedder)
    return hashlib.sha256(json.dumps([weights, parts], sort_keys=True).encode()).hexdigest()
