"""A model leaves as one graph that gives its rows: at other sizes, in ONNX Runtime too, with more or less inside."""

import copy
import functools
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import StdConv2dSame
from torch import Tensor, nn

from retrieval.config import CONFIGS, load_yaml
from retrieval.embedder import Embedder, from_config
from retrieval.errors import InputError
from retrieval.export.files import computed, save_onnx, save_torch_export
from retrieval.export.graph import Exported, exported, spec_of, taken
from retrieval.export.padding import pad_beforehand
from retrieval.export.wanted import OPSETS, Wanted, refuse
from retrieval.heads import Whitening
from retrieval.scales import multi_scale
from retrieval.spec import Spec

OF_ONE_SIZE = {"rmac", "regional_gem", "mixvpr"}
OF_TOKENS = {"cls", "cls_gem"}
POOLINGS = [path.stem for path in sorted((CONFIGS / "pooling").glob("*.yaml"))]
TINY = {"depth": 2, "embed_dim": 64, "num_heads": 2}
MODELS = {
    "test_resnet": {},
    "test_convnext": {},
    "test_efficientnet": {"pad_type": "same"},
    "test_vit": {},
    "vit_small_patch14_reg4_dinov2": TINY,
}
SIZES = [(96, 128), (128, 96), (160, 224), (224, 160), (192, 144), (144, 192)]


@functools.cache
def model(name: str = "test_resnet", pooling: str = "gap", head: str = "none") -> Embedder:
    torch.manual_seed(0)
    kwargs = MODELS.get(name, TINY if "dinov3" in name else {})
    backbone = {"_target_": "retrieval.backbones.TimmBackbone", "name": name, "kwargs": kwargs}
    parts = {part: load_yaml(CONFIGS / part / f"{of}.yaml") for part, of in (("pooling", pooling), ("head", head))}
    embedder = from_config({"backbone": backbone, **parts}, resolution=160).eval()
    for parameter in embedder.pooling.parameters():
        parameter.data += 0.05 * torch.rand_like(parameter)
    return embedder


def whitening(embedder: Embedder) -> Whitening:
    torch.manual_seed(1)
    return Whitening(embedder.dim, 16)


class Left(NamedTuple):
    """An embedder, what was wanted of it, and what came of that; asked for by these words alone, it is made once."""

    embedder: Embedder
    wanted: Wanted
    exported: Exported
    dtype: str

    @property
    def spec(self) -> Spec:
        return spec_of(self.embedder, self.wanted, self.exported, 1024, "tiny", self.dtype)

    def rows(self, photos: Tensor) -> Tensor:
        """What the embedder gives of uint8 photos, without the graph."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.spec.mean, self.spec.std))
        pixels = (photos.float() / 255 - mean) / std
        at = self.wanted.scales if self.spec.scaled else (1.0,)
        rows = multi_scale([self.embedder], pixels, at, self.wanted.aggregate)[0]
        return self.wanted.whitening(rows) if self.wanted.whitening and self.spec.whitened else rows

    def run(self, photos: Tensor) -> Tensor:
        return self.exported.program.module()(photos)


def left(
    name: str = "test_resnet", pooling: str = "gap", head: str = "none", dtype: str = "float32", **asked: Any
) -> Left:
    return once(name, pooling, head, dtype, tuple(sorted(asked.items())))


@functools.cache
def once(name: str, pooling: str, head: str, dtype: str, asked: tuple[tuple[str, Any], ...]) -> Left:
    embedder, options = model(name, pooling, head), dict(asked)
    multiple = embedder.backbone.multiple
    size = options.pop("size", None) or embedder.backbone.fixed_size or ((160 // multiple) * multiple,) * 2
    if options.pop("whitened", False):
        options["whitening"] = whitening(embedder)
    wanted = Wanted(size=size, **options)
    return Left(embedder, wanted, exported(taken(embedder, wanted, computed_or(dtype)), wanted, embedder), dtype)


def computed_or(dtype: str) -> str:
    return computed(dtype.removesuffix(" in ONNX")) if dtype.endswith(" in ONNX") else dtype


@functools.cache
def session(of: Left) -> onnxruntime.InferenceSession:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_onnx(of.exported, of.spec, of.wanted, file)
        return onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])


def in_onnx(of: Left, photos: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(session(of).run([of.wanted.output], {of.wanted.input: photos.numpy()})[0]))


def photos(batch: int, height: int, width: int, multiple: int = 1) -> Tensor:
    """Smooth noise, each photo another; sides as the backbone takes them, odd where it takes any."""
    height, width = (side + 1 if multiple == 1 else side // multiple * multiple for side in (height, width))
    return F.interpolate(torch.rand(batch, 3, 6, 6) * 255, (height, width), mode="bicubic").clamp(0, 255).byte()


@torch.no_grad()
def cosine(rows: Tensor, expected: Tensor) -> float:
    assert rows.dtype == torch.float32 and rows.shape == expected.shape
    return F.cosine_similarity(rows.double(), expected.double()).min().item()


@pytest.mark.parametrize("pooling", [one for one in POOLINGS if one not in OF_ONE_SIZE])
def test_a_model_of_any_such_pooling_leaves_for_any_size(pooling: str) -> None:
    of = left("test_vit" if pooling in OF_TOKENS else "test_resnet", pooling)
    assert of.exported.dynamic == ("batch", "height", "width") and of.exported.why_fixed is None
    for batch, height, width in ((1, 160, 224), (3, 224, 160)):
        given = photos(batch, height, width, of.spec.multiple)
        assert cosine(of.run(given), of.rows(given)) >= 0.99999


@pytest.mark.parametrize("pooling", sorted(OF_ONE_SIZE))
def test_a_pooling_of_one_size_says_so_and_leaves_with_any_batch(pooling: str) -> None:
    of = left(pooling=pooling)
    assert of.exported.dynamic == ("batch",)
    assert any(word in str(of.exported.why_fixed) for word in ("maps of", "regions"))
    assert of.spec.size == (160, 160) and of.spec.batch is None
    given = photos(3, 159, 159)
    assert cosine(of.run(given), of.rows(given)) >= 0.99999


@pytest.mark.parametrize("name", MODELS)
def test_onnx_runtime_gives_the_rows_at_three_sizes_two_aspects_and_two_batches(name: str) -> None:
    of = left(name)
    for height, width in SIZES:
        for batch in (1, 5):
            given = photos(batch, height, width, of.spec.multiple)
            assert cosine(in_onnx(of, given), of.rows(given)) >= 0.99999


def test_the_tensorflow_padded_model_has_such_padding() -> None:
    assert any(isinstance(layer, Conv2dSame) for layer in model("test_efficientnet").modules())


@pytest.mark.parametrize("side", [7, 8, 9, 10, 11])
@pytest.mark.parametrize(
    "layer",
    [
        Conv2dSame(3, 4, 3, stride=2),
        Conv2dSame(3, 4, 5, stride=3, dilation=2),
        Conv2dSame(3, 4, 2, stride=4),
        Conv2dSame(3, 4, 4),
        StdConv2dSame(3, 4, 3, stride=2, padding="SAME"),
        MaxPool2dSame(3, 2),
        AvgPool2dSame(2, 2),
    ],
)
def test_padding_beforehand_gives_what_timms_layer_gives(layer: nn.Module, side: int) -> None:
    other, x = copy.deepcopy(layer), torch.randn(2, 3, side, 9)
    pad_beforehand(other)
    assert type(other) is not type(layer) or not getattr(other, "same_pad", False)
    assert torch.equal(other(x), layer(x))


def test_axes_inputs_and_outputs_have_the_names_asked_for() -> None:
    of = left("test_resnet", input="photo", output="row")
    (given,), (row,) = session(of).get_inputs(), session(of).get_outputs()
    assert (given.name, given.shape, given.type) == ("photo", ["batch", 3, "height", "width"], "tensor(uint8)")
    assert (row.name, row.shape, row.type) == ("row", ["batch", of.embedder.dim], "tensor(float)")


def test_a_spec_travels_in_both_files(tmp_path: Path) -> None:
    of = left()
    assert json.loads(session(of).get_modelmeta().custom_metadata_map["retrieval"]) == json.loads(of.spec.json())
    save_torch_export(of.exported, of.spec, tmp_path / "model.pt2")
    notes = {"retrieval.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=notes)
    assert notes["retrieval.json"] == of.spec.json()
    given = photos(1, 96, 128)
    assert cosine(program.module()(given), of.rows(given)) >= 0.99999


def test_outside_are_normalisation_scales_and_whitening() -> None:
    of = left(pooling="gem", scales=(1.0, 0.7071), inside=(), whitened=True)
    spec = of.spec
    assert not (spec.normalised or spec.scaled or spec.whitened) and spec.whitening == "whitening.safetensors"
    assert (spec.graph_dim, spec.dim, spec.scales) == (of.embedder.dim, 16, (1.0, 0.7071))
    assert spec.exponent == pytest.approx(of.embedder.pooling.p.item())
    pixels = torch.randn(2, 3, 97, 131)
    assert cosine(in_onnx(of, pixels), of.embedder(pixels)) >= 0.99999


def test_inside_are_scales_with_the_exponent_of_gem_and_a_whitening() -> None:
    of = left(pooling="gem", scales=(1.0, 0.7071), whitened=True)
    assert of.exported.dynamic == ("batch", "height", "width") and of.spec.scaled and of.spec.graph_dim == 16
    for batch, height, width in ((1, 160, 112), (5, 112, 160)):
        given = photos(batch, height, width)
        assert cosine(of.run(given), of.rows(given)) >= 0.99999
        assert cosine(in_onnx(of, given), of.rows(given)) >= 0.99999


def test_scales_inside_a_vit_are_those_of_one_size_and_it_says_so() -> None:
    of = left("test_vit", scales=(1.0, 0.7071))
    assert of.exported.dynamic == ("batch",) and "multiples of 16" in str(of.exported.why_fixed)
    given = photos(3, 160, 160, 16)
    assert cosine(of.run(given), of.rows(given)) >= 0.99999


@pytest.mark.parametrize(("name", "pooling"), [("test_resnet", "gem"), ("test_vit", "cls")])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_the_bits_stay_near_in_onnx_runtime(name: str, pooling: str, dtype: str) -> None:
    of = left(name, pooling, dtype=f"{dtype} in ONNX")._replace(dtype=dtype)
    given = photos(3, 96, 128, of.spec.multiple)
    assert cosine(in_onnx(of, given), of.rows(given)) >= 0.999


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_the_bits_stay_near_in_torch_export_and_the_backbone_has_them(dtype: str) -> None:
    of = left(pooling="gem", dtype=dtype)
    held = {name: one.dtype for name, one in of.exported.program.state_dict.items() if one.is_floating_point()}
    assert {kind for name, kind in held.items() if "backbone" in name} == {getattr(torch, dtype)}
    assert held["embedder.pooling.p"] == torch.float32
    given = photos(3, 96, 128)
    assert cosine(of.run(given), of.rows(given)) >= 0.999


def test_an_onnx_file_of_bfloat16_holds_the_backbone_in_it(tmp_path: Path) -> None:
    of = left(dtype="bfloat16 in ONNX")._replace(dtype="bfloat16")
    save_onnx(of.exported, of.spec, of.wanted, tmp_path / "model.onnx")
    weights = onnx.load(tmp_path / "model.onnx").graph.initializer
    kinds = {one.data_type for one in weights if "backbone" in one.name}
    assert kinds == {onnx.TensorProto.BFLOAT16}


@pytest.mark.parametrize(
    ("name", "reason"), [("test_maxvit", "160 x 160 alone"), ("vit_small_patch16_dinov3", "it fails: Guard failed")]
)
def test_a_backbone_that_cannot_take_any_size_says_so_and_leaves_at_one(name: str, reason: str) -> None:
    of = left(name)
    assert of.exported.dynamic == ("batch",) and reason in str(of.exported.why_fixed)
    given = photos(5, *[side - (of.spec.multiple == 1) for side in of.wanted.size], of.spec.multiple)
    assert cosine(of.run(given), of.rows(given)) >= 0.99999


def test_an_axis_that_was_not_asked_for_is_fixed_and_needs_no_reason() -> None:
    of = left(dynamic=("height",))
    assert of.exported.dynamic == ("height",) and of.exported.why_fixed is None
    assert (of.spec.size, of.spec.batch) == ((160, 160), 1)
    given = photos(1, 200, 159)
    assert cosine(of.run(given), of.rows(given)) >= 0.99999


def test_the_embedder_stays_as_it_is() -> None:
    embedder = copy.deepcopy(model("test_efficientnet", "gem")).train()
    embedder.backbone._compiled = embedder.backbone.frozen = lambda *_: None
    before = {name: value.clone() for name, value in embedder.state_dict().items()}
    kinds = [(type(module), module.training, len(module._forward_pre_hooks)) for module in embedder.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = taken(embedder, Wanted(size=(96, 96)), "bfloat16")
        module(photos(2, 95, 95))
    assert [(type(one), one.training, len(one._forward_pre_hooks)) for one in embedder.modules()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in embedder.state_dict().items())
    assert all(value.requires_grad for value in embedder.parameters())
    assert not module.training and not any(value.requires_grad for value in module.parameters())


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_onnx_is_written_in_the_opset_asked_for(opset: int, tmp_path: Path) -> None:
    of = left("test_vit")
    wanted = Wanted(size=of.wanted.size, opset=opset)
    save_onnx(of.exported, of.spec, wanted, tmp_path / "model.onnx")
    assert [one.version for one in onnx.load(tmp_path / "model.onnx").opset_import if not one.domain] == [opset]
    onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("name", "head", "asked", "message"),
    [
        ("test_resnet", "none", {"opset": 17}, "opset must be 18 to 25.*got 17"),
        ("test_resnet", "none", {"opset": 26}, "got 26"),
        ("test_vit", "none", {"size": (150, 160)}, r"multiples of 16: size must be \[144, 160\], got \[150, 160\]"),
        ("test_maxvit", "none", {"size": (224, 224)}, r"one size: size must be \[160, 160\]"),
        ("test_maxvit", "none", {"scales": (1.0, 0.5)}, r"scales=\[1.0\] alone"),
        ("test_resnet", "none", {"scales": (1.0, -1.0)}, "factors above 0"),
        ("test_resnet", "none", {"inside": ("whitenning",)}, "did you mean whitening"),
        ("test_resnet", "none", {"dynamic": ("depth",)}, "accepted: batch, height, width"),
        ("test_resnet", "none", {"aggregate": "median"}, "accepted: cvnet"),
        ("test_resnet", "none", {"input": "x", "output": "x"}, "two names"),
        ("test_resnet", "none", {"whitening": Whitening(7, 3)}, "takes 7 dimensions, the model gives 96"),
        ("test_resnet", "linear", {"scales": (1.0, 0.5), "inside": (), "aggregate": "mean"}, "accepted: inside with"),
        (
            "test_resnet",
            "none",
            {"scales": (1.0, 0.5), "inside": ("whitening",), "whitening": Whitening(96, 3)},
            "a whitening follows the aggregate",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_first(name: str, head: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        refuse(model(name, head=head), Wanted(**{"size": (160, 160), **asked}), "float32")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="dtype has no 'int4'"):
        taken(model(), Wanted(size=(160, 160)), "int4")


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("part", ["height", "width", "both"])
def test_sides_that_are_no_multiple_of_the_patch_are_refused_by_the_graph_itself(name: str, part: str) -> None:
    of = left(name)
    multiple = of.spec.multiple
    sides = [10 * multiple + 3 * (part in (axis, "both")) for axis in ("height", "width")]
    photos = torch.randint(256, (2, 3, *sides), dtype=torch.uint8)
    with pytest.raises(Exception, match="multiples_of_|[Rr]eshape"):
        session(of).run(None, {of.wanted.input: photos.numpy()})
    with pytest.raises(AssertionError, match=f"% {multiple} == 0"):
        of.run(photos)
