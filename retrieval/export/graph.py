"""What leaves: a model as one graph that takes pixels and gives unit rows, for any size where it can.

B photos, S scales, d the length of a row.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from retrieval import scales
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.export.padding import pad_beforehand
from retrieval.export.wanted import AXES, Wanted, refuse
from retrieval.extraction import DTYPES
from retrieval.poolings import RMAC, GeM, RegionalGeM
from retrieval.spec import Spec

WHITENING = "whitening.safetensors"  # beside the file, where the graph does not whiten
CLOSE = 0.999  # a cosine below it is a mistake of the export; how close a file comes is measured on the file


@dataclass(frozen=True)
class Exported:
    """A program, the axes that may have any length, and why some of those asked for may not (None: all may).

    A height or width of any length has a least one, as a CNN's last map needs two positions a side, at each scale.
    """

    program: ExportedProgram
    dynamic: tuple[str, ...]
    why_fixed: str | None


class Taken(nn.Module):
    """Photos (B, 3, H, W), uint8 where normalised inside, else normalised float32 -> unit rows (B, d), float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, embedder: Embedder, wanted: Wanted, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedder = ready(embedder, dtype)
        self.scales = tuple(wanted.scales) if "scales" in wanted.inside else (1.0,)
        self.join = joining(self.embedder, wanted.aggregate, len(self.scales))
        self.whitening = nn.Identity()
        if wanted.whitening is not None and "whitening" in wanted.inside:
            self.whitening = copy.deepcopy(wanted.whitening).cpu()
        self.normalises = "normalisation" in wanted.inside
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(embedder.backbone, name))[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images.float() / 255 - self.mean) / self.std if self.normalises else images
        features = scales.at_scales(self.embedder.backbone, pixels, self.scales)
        return self.whitening(self.join(torch.stack([self.embedder.project(one) for one in features])))

    def noise(self, batch: int, height: int, width: int) -> Tensor:
        """Photos of noise as it takes them, always the same ones."""
        pixels = torch.randint(256, (batch, 3, height, width), generator=torch.Generator().manual_seed(0))
        return pixels.byte() if self.normalises else (pixels / 255 - self.mean) / self.std


def taken(embedder: Embedder, wanted: Wanted, dtype: str = "float32") -> Taken:
    """A copy fit for export, in evaluation mode on the CPU; the embedder stays as it is. What cannot be had is refused
    first.

    dtype: of the backbone's weights and of what it computes; what follows is computed in float32, as always. PyTorch's
    CPU kernels take all three; for ONNX see `retrieval.export.files.computed`.
    """
    refuse(embedder, wanted, dtype)
    return Taken(embedder, wanted, DTYPES[dtype]).eval().requires_grad_(False)


def ready(embedder: Embedder, dtype: torch.dtype) -> Embedder:
    """A copy that computes its features in `dtype`, without what belongs to training."""
    own = copy.deepcopy(embedder).cpu()
    own.backbone.frozen = own.backbone._compiled = None
    if isinstance(own.pooling, GeM):
        own.pooling.unseen = False  # noise is no reason to warn
    pad_beforehand(own.backbone.model)
    own.backbone.model.to(dtype, memory_format=torch.contiguous_format)  # an archive warns of others
    own.backbone.register_forward_pre_hook(lambda _, given: (given[0].to(dtype), *given[1:]))
    return own


def joining(embedder: Embedder, aggregate: str, count: int) -> Callable[[Tensor], Tensor]:
    """How the vectors (S, B, d) of S = `count` scales become unit rows (B, d); the exponent is a constant of it."""
    if count == 1:
        return lambda vectors: F.normalize(vectors[0], dim=-1)
    if aggregate == "paper":
        m = scales.exponent(embedder)
        return lambda vectors: scales.power_mean(vectors, m)
    return lambda vectors: scales.aggregation(aggregate)(vectors, embedder)


@torch.no_grad()
def exported(module: Taken, wanted: Wanted, embedder: Embedder) -> Exported:
    """The program of what `taken` gave: with the axes asked for, else at the one size, else for one photo at a time;
    the first of these that can be exported and gives the module's rows at other lengths too."""
    asked = tuple(axis for axis in AXES if axis in wanted.dynamic)
    batch = tuple(axis for axis in asked if axis == "batch")
    why = known = of_one_size(embedder, wanted)
    failed: list[Exception] = []
    for axes in dict.fromkeys([batch if known else asked, batch, ()]):
        try:
            program = program_of(module, wanted, axes, embedder.backbone.multiple)
            compare(program, module, wanted, axes, embedder.backbone.multiple)
        except Exception as error:  # a tracer raises whatever the traced code does at a size that is a symbol
            failed.append(error)
            why = why or f"with any {' and '.join(axes)} it fails: {first_line(error)}"
            continue
        return Exported(program, axes, why if axes != asked else None)
    if isinstance(failed[-1], InputError):
        raise failed[-1]
    name, size = embedder.backbone.name, list(wanted.size)
    raise InputError(
        f"timm's '{name}' cannot be exported even for one photo of {size}: {first_line(failed[-1])}"
    ) from failed[-1]


def of_one_size(embedder: Embedder, wanted: Wanted) -> str | None:
    """Why photos of one size alone can be taken, where that is known of the parts; else None."""
    backbone, pooling = embedder.backbone, embedder.pooling
    if backbone.fixed_size:
        return f"timm's '{backbone.name}' takes photos of {backbone.fixed_size[0]} x {backbone.fixed_size[1]} alone"
    if any(getattr(module, "window_size", None) for module in backbone.model.modules()):
        # a Swin of four blocks was not exported for any size within five minutes
        return f"timm's '{backbone.name}' lays windows over its map, and torch.export counts those of one size alone"
    if backbone.multiple > 1 and wanted.several and "scales" in wanted.inside:
        # a rounding of Python's floats cannot be saved; one of whole numbers took a ViT minutes in ONNX
        return f"at each scale the sides are rounded to multiples of {backbone.multiple}, for one size alone"
    if embedder.map_size:
        return f"{type(pooling).__name__} takes maps of {embedder.map_size[0]} x {embedder.map_size[1]} alone"
    if isinstance(pooling, RMAC | RegionalGeM):
        return f"{type(pooling).__name__} lays its regions by the map's height and width"
    return None


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def program_of(module: Taken, wanted: Wanted, axes: tuple[str, ...], multiple: int) -> ExportedProgram:
    """The program with these axes of any length; a batch of 1, or a square, would be a case of its own."""
    height, width = beside(wanted.size, axes, multiple)
    photos = module.noise(2 if "batch" in axes else 1, height, width)
    lengths = {AXES[axis]: Dim.DYNAMIC for axis in axes}
    program = torch.export.export(module, (photos,), dynamic_shapes=(lengths,))
    return program.run_decompositions({})  # which unwraps what autocast guards: an archive with that cannot be loaded


def beside(size: tuple[int, int], axes: tuple[str, ...], multiple: int) -> tuple[int, int]:
    """A size beside that one along these axes, not square: neither what is traced for squares nor for the size that a
    model was made for holds for others."""
    tried = [
        (size[0] + high * multiple * ("height" in axes), size[1] + wide * multiple * ("width" in axes))
        for high, wide in ((1, 3), (2, 3))
    ]
    return next((one for one in tried if one[0] != one[1]), size)


def compare(program: ExportedProgram, module: Taken, wanted: Wanted, axes: tuple[str, ...], multiple: int) -> None:
    """Raise where the program does not give the module's rows: at the size wanted, and at one of another aspect."""
    height, width = reversed(wanted.size) if {"height", "width"} <= set(axes) else wanted.size
    other = (
        height + 4 * multiple * ("height" in axes),
        width + 4 * multiple * ("width" in axes and "height" not in axes),
    )
    run = program.module()
    for batch, size in ((1, wanted.size), (3 if "batch" in axes else 1, other)):
        photos = module.noise(batch, *size)
        cosine = F.cosine_similarity(run(photos), module(photos)).min().item()
        if not cosine >= CLOSE:
            raise ValueError(
                f"exported, {batch} photos of {size[0]} x {size[1]} come within a cosine of {cosine:.4f} alone"
            )


def spec_of(
    embedder: Embedder, wanted: Wanted, exported: Exported, resolution: int, name: str, dtype: str = "float32"
) -> Spec:
    """What must be known of the graph; resolution: longer side of a photo, where nothing else is asked for."""
    backbone, whitening = embedder.backbone, wanted.whitening
    dim = embedder.dim if whitening is None else whitening.out_features
    whitened = whitening is None or "whitening" in wanted.inside
    return Spec(
        name=name,
        dim=dim,
        graph_dim=dim if whitened else embedder.dim,
        mean=backbone.mean,  # pyright: ignore[reportArgumentType]
        std=backbone.std,  # pyright: ignore[reportArgumentType]
        resolution=resolution,
        multiple=backbone.multiple,
        size=None if {"height", "width"} <= set(exported.dynamic) else wanted.size,
        batch=None if "batch" in exported.dynamic else 1,
        normalised="normalisation" in wanted.inside,
        scales=tuple(wanted.scales),
        scaled="scales" in wanted.inside or not wanted.several,
        aggregate=wanted.aggregate,
        exponent=scales.exponent(embedder) if wanted.aggregate == "paper" else 1.0,
        whitening=None if whitening is None else WHITENING,
        whitened=whitened,
        input=wanted.input,
        output=wanted.output,
        dtype=dtype,
    )
