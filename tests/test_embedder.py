"""The model: unit vectors, saved and loaded unchanged; a folder from a stranger is data, not code."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from retrieval import embedder
from retrieval.config import CONFIGS, load_yaml
from retrieval.data.images import ORIENTATION
from retrieval.errors import InputError

POOLINGS = sorted({path.stem for path in (CONFIGS / "pooling").glob("*.yaml")} - {"mixvpr"})  # that takes one size


def described(pooling: str = "gem", backbone: str = "test_resnet", head: str = "none") -> DictConfig:
    groups = {"pooling": pooling, "head": head, "backbone": "timm"}
    cfg = OmegaConf.create({group: load_yaml(CONFIGS / group / f"{name}.yaml") for group, name in groups.items()})
    cfg.backbone.name = backbone
    return cfg


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("head", ["none", "linear"])
def test_every_pooling_on_a_cnn_and_a_vit_gives_unit_rows(pooling: str, backbone: str, head: str) -> None:
    if pooling in ("cls", "cls_gem") and backbone == "test_resnet":
        pytest.skip("a CNN has no class token")
    model = embedder.from_config(described(pooling, backbone, head)).eval()
    vectors = model(torch.rand(2, 3, 64, 96))
    assert vectors.shape == (2, model.dim)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_saved_model_loads_unchanged(tmp_path: Path, pooling: str) -> None:
    cfg = described(pooling, backbone="test_vit", head="linear")
    model = embedder.from_config(cfg).eval()
    embedder.save(model, cfg, tmp_path)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(embedder.load(tmp_path)(images), model(images))


def test_a_saved_model_needs_neither_weights_nor_a_download(tmp_path: Path) -> None:
    cfg = described()
    embedder.save(embedder.from_config(cfg), OmegaConf.merge(cfg, {"backbone": {"pretrained": True}}), tmp_path)  # pyright: ignore
    assert embedder.load(tmp_path).dim > 0


def test_preprocessing_keeps_the_ratio_and_normalises() -> None:
    model = embedder.from_config(described())
    pixels = model.preprocess(Image.new("RGB", (200, 100), "white"), 96)
    assert pixels.shape == (3, 48, 96)
    assert pixels[0, 0, 0].item() == pytest.approx((1 - model.backbone.mean[0]) / model.backbone.std[0])


def test_preprocessing_turns_a_photo_as_describing_does(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    model = embedder.from_config(described())
    assert model.preprocess(Image.open(tmp_path / "turned.jpg"), 90).shape == (3, 60, 40)


def test_a_vits_sides_become_multiples_of_its_patch() -> None:
    model = embedder.from_config(described(backbone="test_vit"))
    assert model.preprocess(Image.new("RGB", (200, 101)), 100).shape == (3, 48, 96)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    OmegaConf.save(described(), tmp_path / "config.yaml")
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        embedder.load(tmp_path)


def test_a_config_that_names_other_code_is_refused(tmp_path: Path) -> None:
    cfg = described()
    cfg.pooling._target_ = "retrieval.data.module.EmbeddedData"
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"pooling\._target_ must start with retrieval\.poolings\."):
        embedder.load(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    cfg = described()
    embedder.save(embedder.from_config(cfg), cfg, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("pooling.p")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"(?s)does not fit.*pooling\.p"):
        embedder.load(tmp_path)
