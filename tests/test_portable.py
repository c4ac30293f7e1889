"""An ONNX model by ONNX Runtime gives what PyTorch gives, and a stranger's file is refused with a reason."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from omegaconf import OmegaConf
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.export import Dim

from retrieval import embedder, portable, scales, whitening
from retrieval.config import CONFIGS, load_yaml
from retrieval.data import tensors
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.heads import Whitening
from retrieval.portable import Portable
from retrieval.spec import KEY, Spec

COLOURS = Spec("mean colour", 3, 3, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 64)  # of `colours`
OUTSIDE = replace(COLOURS, normalised=False, scaled=False, scales=(1.0, 0.5), aggregate="cvnet")
ROOT = Path(__file__).parent.parent


def model(pooling: str = "gem") -> Embedder:
    torch.manual_seed(0)
    groups = {"pooling": pooling, "head": "none", "backbone": "timm"}
    cfg = OmegaConf.create({group: load_yaml(CONFIGS / group / f"{name}.yaml") for group, name in groups.items()})
    cfg.backbone.name = "test_resnet"
    return embedder.from_config(cfg).eval()


def photos(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 3, height, width), dtype=np.uint8)


class Inside(nn.Module):
    """An embedder that takes uint8."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: Tensor) -> Tensor:
        center, spread = (torch.tensor(getattr(self.embedder.backbone, k))[:, None, None] for k in ("mean", "std"))
        return self.embedder((images.float() / 255 - center) / spread)


def save(network: nn.Module, pixels: Tensor, spec: Spec, path: Path) -> Path:
    """A .onnx file for any number of photos of any size, with its spec."""
    program = torch.export.export(
        network, (pixels,), dynamic_shapes=({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    )
    made = torch.onnx.export(
        program, dynamo=True, verbose=False, external_data=False, input_names=[spec.input], output_names=[spec.output]
    )
    assert made is not None
    proto = made.model_proto
    helper.set_model_props(proto, {KEY: spec.json()})
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="module")
def network() -> Embedder:
    return model()


def spec_of(network: Embedder, **others: Any) -> Spec:
    mean, std = (tuple(getattr(network.backbone, key)) for key in ("mean", "std"))
    return Spec(
        "test_resnet gem", **{"dim": network.dim, "graph_dim": network.dim, **others}, mean=mean, std=std, resolution=96
    )  # type: ignore


@pytest.fixture(scope="module")
def inside(network: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inside") / "model.onnx"
    return save(Inside(network), torch.randint(256, (2, 3, 64, 96)).byte(), spec_of(network), path)


@pytest.fixture(scope="module")
def outside(network: Embedder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Whitening]:
    """Normalisation, scales and whitening are all left to who runs it."""
    path = tmp_path_factory.mktemp("outside") / "model.onnx"
    rng = np.random.default_rng(1)
    layer = Whitening.of(rng.normal(size=(16, network.dim)), rng.normal(size=16))
    whitening.save(layer, path.with_name("whitening.safetensors"))
    spec = spec_of(
        network, dim=16, normalised=False, scaled=False, scales=(1.0, 2**-0.5, 0.5), exponent=scales.exponent(network),
        whitening="whitening.safetensors", whitened=False,
    )  # fmt: skip
    return save(network, torch.rand(2, 3, 64, 96), spec, path), layer


def colours(spec: Spec = COLOURS, **how: Any) -> onnx.ModelProto:
    """A graph that gives the mean of each channel as a unit row; how: parts of it made otherwise."""
    kind = how.get("kind", TensorProto.UINT8 if spec.normalised else TensorProto.FLOAT)
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    nodes = [
        helper.make_node("Cast", [spec.input], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        *how.get("nodes", [helper.make_node("LpNormalization", ["means"], [spec.output], axis=1, p=2)]),
    ]
    given = helper.make_tensor_value_info(how.get("input", spec.input), kind, how.get("shape", ["b", 3, "h", "w"]))
    if how.get("input"):
        nodes[0] = helper.make_node("Cast", [how["input"]], ["pixels"], to=TensorProto.FLOAT)
    rows = helper.make_tensor_value_info(spec.output, TensorProto.FLOAT, how.get("rows", ["b", 3]))
    graph = helper.make_graph(nodes, "colours", [given], [rows, *how.get("more", [])], [axes, *how.get("weights", [])])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    helper.set_model_props(made, {KEY: spec.json()})
    return made


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def saved(spec: Spec = COLOURS, **how: Any) -> Path:
        onnx.save(colours(spec, **how), tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return saved


@pytest.mark.parametrize("size", [(1, 64, 96), (5, 96, 64), (3, 57, 131)])
def test_a_graph_that_does_all_gives_the_models_rows(network: Embedder, inside: Path, size: tuple[int, ...]) -> None:
    pixels = photos(*size)
    expected = Inside(network)(torch.from_numpy(pixels)).detach().numpy()
    np.testing.assert_allclose(Portable(inside)(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 64, 96), (5, 96, 64), (3, 57, 131)])
def test_what_a_graph_leaves_out_is_done_as_pytorch_does_it(
    network: Embedder, outside: tuple[Path, Whitening], size: tuple[int, ...]
) -> None:
    (path, layer), pixels = outside, photos(*size)
    batch = tensors.normalised(torch.from_numpy(pixels), network.backbone.mean, network.backbone.std)
    expected = layer(scales.multi_scale([network], batch, (1.0, 2**-0.5, 0.5))[0].detach()).detach().numpy()
    np.testing.assert_allclose(Portable(path)(pixels), expected, atol=1e-5)


def test_other_scales_are_taken_where_they_are_outside(network: Embedder, outside: tuple[Path, Whitening]) -> None:
    (path, layer), pixels = outside, photos(2, 64, 96)
    batch = tensors.normalised(torch.from_numpy(pixels), network.backbone.mean, network.backbone.std)
    expected = layer(scales.multi_scale([network], batch, (0.75,))[0].detach()).detach().numpy()
    np.testing.assert_allclose(Portable(path, scales=[0.75])(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("multiple", [1, 2, 16])
@pytest.mark.parametrize("scale", [2**0.5, 2**-0.5, 0.5, 0.3, 2.0])
@pytest.mark.parametrize("size", [(64, 96), (57, 131), (33, 16), (1, 96), (131, 3)])
def test_photos_are_resized_as_pytorch_resizes_them(multiple: int, scale: float, size: tuple[int, int]) -> None:
    batch = torch.randn(2, 3, *size)
    expected = scales.resized(batch, scale, multiple).numpy()
    found = portable.resized(batch.numpy(), scale, multiple)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)  # PyTorch rounds places to float32: 1e-5 of a pixel


@pytest.mark.parametrize("aggregate", scales.AGGREGATES)
@pytest.mark.parametrize("pooling", ["gem", "gap"])
def test_scales_become_one_row_as_in_pytorch(aggregate: str, pooling: str) -> None:
    network = model(pooling)
    rows = torch.nn.functional.normalize(torch.rand(3, 5, 32) - 0.2, dim=-1)
    expected = scales.AGGREGATES[aggregate](rows, network).detach().numpy()
    found = portable.aggregated(rows.numpy(), aggregate, scales.exponent(network) if aggregate == "paper" else 1.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_graph_of_two_photos_describes_five(saved: Callable[..., Path]) -> None:
    one = replace(COLOURS, batch=2)
    path = saved(one, shape=[2, 3, "h", "w"], rows=[2, 3])
    pixels = photos(5, 8, 9)
    means = pixels.mean((2, 3))
    np.testing.assert_allclose(Portable(path)(pixels), means / np.linalg.norm(means, axis=1)[:, None], atol=1e-6)


def test_a_model_says_what_its_spec_says(saved: Callable[..., Path]) -> None:
    path = saved(replace(COLOURS, size=(32, 48), multiple=4), shape=["b", 3, 32, 48])
    held = Portable(path, threads=1)
    assert (held.name, held.dim, held.resolution, held.multiple) == ("mean colour", 3, 64, 4)
    assert (held.size, held.batch, held.scales, held.source) == ((32, 48), None, (1.0,), str(path))


def test_a_fingerprint_is_of_the_file_and_its_whitening(outside: tuple[Path, Whitening], tmp_path: Path) -> None:
    path, layer = outside
    (tmp_path / "moved.onnx").write_bytes(path.read_bytes())
    whitening.save(layer, tmp_path / "whitening.safetensors")
    before = Portable(tmp_path / "moved.onnx").fingerprint
    with torch.no_grad():
        layer.bias[0] += 1
        whitening.save(layer, tmp_path / "whitening.safetensors")
        layer.bias[0] -= 1
    assert before == Portable(path).fingerprint != Portable(tmp_path / "moved.onnx").fingerprint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x93 these bytes mean nothing \xff" * 50, "is not read: it is no ONNX file"),
        (b"", "is not read: it is no ONNX file"),
        (pickle.dumps({"weights": [1.0] * 100}), "is not read: it is no ONNX file"),
    ],
)
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=said):
        Portable(tmp_path / "model.onnx")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model can be read at .*model.onnx"):
        Portable(tmp_path / "model.onnx")


def test_an_onnx_file_of_anyone_is_refused_for_want_of_a_spec(tmp_path: Path) -> None:
    made = colours()
    del made.metadata_props[:]
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(InputError, match="python -m retrieval.export"):
        Portable(tmp_path / "model.onnx")


def test_a_spec_in_a_file_is_read_with_care(saved: Callable[..., Path]) -> None:
    path = saved()
    made = onnx.load(path)
    helper.set_model_props(made, {KEY: json.dumps({**json.loads(COLOURS.json()), "dim": 10**9})})
    onnx.save(made, path)
    with pytest.raises(InputError, match="the 'retrieval' of .*model.onnx: dim must be a whole number"):
        Portable(path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"input": "x"}, r"the input x tensor\(uint8\)"),
        ({"kind": TensorProto.FLOAT}, r"the input images tensor\(float\)"),
        ({"shape": ["b", 3, "h", "w", 1], "rows": ["b", 3, 1]}, "the input"),
        ({"shape": ["b", 4, "h", "w"]}, "the input"),
        ({"shape": [2, 3, "h", "w"], "rows": [2, 3]}, "the input"),
        ({"shape": ["b", 3, 64, 64]}, "the input"),
        ({"more": [helper.make_tensor_value_info("means", TensorProto.FLOAT, ["b", 3])]}, "the output .*, means"),
    ],
)
def test_another_input_or_output_than_the_specs_is_refused(tmp_path: Path, how: dict, said: str) -> None:
    onnx.save(colours(**how), tmp_path / "model.onnx")
    with pytest.raises(InputError, match=f"has {said}.* its spec says"):
        Portable(tmp_path / "model.onnx")


def test_rows_of_another_length_than_the_specs_are_refused(tmp_path: Path) -> None:
    onnx.save(colours(replace(COLOURS, dim=4, graph_dim=4)), tmp_path / "model.onnx")
    with pytest.raises(
        InputError, match=r"output descriptors .*its spec says descriptors tensor\(float\) \['any', 4\]"
    ):
        Portable(tmp_path / "model.onnx")


def test_rows_whose_length_shows_at_run_time_alone_are_refused_then(tmp_path: Path) -> None:
    onnx.save(
        colours(replace(COLOURS, dim=4, graph_dim=4), shape=["b", "c", "h", "w"], rows=["b", "d"]), tmp_path / "m.onnx"
    )
    with pytest.raises(InputError, match=r"gives \(2, 3\) for 2 photos, its spec says \(2, 4\)"):
        Portable(tmp_path / "m.onnx")(photos(2, 8, 8))


def test_rows_that_are_no_unit_rows_are_refused(saved: Callable[..., Path]) -> None:
    path = saved(nodes=[helper.make_node("Identity", ["means"], ["descriptors"])])
    with pytest.raises(InputError, match="rows of length .* its spec says 1"):
        Portable(path)(photos(2, 8, 8))


def elsewhere(location: str, count: int) -> TensorProto:
    """A weight that lies in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[count], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * count))):
        weight.external_data.add(key=key, value=value)
    return weight


@pytest.mark.parametrize("count", [3, 3000])  # small ones are read by another part of ONNX Runtime
@pytest.mark.parametrize("location", ["w.bin", "../w.bin", "below/w.bin", "{}/w.bin"])
@pytest.mark.parametrize("as_attribute", [False, True])
def test_weights_in_another_file_are_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, location: str, as_attribute: bool
) -> None:
    """Nor those beside the model or in the working folder, where ONNX Runtime looks for them by itself."""
    for folder in (tmp_path, tmp_path / "here", tmp_path / "here" / "below"):
        folder.mkdir(exist_ok=True)
        (folder / "w.bin").write_bytes(np.ones(count, np.float32).tobytes())
    weight = elsewhere(location.format(tmp_path), count)
    nodes = [
        *([helper.make_node("Constant", [], ["w"], value=weight)] if as_attribute else []),
        helper.make_node("ReduceMax", ["w"], ["most"], keepdims=0),
        helper.make_node("Mul", ["means", "most"], ["descriptors"]),
    ]
    path = tmp_path / "here" / "model.onnx"
    path.write_bytes(colours(nodes=nodes, weights=[] if as_attribute else [weight]).SerializeToString())
    for working_folder in (tmp_path / "here", tmp_path):
        monkeypatch.chdir(working_folder)
        with pytest.raises(InputError, match="its weights lie in another file, and a model must be one file"):
            Portable(path)


def test_weights_at_an_address_of_memory_are_never_read(saved: Callable[..., Path]) -> None:
    here = np.ones(300, np.float32)
    weight = elsewhere("*/_ORT_MEM_ADDR_/*", 300)
    weight.external_data[1].value = str(here.ctypes.data)
    nodes = [helper.make_node("Mul", ["means", "w"], ["descriptors"])]
    path = saved()
    path.write_bytes(colours(nodes=nodes, weights=[weight]).SerializeToString())
    with pytest.raises(InputError, match="is not read"):
        Portable(path)


@pytest.mark.parametrize("domain", ["com.example", "ai.onnx.contrib", "org.pytorch.aten", "com.microsoft"])
def test_an_operator_of_ones_own_library_is_refused(tmp_path: Path, domain: str) -> None:
    made = colours(nodes=[helper.make_node("Call", ["means"], ["descriptors"], domain=domain)])
    made.opset_import.append(helper.make_opsetid(domain, 1))
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(InputError, match=f"is not read: .*{domain}:Call"):
        Portable(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [None, b"no safetensors", "pickle", "shape", "more", "nan"])
def test_another_whitening_than_the_specs_is_refused(tmp_path: Path, content: Any) -> None:
    spec = replace(COLOURS, dim=2, whitening="w.safetensors", whitened=False)
    onnx.save(colours(spec), tmp_path / "model.onnx")
    path, layer = tmp_path / "w.safetensors", Whitening.of(np.ones((2, 3)), np.ones(2))
    if content == "shape":
        layer = Whitening.of(np.ones((2, 4)), np.ones(2))
    if content == "nan":
        layer = Whitening.of(np.full((2, 3), np.nan), np.ones(2))
    if content in ("shape", "nan"):
        whitening.save(layer, path)
    elif content == "more":
        from safetensors.numpy import save_file

        save_file({"weight": np.ones((2, 3)), "bias": np.ones(2), "third": np.ones(1)}, path)
    elif content:
        path.write_bytes(pickle.dumps([1]) if content == "pickle" else content)
    with pytest.raises(InputError, match="w.safetensors.*whitening"):
        Portable(tmp_path / "model.onnx")


@pytest.mark.parametrize("pixels", [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 3, 8, 8), np.float32)])
def test_pixels_of_another_kind_are_refused(saved: Callable[..., Path], pixels: Any) -> None:
    with pytest.raises(InputError, match=r"takes uint8 \(B, 3, H, W\)"):
        Portable(saved())(pixels)


def test_a_photo_of_another_size_than_the_only_one_is_refused(saved: Callable[..., Path]) -> None:
    path = saved(replace(COLOURS, size=(32, 48)), shape=["b", 3, 32, 48])
    with pytest.raises(InputError, match=r"cannot take photos \(1, 3, 8, 8\)"):
        Portable(path)(photos(1, 8, 8))


def test_a_side_keeps_a_pixel_at_every_scale(saved: Callable[..., Path]) -> None:
    assert portable.resized(np.zeros((1, 3, 1, 9), np.float32), 0.3, 1).shape == (1, 3, 1, 3)
    assert np.isfinite(Portable(saved(OUTSIDE))(photos(1, 1, 9))).all()


def test_scales_inside_the_graph_cannot_be_changed(saved: Callable[..., Path]) -> None:
    assert Portable(saved(), scales=[1]).scales == (1.0,)
    with pytest.raises(InputError, match=r"at scales \[1.0\] inside its graph"):
        Portable(saved(), scales=[1.0, 0.5])


@pytest.mark.parametrize("given", [[], [0.0], [-1], [float("nan")], [float("inf")], [1.0] * 17])
def test_scales_that_are_none_are_refused(saved: Callable[..., Path], given: list[float]) -> None:
    with pytest.raises(InputError, match="scales must be"):
        Portable(saved(OUTSIDE), scales=given)


def test_a_device_that_is_not_there_is_refused(saved: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="auto, cpu, cuda for an ONNX model, got 'tpu'"):
        Portable(saved(), device="tpu")


@pytest.mark.parametrize("module", ["spec", "portable", "embed", "embed.__main__"])
def test_nothing_of_it_imports_torch(module: str) -> None:
    blocked = ("torch", "timm", "hydra", "omegaconf", "lightning", "onnx")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import retrieval.{module}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_sides_that_are_no_multiple_of_the_patch_are_refused(saved: Callable[..., Path]) -> None:
    model = Portable(saved(replace(COLOURS, multiple=4)))
    with pytest.raises(InputError, match="sides are multiples of 4, got 49 x 32"):
        model(np.zeros((1, 3, 32, 49), np.uint8))
