"""Programs as files: ONNX, and PyTorch's own archives; the spec lies in both."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from retrieval.errors import InputError
from retrieval.export.graph import Exported
from retrieval.export.wanted import AXES, Wanted
from retrieval.spec import KEY, Spec


def computed(dtype: str) -> str:
    """The dtype to ask `taken` for where the file is ONNX with weights of `dtype`.

    ONNX Runtime's CPU provider runs float16, and in float32 what it has no kernel for, with casts that it adds itself.
    It refuses convolutions in bfloat16: there the file holds the backbone's weights in bfloat16, each cast to float32,
    and computes in float32.
    """
    return "float32" if dtype == "bfloat16" else dtype


def save_torch_export(exported: Exported, spec: Spec, path: Path) -> None:
    """A .pt2 that `torch.export.load` reads, without notes of where code lies; its extra file KEY.json is the spec."""
    for node in exported.program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(exported.program, path, extra_files={f"{KEY}.json": spec.json()})


def save_onnx(exported: Exported, spec: Spec, wanted: Wanted, path: Path) -> None:
    """A .onnx, checked; the spec is its metadata's KEY. bfloat16 takes a program that computes in float32, see
    `computed`."""
    model = onnx_of(exported, wanted)
    if spec.multiple > 1 and {"height", "width"} & set(exported.dynamic):
        refuse_part_patches(model, spec.multiple)
    if spec.dtype == "bfloat16":
        halve(model)
    helper.set_model_props(model, {KEY: spec.json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def onnx_of(exported: Exported, wanted: Wanted) -> onnx.ModelProto:
    """The program as an ONNX model of the opset wanted, its axes named, without notes of where its code lies."""
    made = torch.onnx.export(
        exported.program,
        dynamo=True,
        verbose=False,
        input_names=[wanted.input],
        output_names=[wanted.output],
        opset_version=wanted.opset,
        external_data=False,
    )
    assert made is not None
    lengths: Any = made.model.graph.inputs[0].shape
    made.rename_axes({str(lengths[AXES[axis]]): axis for axis in exported.dynamic})
    model = made.model_proto
    (opset,) = (one.version for one in model.opset_import if not one.domain)
    if opset != wanted.opset:
        raise InputError(f"opset={wanted.opset}: this model can be written as one of opset {opset} alone")
    for node in model.graph.node:
        del node.metadata_props[:]
    return model


def refuse_part_patches(model: onnx.ModelProto, multiple: int) -> None:
    """Have the graph fail at sides that are no multiple: a convolution would leave the rest out, and describe a crop.

    A reshape to (B, 3, H // m, m, W // m, m) has as many numbers as the photos where nothing is left.
    """
    (photos,) = model.graph.input
    name, numbers = photos.name, {"m": multiple, "two": 2, "four": 4, "zero": 0}
    nodes = [
        helper.make_node("Shape", [name], ["sides.shape"]),
        helper.make_node("Slice", ["sides.shape", "sides.two", "sides.four"], ["sides.sides"]),
        helper.make_node("Div", ["sides.sides", "sides.m"], ["sides.patches"]),
        helper.make_node("Split", ["sides.patches"], ["sides.high", "sides.wide"], num_outputs=2),
        helper.make_node("Slice", ["sides.shape", "sides.zero", "sides.two"], ["sides.batch"]),
        helper.make_node(
            "Concat",
            ["sides.batch", "sides.high", "sides.m", "sides.wide", "sides.m"],
            ["sides.in_patches"],
            axis=0,
        ),
        helper.make_node("Reshape", [name, "sides.in_patches"], ["sides.whole"], f"sides_are_multiples_of_{multiple}"),
        helper.make_node("Reshape", ["sides.whole", "sides.shape"], ["sides.photos"]),
    ]
    for node in model.graph.node:
        node.input[:] = ["sides.photos" if one == name else one for one in node.input]
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array([number], np.int64), f"sides.{key}") for key, number in numbers.items()
    )


def halve(model: onnx.ModelProto) -> None:
    """Keep the backbone's float32 weights in bfloat16, each cast to float32 where it is used."""
    casts = []
    for weight in model.graph.initializer:
        if "backbone." in weight.name and weight.data_type == TensorProto.FLOAT:
            stored, name = torch.from_numpy(numpy_helper.to_array(weight).copy()).bfloat16(), weight.name
            raw = stored.view(torch.int16).numpy().tobytes()
            weight.CopyFrom(helper.make_tensor(f"{name}.bfloat16", TensorProto.BFLOAT16, weight.dims, raw, raw=True))
            casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
