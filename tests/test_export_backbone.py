"""A backbone's weights leave for plain timm, which finds the same features in a process that knows nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_embedder import described
from torch import nn

from retrieval import embedder
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.export.backbone import cosine, save_backbone

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("test_resnet", {"output_stride": 16}),
    ("test_efficientnet", {"pad_type": "same"}),
    ("test_vit", {"img_size": 96}),
]
PLAIN = """
import json, sys
import timm, torch
from safetensors.torch import load_file, save_file

for folder, name, kwargs in json.loads(sys.argv[1]):
    path = f"{folder}/backbone.safetensors"
    model = timm.create_model(name, pretrained=False, num_classes=0, checkpoint_path=path, **kwargs).eval()
    with torch.no_grad():
        found = model.forward_features(load_file(f"{folder}/pixels.safetensors")["pixels"])
    save_file({"features": found.contiguous()}, f"{folder}/features.safetensors")
assert "retrieval" not in sys.modules
"""


def made(backbone: str, **kwargs: Any) -> Embedder:
    """A model in which every weight and statistic is another than at the start."""
    cfg = described(backbone=backbone)
    cfg.backbone.kwargs, cfg.backbone.mean = kwargs, [0.1, 0.2, 0.3]
    model = embedder.from_config(cfg).eval()
    for name, weight in model.backbone.state_dict().items():
        if weight.is_floating_point():
            weight += 0.05 * (torch.rand_like(weight) if name.endswith("var") else torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Embedder, Path]]:
    """Each of MODELS and a folder with its weights, pixels and what a process that imports timm alone finds."""
    torch.manual_seed(0)
    found = [(made(name, **kwargs), tmp_path_factory.mktemp(name)) for name, kwargs in MODELS]
    for model, folder in found:
        save_backbone(model, folder / "backbone.safetensors")
        save_file({"pixels": torch.randn(2, 3, 64, 128)}, folder / "pixels.safetensors")
    said = [(str(folder), *words(folder / "backbone.safetensors")) for _, folder in found]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", PLAIN, json.dumps(said)], check=True, cwd=found[0][1], env=variables)
    return found


def words(path: Path) -> tuple[str, dict[str, Any]]:
    with safe_open(path, "pt") as file:
        said = file.metadata()
    return said["name"], json.loads(said["kwargs"])


@pytest.mark.parametrize("i", range(len(MODELS)), ids=[f"{name} {kwargs}" for name, kwargs in MODELS])
def test_plain_timm_finds_the_same_features(folders: list[tuple[Embedder, Path]], i: int) -> None:
    model, folder = folders[i]
    with torch.no_grad():
        expected = model.backbone.model.forward_features(load_file(folder / "pixels.safetensors")["pixels"])
    found = load_file(folder / "features.safetensors")["features"]
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_the_file_says_what_it_is_of(folders: list[tuple[Embedder, Path]]) -> None:
    said = [words(folder / "backbone.safetensors") for _, folder in folders]
    assert said == [*MODELS[:-1], ("test_vit", {"dynamic_img_size": True, "img_size": 96})]
    with safe_open(folders[0][1] / "backbone.safetensors", "pt") as file:
        assert json.loads(file.metadata()["mean"]) == [0.1, 0.2, 0.3]


def test_nothing_else_is_left_beside_it(folders: list[tuple[Embedder, Path]]) -> None:
    for _, folder in folders:
        assert {path.stem for path in folder.iterdir()} == {"backbone", "pixels", "features"}


def test_the_model_goes_on_training() -> None:
    model = made("test_resnet").train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(InputError, match=r"by the end of their name, \.safetensors; got weights\.pth"):
        save_backbone(model, "weights.pth")
    assert model.backbone.model.training
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_backbone_that_computes_otherwise_is_not_written(tmp_path: Path) -> None:
    model: Any = made("test_resnet")
    model.backbone.model.layer4[0].act2 = nn.Identity()
    with pytest.raises(InputError, match=r"timm's test_resnet with these weights gives other features, cosine 0\.\d+"):
        save_backbone(model, tmp_path / "backbone.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_features_of_another_shape_are_not_alike() -> None:
    assert np.isnan(cosine(torch.rand(2, 4, 3, 3), torch.rand(2, 4, 6, 6)))


def test_what_timm_cannot_load_is_not_written(tmp_path: Path) -> None:
    model: Any = made("test_resnet")
    model.backbone.model.another = nn.Linear(2, 2)
    (tmp_path / "backbone.safetensors").write_text("of before")
    with pytest.raises(InputError, match=r"plain timm does not load .*another\.weight"):
        save_backbone(model, tmp_path / "backbone.safetensors")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of before"]


def test_a_vgg_is_refused_as_timms_has_more_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="timm's vgg11 has layers after the last ReLU, whose weights are not kept"):
        save_backbone(made("vgg11"), tmp_path / "backbone.safetensors")
    assert list(tmp_path.iterdir()) == []
