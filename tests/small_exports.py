"""A small network as files: photos as bytes in, unit rows out."""

from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.export import Dim

from retrieval import embedder
from retrieval.config import CONFIGS, load_yaml
from retrieval.embedder import Embedder
from retrieval.spec import KEY, Spec

AXES = {0: "batch", 2: "height", 3: "width"}


class Normalised(nn.Module):
    """uint8 photos (B, 3, H, W), or what is normalised already -> unit rows."""

    def __init__(self, model: Embedder, inside: bool = True) -> None:
        super().__init__()
        self.model, self.inside = model.eval().requires_grad_(False), inside
        self.mean, self.std = (torch.tensor(x)[:, None, None] for x in (model.backbone.mean, model.backbone.std))

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images.float() / 255 - self.mean) / self.std if self.inside else images
        pooled = self.model.pooling(self.model.backbone(pixels))  # an archive with a region of autocast does not load
        return F.normalize(pooled, dim=-1)

    def rows(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What it is compared with, always of bytes."""
        with torch.no_grad():
            return self.model((torch.from_numpy(pixels) / 255 - self.mean) / self.std).numpy()


def small(backbone: str = "test_resnet", p: float = 3.0, inside: bool = True, negative: str = "clamp") -> Normalised:
    """A backbone with GeM, always of the same weights."""
    groups = {"pooling": "gem", "head": "none", "backbone": "timm"}
    cfg = OmegaConf.create({group: load_yaml(CONFIGS / group / f"{name}.yaml") for group, name in groups.items()})
    cfg.backbone.name = backbone
    cfg.pooling.p, cfg.pooling.negative = p, negative
    torch.manual_seed(0)
    return Normalised(embedder.from_config(cfg), inside)


def spec_of(net: Normalised, **known: object) -> Spec:
    backbone, dim = net.model.backbone, net.model.dim
    told = {"resolution": 96, "multiple": backbone.multiple, "normalised": net.inside, **known}
    return Spec("small", dim, dim, backbone.mean, backbone.std, **told)  # pyright: ignore[reportArgumentType]


def program(net: nn.Module, dynamic: bool = True, inside: bool = True) -> torch.export.ExportedProgram:
    pixels = torch.zeros(2, 3, 96, 128, dtype=torch.uint8 if inside else torch.float32)
    return torch.export.export(net, (pixels,), dynamic_shapes=({axis: Dim.DYNAMIC for axis in AXES if dynamic},))


def save_onnx(net: nn.Module, spec: Spec, path: Path, dynamic: bool = True) -> None:
    made = torch.onnx.export(
        program(net, dynamic, spec.normalised),
        dynamo=True,
        verbose=False,
        input_names=[spec.input],
        output_names=[spec.output],
    )
    assert made
    model = made.model_proto
    onnx.helper.set_model_props(model, {KEY: spec.json()})
    onnx.save(model, path)


def save_pt2(net: nn.Module, spec: Spec, path: Path, dynamic: bool = True) -> None:
    torch.export.save(program(net, dynamic, spec.normalised), path, extra_files={f"{KEY}.json": spec.json()})
