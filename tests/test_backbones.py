"""Any timm model gives a map; what cannot is refused by name."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from retrieval.backbones import TimmBackbone
from retrieval.config import InputError

CHANNELS_LAST = "swin_tiny_patch4_window7_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a timm model with its classifier, as they are published."""
    folder = tmp_path_factory.mktemp("weights")
    state = timm.create_model("test_resnet", num_classes=10).state_dict()
    save_file(state, folder / "good.safetensors")
    torch.save({"state_dict": state}, folder / "good.pth")
    torch.save({"state_dict": state, "meta": {"mean": np.zeros(3)}}, folder / "numpy.pth")
    save_file({k: v for k, v in state.items() if "layer4" not in k}, folder / "lacking.safetensors")
    save_file({**state, "neck.weight": torch.zeros(1)}, folder / "foreign.safetensors")
    save_file({**state, "conv1.0.weight": torch.zeros(2, 2)}, folder / "shape.safetensors")
    (folder / "noise.safetensors").write_bytes(b"no tensors here")
    (folder / "noise.pth").write_bytes(b"no tensors here")
    return folder


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_byobnet", "vgg11_bn"])
def test_a_cnn_gives_a_map_for_any_size(name: str) -> None:
    backbone = TimmBackbone(name).eval()
    features = backbone(torch.rand(2, 3, 96, 160))
    assert features.patches.shape[:2] == (2, backbone.dim) and features.prefix.shape[1] == 0
    assert features.patches.shape[2] < features.patches.shape[3]


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224", "vit_small_patch14_dinov2"])
def test_a_vit_gives_its_patches_as_a_map_and_cls(name: str) -> None:
    backbone = TimmBackbone(name).eval()
    features = backbone(torch.rand(1, 3, 2 * backbone.multiple, 3 * backbone.multiple))
    assert features.patches.shape == (1, backbone.dim, 2, 3) and features.prefix.shape == (1, 1, backbone.dim)


def test_a_vits_map_is_its_tokens_row_by_row() -> None:
    backbone = TimmBackbone("test_vit").eval()
    images = torch.rand(1, 3, 32, 48)
    tokens = backbone.model.forward_features(images)
    assert torch.equal(backbone(images).tokens, tokens)


def test_registers_are_dropped_and_without_cls_there_is_no_prefix() -> None:
    features = TimmBackbone("test_vit4")(torch.rand(1, 3, 32, 32)) if timm.is_model("test_vit4") else None
    registers = features or TimmBackbone("vit_small_patch16_dinov3")(torch.rand(1, 3, 32, 32))
    assert registers.patches.shape[2:] == (2, 2) and registers.prefix.shape[1] <= 1


def test_a_channels_last_map_is_turned() -> None:
    backbone = TimmBackbone(CHANNELS_LAST)
    assert backbone(torch.rand(1, 3, 224, 224)).patches.shape == (1, backbone.dim, 7, 7)


def test_a_backbone_of_one_size_says_so() -> None:
    assert TimmBackbone(CHANNELS_LAST).fixed_size == (224, 224)


def test_an_unknown_backbone_is_named_with_near_matches() -> None:
    with pytest.raises(InputError, match=r"no backbone 'resnet5'.*did you mean .*resnet50"):
        TimmBackbone("resnet5")


def test_arguments_that_timm_refuses_are_named() -> None:
    with pytest.raises(InputError, match="refuses backbone.kwargs = .*padding"):
        TimmBackbone("test_resnet", kwargs={"padding": "same"})


@pytest.mark.parametrize("file", ["good.safetensors", "good.pth"])
def test_local_weights_are_loaded_without_their_classifier(weights: Path, file: str) -> None:
    loaded = TimmBackbone("test_resnet", weights=str(weights / file)).model.state_dict()
    expected = torch.load(weights / "good.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("absent.pth", "no file at"),
        ("noise.safetensors", "is no .safetensors or .pth of plain tensors"),
        ("noise.pth", "is no .safetensors or .pth of plain tensors"),
        ("numpy.pth", "is no .safetensors or .pth of plain tensors"),
        ("lacking.safetensors", "lacks layer4.0.bn1.bias.* and .* more"),
        ("foreign.safetensors", "has unknown neck.weight"),
        ("shape.safetensors", r"conv1.0.weight is \(2, 2\), not"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_reason(weights: Path, file: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        TimmBackbone("test_resnet", weights=str(weights / file))


def test_mean_and_std_come_from_timm_unless_given() -> None:
    assert TimmBackbone("resnet18").mean == pytest.approx((0.485, 0.456, 0.406))
    assert TimmBackbone("resnet18", mean=[0.5, 0.5, 0.5]).mean == (0.5, 0.5, 0.5)


def test_the_real_weights_load_with_their_padding(shared: Path) -> None:
    weights = shared / "weights" / "mobilenetv2_100.safetensors"
    backbone = TimmBackbone("mobilenetv2_100", weights=str(weights), kwargs={"pad_type": "same"}).eval()
    assert backbone(torch.zeros(1, 3, 65, 97)).patches.shape == (1, 1280, 3, 4)
