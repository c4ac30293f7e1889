"""Which timm models give a map of features, and at which sizes: python -m benchmarks.backbones.

The smallest model of every timm module, timm's own test_* models left out, and those that people ask for by name. Each
is made at random weights by TimmBackbone and run at two resolutions.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from retrieval.backbones import FAILURES, MULTIPLES, Size, TimmBackbone
from retrieval.data.images import nearest
from retrieval.errors import InputError

NAMED = (
    "resnet18",
    "vgg11_bn",
    "efficientnet_b0",
    "mobilenetv2_100",
    "convnext_atto",
    "convnext_tiny.dinov3_lvd1689m",
    "regnety_002",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "maxvit_tiny_tf_224",
    "coatnet_nano_rw_224",
    "davit_tiny",
    "vit_tiny_patch16_224",
    "vit_base_patch16_gap_224",
    "vit_medium_patch16_reg4_gap_256",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "vit_base_patch32_clip_224",
    "vit_base_patch16_siglip_224",
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "coat_lite_tiny",
    "levit_conv_128s",
    "botnet26t_256",
    "naflexvit_base_patch16_siglip",
    "vit_relpos_small_patch16_224",
)
SQUARE, LANDSCAPE = (224, 224), (192, 320)  # height, width
STATUSES = ("works", "one fixed size", "refused")
COLUMNS = "| module | model | M parameters | channels | CLS | input sides | timm gives | map | status | why |"
LEGEND = """
- input sides: the multiple that each side must have, or the one size that is taken.
- map: rows x columns at the input sizes height x width.
- timm gives: a map (B, D, H, W), passed on as it is; a channels-last map or tokens, arranged here: same, if the result
  is that of timm's own forward_intermediates(output_fmt="NCHW") on noise at the last input size, else OTHER.
"""


class Unfilled(TorchFunctionMode):
    """Leaves out what writes in place: weights that are only counted need no values."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func.__name__.endswith("_") and not func.__name__.endswith("__"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Row:
    """What is known of one model; `maps` (rows, columns) by input (height, width); `why` it is not simply 'works'."""

    module: str
    model: str
    parameters: int
    status: str
    why: str = ""
    dim: int = 0
    prefix: int = 0
    sides: str = ""
    maps: tuple[tuple[Size, Size], ...] = ()
    layout: str = ""


def parameters(model: str) -> int:
    """Their number, of a model without memory."""
    with torch.device("meta"), Unfilled():
        return sum(parameter.numel() for parameter in timm.create_model(model).parameters())


def smallest(module: str) -> str:
    """The model of a timm module with the fewest parameters."""
    found = min((name for name in timm.list_models(module=module) if not name.startswith("test_")), key=parameters)
    print(f"smallest of {module}: {found}", flush=True)
    return found


def survey(model: str) -> Row:
    """Make the model, run it at a square and a landscape; a refusal is a row as well."""
    architecture = model.partition(".")[0]
    module = timm.model_entrypoint(architecture).__module__.rpartition(".")[2]
    count = parameters(architecture)
    torch.manual_seed(0)
    try:
        backbone = TimmBackbone(model)
    except InputError as error:
        return Row(module, model, count, "refused", str(error).partition("gives no map of features ")[2] or str(error))
    fixed, multiple = backbone.fixed_size, backbone.multiple
    sizes = [fixed] if fixed else [(nearest(h, multiple), nearest(w, multiple)) for h, w in (SQUARE, LANDSCAPE)]
    backbone.eval()
    return Row(
        module,
        model,
        count,
        status="one fixed size" if fixed else "works",
        why=why_fixed(backbone, fixed) if fixed else "",
        dim=backbone.dim,
        prefix=backbone.prefix,
        sides=by(fixed) if fixed else "any" if multiple == 1 else f"multiples of {multiple}",
        maps=tuple((size, map_size(backbone, size)) for size in sizes),
        layout=layout(backbone, sizes[-1]),
    )


@torch.no_grad()
def map_size(backbone: TimmBackbone, size: Size) -> Size:
    """Rows and columns of the map of an image."""
    rows, columns = backbone(torch.zeros(1, 3, *size)).patches.shape[2:]
    return rows, columns


@torch.no_grad()
def why_fixed(backbone: TimmBackbone, size: Size) -> str:
    """What happens at twice the height."""
    doubled = (2 * size[0], size[1])
    try:
        backbone(torch.zeros(1, 3, *doubled))
    except FAILURES as error:
        return f"at {by(doubled)}: {str(error) or type(error).__name__}"
    return f"takes {by(doubled)}, but no multiple up to {MULTIPLES[-1]}"


@torch.no_grad()
def layout(backbone: TimmBackbone, size: Size) -> str:
    """What timm gave, and whether it was arranged as timm arranges it; a map (B, D, H, W) is passed on untouched."""
    images = torch.randn(1, 3, *size)
    out, patches = backbone.model.forward_features(images), backbone(images).patches
    if out.shape == patches.shape:
        return "map"
    same = torch.allclose(timms_own(backbone.model, images), patches, atol=1e-4)
    return f"{'tokens' if out.ndim == 3 else 'channels last'}, {'same' if same else 'OTHER'}"


def timms_own(model: Any, images: Tensor) -> Tensor:
    """timm's features (B, D, H, W) after the last norm, which some models do not offer and some do not have."""
    asked = {"indices": 1, "output_fmt": "NCHW", "intermediates_only": True}
    try:
        return model.forward_intermediates(images, norm=True, **asked)[-1]
    except AssertionError:
        return model.forward_intermediates(images, **asked)[-1]


def by(size: Size) -> str:
    """Height x width, or rows x columns."""
    return f"{size[0]} x {size[1]}"


def line(row: Row) -> str:
    """The row in Markdown."""
    maps = "; ".join(f"{by(grid)} at {by(size)}" for size, grid in row.maps)
    why = " ".join(row.why.split()).replace("|", "/")
    shown = (row.module, row.model, f"{row.parameters / 1e6:.1f}", row.dim or "", row.prefix if row.maps else "")
    return f"| {' | '.join(map(str, (*shown, row.sides, row.layout, maps, row.status, why)))} |"


def report(rows: Sequence[Row], modules: int) -> str:
    """The table, behind counts, versions and what the columns mean."""
    counts = ", ".join(f"{sum(row.status == status for row in rows)} {status}" for status in STATUSES)
    title = f"# Backbones\n\n{len(rows)} models of {modules} timm modules: {counts}.\n"
    versions = f"- torch {torch.__version__}, timm {timm.__version__}; written by `python -m benchmarks.backbones`.\n"
    table = [COLUMNS, "| --- | --- | ---: | ---: | ---: | --- | --- | --- | --- | --- |", *map(line, rows)]
    return title + LEGEND + versions + "\n" + "\n".join(table) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="these alone")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "backbones.md")
    asked = parser.parse_args(words)
    warnings.filterwarnings("ignore", module="timm|torch")
    rows, started = [], time.perf_counter()
    for model in asked.models or sorted({*NAMED, *map(smallest, timm.list_modules())}):
        rows.append(survey(model))
        print(f"{time.perf_counter() - started:4.0f} s {line(rows[-1])}", flush=True)
    rows.sort(key=lambda row: (row.module, row.model))
    asked.output.write_text(report(rows, len({row.module for row in rows})))


if __name__ == "__main__":
    main()
