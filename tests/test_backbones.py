"""Any timm model gives a map; what cannot is refused by name."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.backbones import report, survey
from retrieval.backbones import MULTIPLES, TimmBackbone, stride_of, trials
from retrieval.data.images import nearest
from retrieval.data.tensors import padded
from retrieval.errors import InputError

SHORT = {"depth": 1, "embed_dim": 64, "num_heads": 1}  # one block of a ViT
STAGES = {"depths": (1, 1, 1, 1)}
ANY_SIZE = [  # model, timm's arguments, multiple of the sides, CLS tokens
    ("test_resnet", {}, 1, 0),
    ("vgg11_bn", {"mlp_ratio": 0.01}, 1, 0),
    ("test_efficientnet", {}, 1, 0),
    ("mobilenetv2_035", {}, 1, 0),
    ("test_convnext", {}, 1, 0),
    ("regnetx_002", {}, 1, 0),
    ("dla46x_c", {}, 32, 0),
    ("test_mambaout", {}, 1, 0),
    ("mobilevit_xxs", {}, 1, 0),
    ("swin_tiny_patch4_window7_224", STAGES, 4, 0),
    ("swinv2_tiny_window8_256", STAGES, 4, 0),
    ("davit_tiny", STAGES, 1, 0),
    ("vit_tiny_patch16_224", SHORT, 16, 1),
    ("test_vit3", {}, 16, 0),  # a register, no CLS
    ("vit_small_patch14_reg4_dinov2", SHORT, 14, 1),
    ("vit_small_patch16_dinov3", SHORT, 16, 1),
    ("eva02_tiny_patch14_224", SHORT, 14, 1),
    ("vit_base_patch32_clip_224", SHORT, 32, 1),
    ("vit_base_patch16_siglip_224", SHORT, 16, 0),
    ("deit3_small_patch16_224", SHORT, 16, 1),
    ("deit_tiny_distilled_patch16_224", SHORT, 16, 1),
    ("vit_tiny_r_s16_p8_224", SHORT, 32, 1),  # patches of 8 pixels in a map of stride 4
    ("xcit_nano_12_p8_224", {"depth": 1}, 8, 1),
]
ONE_SIZE = [  # model, timm's arguments, its size, side of the map, CLS tokens
    ("test_maxvit", {}, 160, 5, 0),
    ("test_vit_relpos", {}, 160, 10, 0),
    ("beit_base_patch16_224", SHORT, 224, 14, 1),
    ("cait_xxs24_224", {"depth": 1}, 224, 14, 1),
    ("coat_lite_tiny", {}, 224, 7, 1),
    ("levit_128s", {}, 224, 4, 0),
    ("hiera_tiny_224", {"stages": (1, 1, 1, 1)}, 224, 7, 0),
]
REFUSED = [
    ("coat_tiny", "a list of 3"),
    ("crossvit_tiny_240", "a list of 2"),
    ("pit_ti_224", "0 of its 1 tokens are patches"),
]


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


def corner(images: Tensor) -> Tensor:
    """The images with noise in their top right corner, a quarter of each side."""
    height, width = (side // 4 for side in images.shape[-2:])
    changed = images.clone()
    changed[..., :height, -width:] = 3 * torch.randn(images.shape[0], 3, height, width)
    return changed


def strongest(change: Tensor) -> tuple[float, float]:
    """Where a map (1, D, H, W) changes most, from 0 (top, left) to 1 (bottom, right)."""
    rows, columns = change.shape[2:]
    row, column = divmod(int(change.abs().mean(1).argmax()), columns)
    return (row + 0.5) / rows, (column + 0.5) / columns


@pytest.mark.parametrize(("name", "kwargs", "multiple", "prefix"), ANY_SIZE, ids=lambda value: str(value))
def test_a_family_of_any_size_states_its_multiple_and_prefix(
    name: str, kwargs: dict[str, Any], multiple: int, prefix: int
) -> None:
    backbone = TimmBackbone(name, kwargs=kwargs).eval()
    assert (backbone.multiple, backbone.prefix, backbone.fixed_size) == (multiple, prefix, None)


@pytest.mark.parametrize(("name", "kwargs", "multiple", "prefix"), ANY_SIZE)
def test_a_landscape_gives_a_landscape_that_answers_where_the_image_changes(
    name: str, kwargs: dict[str, Any], multiple: int, prefix: int
) -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone(name, kwargs=kwargs).eval()
    images = torch.randn(1, 3, nearest(128, multiple), nearest(288, multiple))
    with torch.no_grad():
        before, after = backbone(images).patches, backbone(corner(images)).patches
    row, column = strongest(after - before)
    assert before.shape[1] == backbone.dim and before.shape[2] < before.shape[3] and row < 0.5 < column


@pytest.mark.parametrize(("name", "kwargs", "size", "side", "prefix"), ONE_SIZE)
def test_a_family_of_one_size_states_it(name: str, kwargs: dict[str, Any], size: int, side: int, prefix: int) -> None:
    backbone = TimmBackbone(name, kwargs=kwargs).eval()
    features = backbone(torch.zeros(1, 3, size, size))
    assert backbone.fixed_size == (size, size)
    assert features.patches.shape == (1, backbone.dim, side, side) and features.prefix.shape[1] == prefix


@pytest.mark.parametrize(
    ("name", "kwargs", "size", "side", "prefix"), [one for one in ONE_SIZE if one[0] != "levit_128s"]
)
def test_a_map_of_one_size_answers_where_the_image_changes(
    name: str, kwargs: dict[str, Any], size: int, side: int, prefix: int
) -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone(name, kwargs=kwargs).eval()
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        row, column = strongest(backbone(corner(images)).patches - backbone(images).patches)
    assert row < 0.5 < column


def test_levits_map_is_arranged_as_timm_arranges_it() -> None:  # its 4 x 4 positions all see the whole image
    backbone = TimmBackbone("levit_128s").eval()
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(backbone(images).patches, backbone.model.forward_intermediates(images)[1][-1])


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_a_backbone_without_a_map_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"backbone '{name}' gives no map of features at 2.* {reason}"):
        TimmBackbone(name)


def test_a_backbone_of_one_size_can_be_made_for_another() -> None:
    assert TimmBackbone("test_vit_relpos", kwargs={"img_size": (64, 96)}).fixed_size == (64, 96)


def test_the_map_of_one_size_that_is_not_square_has_its_aspect() -> None:
    backbone = TimmBackbone("test_vit_relpos", kwargs={"img_size": (64, 96)}).eval()
    assert backbone(torch.zeros(1, 3, 64, 96)).patches.shape[2:] == (4, 6)


def test_any_size_changes_nothing_at_the_size_that_a_swin_was_trained_at() -> None:
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", kwargs=STAGES).eval()
    strict = timm.create_model(backbone.name, num_classes=0, **STAGES).eval()
    strict.load_state_dict(backbone.model.state_dict())
    images = torch.randn(1, 3, 224, 224)
    assert torch.allclose(backbone(images).patches, strict.forward_features(images).permute(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "test_vit4"])
def test_a_vits_map_is_its_tokens_row_by_row_without_registers(name: str) -> None:
    backbone = TimmBackbone(name).eval()
    images = torch.rand(1, 3, 32, 48)
    tokens = backbone.model.forward_features(images)
    assert torch.equal(backbone(images).tokens, torch.cat([tokens[:, : backbone.prefix], tokens[:, -6:]], dim=1))


def test_the_cls_token_is_kept_and_the_distillation_token_dropped() -> None:
    backbone = TimmBackbone("deit_tiny_distilled_patch16_224", kwargs=SHORT).eval()
    images = torch.rand(1, 3, 32, 48)
    assert torch.equal(backbone(images).prefix, backbone.model.forward_features(images)[:, :1])


@pytest.mark.parametrize("nominal", range(64, 1025, 32))
def test_no_size_tried_for_one_multiple_suits_a_later_one(nominal: int) -> None:
    tried = {multiple: size for multiple, fixed, size in trials((nominal, nominal)) if not fixed}
    for multiple, size in tried.items():
        later = MULTIPLES[MULTIPLES.index(multiple) + 1 :]
        assert not [other for other in later if size[0] % other == 0 and size[1] % other == 0]


@pytest.mark.parametrize(("tokens", "size"), [(16, (96, 160)), (60, (96, 96)), (0, (32, 32))])
def test_tokens_that_form_no_grid_of_the_images_aspect_are_refused(tokens: int, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{tokens} of its {tokens + 1} tokens are patches"):
        stride_of(torch.zeros(1, tokens + 1, 8), 1, *size)


def test_the_survey_tells_what_works_what_has_one_size_and_what_is_refused() -> None:
    rows = [survey(name) for name in ("test_vit", "test_maxvit", "pit_ti_224")]
    assert [row.status for row in rows] == ["works", "one fixed size", "refused"]
    assert rows[0].maps == (((224, 224), (14, 14)), ((192, 320), (12, 20))) and rows[0].sides == "multiples of 16"
    assert rows[1].maps == (((160, 160), (5, 5)),) and "takes 320 x 160" in rows[1].why
    assert rows[2].why.endswith("no grid of the image's aspect")
    assert "3 models of 3 timm modules: 1 works, 1 one fixed size, 1 refused." in report(rows, 3)


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


def test_a_vgg_ends_in_its_last_relu_and_takes_weights_with_its_classifier(tmp_path: Path) -> None:
    whole = timm.create_model("vgg11_bn", mlp_ratio=0.01)
    save_file(whole.state_dict(), tmp_path / "vgg.safetensors")
    backbone = TimmBackbone("vgg11_bn", weights=str(tmp_path / "vgg.safetensors"), kwargs={"mlp_ratio": 0.01}).eval()
    images = torch.randn(1, 3, 64, 96)
    expected = whole.eval().forward_intermediates(images, indices=[4], intermediates_only=True)[0]
    assert torch.allclose(backbone(images).patches, expected, atol=1e-5) and expected.shape[2:] == (4, 6)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035", "test_convnext", "vgg11_bn", "regnetx_002"])
def test_a_padded_image_has_the_map_it_has_alone(name: str) -> None:
    backbone = TimmBackbone(name, kwargs={"mlp_ratio": 0.01} if name == "vgg11_bn" else {}).eval()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # fresh ones keep zeros zeros
            torch.nn.init.normal_(module.bias)
    images = [torch.randn(3, *size) for size in ((97, 130), (100, 97), (128, 65))]
    with torch.no_grad():
        features = backbone(*padded(images))
        for patches, mask, image in zip(features.patches, features.mask, images, strict=True):
            alone = backbone(image[None]).patches[0]
            kept = patches[:, mask.any(1)][:, :, mask.any(0)]
            assert torch.allclose(kept, alone, rtol=1e-4, atol=1e-4 * alone.abs().max().item())


@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "test_efficientnet", "test_vit", "mobilevit_xxs"])
@pytest.mark.parametrize("size", [(64, 97), (95, 128), (33, 66)])
def test_as_many_positions_are_real_as_the_image_alone_has(name: str, size: tuple[int, int]) -> None:
    backbone = TimmBackbone(name).eval()
    height, width = (nearest(side, backbone.multiple) for side in size)
    with torch.no_grad():
        mask = backbone(*padded([torch.zeros(3, height, width), torch.zeros(3, 128, 128)])).mask[0]
    assert (mask.any(1).sum(), mask.any(0).sum()) == backbone.map_size(height, width)


def taught(backbone: TimmBackbone, images: Tensor) -> tuple[float, dict[str, Tensor]]:
    """The loss of a step of training, and its gradients."""
    backbone.train().zero_grad()
    torch.manual_seed(0)
    loss = backbone(images).patches.square().mean()
    loss.backward()
    return loss.item(), {name: q.grad.clone() for name, q in backbone.named_parameters() if q.grad is not None}


def frozen(name: str, **kwargs: Any) -> TimmBackbone:
    backbone = TimmBackbone(name, kwargs=kwargs)
    backbone.frozen_statistics = True
    return backbone


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_checkpointing_keeps_the_gradients_and_saves_memory(name: str) -> None:
    backbone, images = frozen(name, drop_path_rate=0.3), torch.randn(4, 3, 64, 96)
    found, kept = [], [0, 0]
    for i in range(2):
        with torch.autograd.graph.saved_tensors_hooks(partial(counted, kept, i), lambda tensor: tensor):
            found.append(taught(backbone, images))
        backbone.checkpoint_activations()
    assert found[0][0] == found[1][0] and kept[1] < 0.8 * kept[0]
    assert all(torch.equal(gradient, found[1][1][key]) for key, gradient in found[0][1].items())


def counted(kept: list[int], place: int, tensor: Tensor) -> Tensor:
    """The tensor, whose bytes are added to what an autograd graph keeps."""
    kept[place] += 0 if isinstance(tensor, torch.nn.Parameter) else tensor.nbytes
    return tensor


@pytest.mark.parametrize("name", ["dla46x_c", "vgg11_bn"])
def test_a_backbone_that_cannot_checkpoint_is_refused_by_name(name: str) -> None:
    backbone = TimmBackbone(name, kwargs={"mlp_ratio": 0.01} if name == "vgg11_bn" else {})
    with pytest.raises(InputError, match=f"checkpointing=true: timm's '{name}' cannot compute its activations anew"):
        backbone.checkpoint_activations()


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles without writing C++, which takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("name", "kwargs"), [("test_resnet", {}), ("vit_tiny_patch16_224", SHORT)])
def test_a_compiled_step_is_the_step_at_any_size(
    light: None, name: str, kwargs: dict[str, Any], checkpointing: bool
) -> None:
    backbone = frozen(name, **kwargs)
    sizes = [(2, 64, 96), (3, 96, 64), (2, 64, 64), (1, 96, 128)]
    batches = [torch.randn(count, 3, *size) for count, *size in sizes]
    expected, names = [taught(backbone, images) for images in batches], list(backbone.state_dict())
    if checkpointing:
        backbone.checkpoint_activations()
    backbone.compile_training()
    for images, (loss, gradients) in zip(batches, expected, strict=True):
        again, compiled = taught(backbone, images)
        assert again == pytest.approx(loss, rel=1e-5)
        assert all(torch.allclose(gradients[key], compiled[key], atol=1e-6) for key in gradients)
    with torch.compiler.set_stance("fail_on_recompile"):  # as it would where nothing was compiled
        taught(backbone, batches[1])
    assert list(backbone.state_dict()) == names and not any("_orig_mod" in name for name in names)


def test_a_compiled_backward_pass_has_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    backbone, images = frozen("vit_tiny_patch16_224", **SHORT), torch.randn(2, 3, 32, 48)
    _, expected = taught(backbone, images)
    backbone.compile_training()
    _, compiled = taught(backbone, images)
    assert all(torch.allclose(expected[key], compiled[key], atol=1e-6) for key in expected)


def test_a_backbone_that_trains_compiled_describes_as_it_would_otherwise(light: None) -> None:
    backbone, images = frozen("test_resnet"), torch.randn(1, 3, 64, 96)
    before = backbone.eval()(images).patches
    backbone.compile_training()
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(backbone(images).patches, before)


def test_a_copy_of_a_compiled_backbone_trains_its_own_weights(light: None) -> None:
    backbone, images = frozen("test_resnet"), torch.randn(1, 3, 64, 96)
    backbone.compile_training()
    loss, _ = taught(backbone, images)
    copied = copy.deepcopy(backbone)
    with torch.no_grad():
        for q in copied.parameters():
            q.mul_(0.5)
    assert taught(copied, images)[0] != loss and taught(backbone, images)[0] == loss
