"""ONNX Runtime's 8-bit integers for a network's backbone; what follows it stays in float32. Without torch.

Measured on a trained MobileNetV2 with TensorFlow's padding, mAP of 300 of its training photos at 320 px (float32
0.6697): as here 0.6693; one scale for all channels 0.4566; activations not clipped before they are rounded 0.6449;
7-bit weights 0.6622; symmetric activations 0.6662. Calibration by entropy gave the same rows as by the extremes, 8
photos the same mAP as 64. Sums (Add) are left in float32: no slower, and a ViT's rows lose a fortieth as much.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
from onnxruntime.quantization.shape_inference import quant_pre_process

from retrieval.errors import InputError
from retrieval.export.checks import Pixels, taken
from retrieval.spec import KEY, Spec

OPERATORS = ("Conv", "Clip", "Relu", "MaxPool", "MatMul", "Gemm")


class Photos(CalibrationDataReader):
    """Batches of photos, one after another, as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterator[NDArray[Any]], name: str) -> None:
        self.batches, self.name = batches, name

    def get_next(self) -> dict[str, NDArray[Any]] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pixels = next(self.batches, None)
        return None if pixels is None else {self.name: pixels}


def int8(source: Path, target: Path, batches: Iterable[Pixels], spec: Spec) -> Spec:
    """Write `target`, `source` (a float32 .onnx of this package) with the backbone in 8-bit integers; gives its spec.

    batches: photos, uint8 (B, 3, H, W), from which the ranges of activations are learned; a few of each kind will do.
    Activations are uint8, weights int8 with a scale per channel, in ONNX's QuantizeLinear and DequantizeLinear.
    """
    model = read(source, spec)
    own = replace(spec, dtype="int8")
    onnx.helper.set_model_props(model, {KEY: own.json()})
    photos = Photos(checked(batches, spec), spec.input)
    with tempfile.TemporaryDirectory() as folder:
        shaped = Path(folder, "shaped.onnx")
        quant_pre_process(model, shaped, skip_optimization=True, skip_symbolic_shape=True)
        quantization.quantize_static(
            shaped,
            target,
            photos,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_quantize=backbone(model.graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return own


def read(source: Path, spec: Spec) -> onnx.ModelProto:
    """A float32 network with the input that its spec names; InputError where it is none."""
    if spec.dtype != "float32":
        raise InputError(f"int8 is made from a float32 network, got {source} in {spec.dtype}")
    try:
        model = onnx.load(source)
    except (OSError, DecodeError) as error:
        raise InputError(f"int8 is made from a .onnx file, and {source} cannot be read as one: {error}") from error
    names = [value.name for value in model.graph.input]
    if names != [spec.input]:
        raise InputError(f"{source} has inputs {names}, expected {[spec.input]}")
    if not backbone(model.graph):
        raise InputError(f"{source} has no weights whose name says backbone, so nothing in it is known to be one")
    return model


def backbone(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes on which the last use of a weight of the backbone depends, and of those uses."""
    weights = {tensor.name for tensor in graph.initializer if "backbone." in tensor.name}
    needed: set[str] = set()
    names = []
    for node in reversed(graph.node):  # in the order of the computation
        if weights.intersection(node.input) or needed.intersection(node.output):
            needed.update(node.input)
            names.append(node.name)
    return names


def checked(batches: Iterable[Pixels], spec: Spec) -> Iterator[NDArray[Any]]:
    """The batches as the graph takes them; InputError if there is none, at once, or one is no batch of photos."""
    photos = iter(batches)
    first = next(photos, None)
    if first is None:
        raise InputError("int8 needs photos to be calibrated on, and there are none")

    def rest() -> Iterator[NDArray[Any]]:
        for pixels in (first, *photos):
            if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
                raise InputError(f"photos must be uint8 (B, 3, H, W), got {pixels.dtype} {pixels.shape}")
            yield taken(pixels, spec)

    return rest()
