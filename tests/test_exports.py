"""Every pooling leaves PyTorch: torch.export and ONNX give its numbers at sizes other than the one exported at."""

import functools
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from retrieval.config import CONFIGS, build, load_yaml
from retrieval.errors import InputError
from retrieval.features import Features

YAMLS = sorted((CONFIGS / "pooling").glob("*.yaml"))
FIXED = ("rmac", "regional_gem", "mixvpr")  # what they compute depends on the map's size
SIZES = [(2, 6, 5), (1, 9, 5), (3, 5, 12)]  # a stride-2 convolution exports for maps that it does not end at 1 x 1
DYNAMIC = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
free = pytest.mark.parametrize("yaml", [y for y in YAMLS if y.stem not in FIXED], ids=lambda path: path.stem)
fixed = pytest.mark.parametrize("yaml", [y for y in YAMLS if y.stem in FIXED], ids=lambda path: path.stem)


class OnTensors(nn.Module):
    """A pooling as a function of its map and class token."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, patches: Tensor, prefix: Tensor) -> Tensor:
        return self.pooling(Features(patches, prefix))


def made(yaml: Path) -> nn.Module:
    cfg = load_yaml(yaml)
    if "height" in cfg:
        cfg.height, cfg.width = 7, 8
    pooling = OnTensors(build(cfg, dim=8)).eval()
    for parameter in pooling.parameters():
        parameter.data += 0.05 * torch.rand_like(parameter)
    return pooling


def inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 8, height, width), torch.rand(batch, 1, 8)


def exported(pooling: nn.Module, dims: dict) -> torch.export.ExportedProgram:
    return torch.export.export(pooling, inputs(2, 7, 8), dynamic_shapes=(dims, {0: Dim.AUTO}))


@functools.cache
def both(yaml: Path) -> tuple[nn.Module, torch.export.ExportedProgram]:
    """A pooling and its export with dynamic batch, height and width."""
    pooling = made(yaml)
    return pooling, exported(pooling, DYNAMIC)


def onnx_of(program: torch.export.ExportedProgram, folder: Path) -> onnxruntime.InferenceSession:
    torch.onnx.export(program, f=str(folder / "pooling.onnx"), dynamo=True, verbose=False)
    return onnxruntime.InferenceSession(folder / "pooling.onnx", providers=["CPUExecutionProvider"])


def answer(session: onnxruntime.InferenceSession, given: tuple[Tensor, Tensor]) -> np.ndarray:
    names = [one.name for one in session.get_inputs()]  # a pooling that reads no prefix has one input
    values = {"patches": given[0].numpy(), "prefix": given[1].numpy()}
    return np.asarray(session.run(None, {name: values[name] for name in names})[0])


@free
def test_a_pooling_exports_with_dynamic_batch_height_and_width(yaml: Path) -> None:
    pooling, program = both(yaml)
    for size in SIZES:
        given = inputs(*size)
        assert torch.allclose(program.module()(*given), pooling(*given), atol=1e-5)


@free
def test_its_onnx_gives_the_same_numbers_at_three_sizes(yaml: Path, tmp_path: Path) -> None:
    pooling, program = both(yaml)
    session = onnx_of(program, tmp_path)
    for size in SIZES:
        given = inputs(*size)
        np.testing.assert_allclose(answer(session, given), pooling(*given).detach().numpy(), atol=1e-5)


@fixed
def test_a_pooling_of_one_size_exports_with_a_dynamic_batch(yaml: Path, tmp_path: Path) -> None:
    pooling = made(yaml)
    program = exported(pooling, {0: Dim.AUTO})
    given = inputs(3, 7, 8)
    expected = pooling(*given).detach()
    assert torch.allclose(program.module()(*given), expected, atol=1e-5)
    np.testing.assert_allclose(answer(onnx_of(program, tmp_path), given), expected.numpy(), atol=1e-5)


@fixed
def test_a_pooling_of_one_size_says_so_when_asked_for_a_dynamic_one(yaml: Path) -> None:
    with pytest.raises(InputError, match="one fixed size"):
        exported(made(yaml), DYNAMIC)
