"""The model itself, as what its files are compared with."""

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.data import tensors
from retrieval.descriptors import Rows
from retrieval.embedder import Embedder
from retrieval.export.graph import Wanted
from retrieval.scales import multi_scale


class Eager:
    """Photos (B, 3, H, W), uint8 -> unit rows (B, d), by PyTorch, on the CPU, as `wanted` says.

    graph: does what the graph does inside, and nothing else.
    """

    def __init__(self, model: Embedder, wanted: Wanted, graph: bool = False) -> None:
        self.model = model
        self.scales = wanted.scales if not graph or "scales" in wanted.inside else (1.0,)
        self.aggregate = wanted.aggregate
        self.whitening = wanted.whitening if not graph or "whitening" in wanted.inside else None

    @torch.no_grad()
    def __call__(self, pixels: NDArray[np.uint8]) -> Rows:
        backbone = self.model.backbone
        batch = tensors.normalised(torch.from_numpy(np.ascontiguousarray(pixels)), backbone.mean, backbone.std)
        rows = multi_scale([self.model], batch, self.scales, self.aggregate)[0]
        return (rows if self.whitening is None else self.whitening(rows)).numpy()
