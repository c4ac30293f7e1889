"""The backbone alone, as weights that plain timm loads."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import cosine_similarity

from retrieval.backbones import TimmBackbone
from retrieval.embedder import Embedder, squared
from retrieval.errors import InputError
from retrieval.timm_models import PRUNED

LEAST = 0.99999  # cosine of features, as timm's convolutions may be laid out otherwise than ours
SIDE = 224
FRESH = """
import json, sys
import timm, torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

weights, pixels, features = sys.argv[1:]
with safe_open(weights, "pt") as file:
    said = file.metadata()
kwargs = json.loads(said["kwargs"])
model = timm.create_model(said["name"], pretrained=False, num_classes=0, checkpoint_path=weights, **kwargs).eval()
with torch.no_grad():
    found = model.forward_features(load_file(pixels)["pixels"])
save_file({"features": found.contiguous()}, features)
"""


def save_backbone(embedder: Embedder, path: str | Path) -> None:
    """Write the backbone's weights to a .safetensors, under timm's names, for timm.create_model(name, num_classes=0,
    checkpoint_path=path, **kwargs); its metadata has `name` and, as JSON, `kwargs`, and `mean` and `std` of the input.

    A fresh process that imports timm and no line of this package must find the same features, else InputError is
    raised and the path stays as it was.
    """
    backbone, path = embedder.backbone, Path(path)
    refuse_pruned(backbone)
    if path.suffix != ".safetensors":
        raise InputError(f"timm knows weights by the end of their name, .safetensors; got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        part = Path(folder) / path.name
        weights = {name: tensor.contiguous().cpu() for name, tensor in backbone.model.state_dict().items()}
        part.write_bytes(save(weights, described(backbone)))
        check(backbone, part)
        part.replace(path)


def refuse_pruned(backbone: TimmBackbone) -> None:
    """Refuse a network of which timm has weights that are not kept here."""
    if isinstance(backbone.model, PRUNED):
        raise InputError(
            f"timm's {backbone.name} has layers after the last ReLU, whose weights are not kept here, so plain timm "
            "cannot load what is; accepted: another backbone than a VGG, or the whole model"
        )


def described(backbone: TimmBackbone) -> dict[str, str]:
    said = {"kwargs": backbone.made_with, "mean": backbone.mean, "std": backbone.std}
    return {"name": backbone.name, **{key: json.dumps(value) for key, value in said.items()}}


def check(backbone: TimmBackbone, weights: Path) -> None:
    """Refuse weights of which timm does not find the backbone's features of noise, of a shape that it was not made for
    where it takes others."""
    height, width = squared(backbone, SIDE)
    wider = 0 if backbone.fixed_size else 2 * backbone.multiple
    pixels = torch.randn(2, 3, height, width + wider, generator=torch.Generator().manual_seed(0))
    alike = cosine(features(backbone, pixels), by_timm(weights, pixels))
    if not alike >= LEAST:
        raise InputError(
            f"timm's {backbone.name} with these weights gives other features, cosine {alike:.6f}; accepted: at least "
            f"{LEAST}, as of a model that is timm's own"
        )


def cosine(ours: Tensor, theirs: Tensor) -> float:
    """The lowest of the photos' features, NaN where they are of another shape."""
    if ours.shape != theirs.shape:
        return float("nan")
    return cosine_similarity(ours.flatten(1), theirs.flatten(1)).min().item()


@torch.no_grad()
def features(backbone: TimmBackbone, pixels: Tensor) -> Tensor:
    """What timm's model gives here, in evaluation mode."""
    training = backbone.training
    found = backbone.eval().model.forward_features(pixels.to(next(backbone.parameters()).device))
    backbone.train(training)
    return found.float().cpu()


def by_timm(weights: Path, pixels: Tensor) -> Tensor:
    """The same in a process of its own that has the file alone."""
    given, found = (weights.with_name(f"{name}.safetensors") for name in ("given", "found"))
    given.write_bytes(save({"pixels": pixels}))
    words = [sys.executable, "-c", FRESH, weights.name, given.name, found.name]
    done = subprocess.run(words, cwd=weights.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").split("\n")[-1].strip()
        raise InputError(f"plain timm does not load the weights of this backbone: {reason}")
    return load_file(found)["features"]
