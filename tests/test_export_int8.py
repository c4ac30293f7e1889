"""A network in 8-bit integers stays near the one it was made from, is smaller, and pools in float32."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from small_exports import Normalised, save_onnx, small, spec_of

from retrieval.data import images
from retrieval.errors import InputError
from retrieval.export.checks import check, inputs
from retrieval.export.quantised import int8
from retrieval.spec import Spec

QUANTISED = {"QuantizeLinear", "DequantizeLinear"}


@dataclass
class Made:
    net: Normalised
    spec: Spec
    source: Path
    target: Path


@pytest.fixture(scope="module")
def batches(photos: Path) -> list[NDArray[np.uint8]]:
    """JPEGs in batches of one photo, of several shapes."""
    found = [images.Photo(str(path)) for path in sorted(photos.glob("*/*.jpg"))]
    return [np.array(images.decode(photo)).transpose(2, 0, 1)[None] for photo in found]


@pytest.fixture(scope="module", params=["test_resnet", "test_vit"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, batches: list[NDArray[np.uint8]]
) -> Made:
    net, folder = small(request.param, negative="shift"), tmp_path_factory.mktemp("int8")
    save_onnx(net, spec_of(net), folder / "model.onnx")
    own = int8(folder / "model.onnx", folder / "model.int8.onnx", batches[::2], spec_of(net))
    return Made(net, own, folder / "model.onnx", folder / "model.int8.onnx")


def test_photos_it_was_not_calibrated_on_keep_their_rows_but_for_rounding(
    made: Made, batches: list[NDArray[np.uint8]]
) -> None:
    assert made.spec == replace(spec_of(made.net), dtype="int8")
    photos = inputs(made.spec, [batch[0] for batch in batches[1::2]])
    assert 0.95 < check(made.target, made.spec, made.net.rows, photos).cosine < 0.99999


def test_it_is_smaller(made: Made) -> None:
    assert made.target.stat().st_size < made.source.stat().st_size / 1.8


def test_nothing_after_the_backbone_is_quantised(made: Made) -> None:
    nodes = list(onnx.load(made.target).graph.node)
    last = max(i for i, node in enumerate(nodes) if node.op_type in QUANTISED)
    pooling = [i for i, node in enumerate(nodes) if node.op_type in ("Pow", "ReduceMean", "ReduceL2")]
    assert last < min(pooling[-3:])
    assert sum(node.op_type in QUANTISED for node in nodes) > 20


def test_rows_of_another_network_fail_its_check(made: Made, batches: list[NDArray[np.uint8]]) -> None:
    other = small(made.net.model.backbone.name, negative="shift")
    for weights in other.model.backbone.parameters():
        weights.normal_()
    with pytest.raises(InputError, match=r"a row has cosine .* accepted in int8 is 0\.9 or more"):
        check(made.target, made.spec, other.rows, batches[1::2])


def test_it_is_made_without_torch(made: Made, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from dataclasses import replace
from pathlib import Path
import json
import numpy as np
from retrieval.export.quantised import int8
from retrieval.spec import Spec
spec = replace(Spec(**json.loads({made.spec.json()!r})), dtype="float32")
int8(Path({str(made.source)!r}), Path("made.onnx"), [np.full((1, 3, 64, 96), 9, dtype=np.uint8)], spec)
"""
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": path})
    assert (tmp_path / "made.onnx").is_file()


def broken(folder: Path) -> Path:
    (folder / "text.onnx").write_text("no network")
    return folder / "text.onnx"


def unknown(folder: Path) -> Path:
    """A network with no weight that says whose it is."""
    value = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, [1, 3, 8, 8])
    rows = onnx.helper.make_tensor_value_info("descriptors", onnx.TensorProto.UINT8, [1, 3, 8, 8])
    node = onnx.helper.make_node("Identity", ["images"], ["descriptors"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [rows])), folder / "other.onnx")
    return folder / "other.onnx"


@pytest.mark.parametrize(
    ("source", "known", "reason"),
    [
        (lambda folder: folder / "none.onnx", {}, "cannot be read as one"),
        (broken, {}, "cannot be read as one"),
        (unknown, {}, "has no weights whose name says backbone"),
        (unknown, {"input": "pixels"}, r"has inputs \['images'\], expected \['pixels'\]"),
        (unknown, {"dtype": "float16"}, "made from a float32 network, got .* in float16"),
    ],
)
def test_a_source_that_is_none_is_refused(
    tmp_path: Path, source: Callable[[Path], Path], known: dict[str, str], reason: str
) -> None:
    spec = Spec("any", 8, 8, (0, 0, 0), (1, 1, 1), 96, **known)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=reason):
        int8(source(tmp_path), tmp_path / "made.onnx", [], spec)
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "needs photos to be calibrated on, and there are none"),
        ([np.zeros((1, 3, 64, 64), np.float32)], r"must be uint8 \(B, 3, H, W\), got float32 \(1, 3, 64, 64\)"),
        ([np.zeros((3, 64, 64), np.uint8)], r"must be uint8 \(B, 3, H, W\), got uint8 \(3, 64, 64\)"),
    ],
)
def test_photos_that_are_none_are_refused(made: Made, tmp_path: Path, given: list[NDArray], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        int8(made.source, tmp_path / "made.onnx", given, replace(made.spec, dtype="float32"))
    assert not (tmp_path / "made.onnx").exists()
