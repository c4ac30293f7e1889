"""What a graph is asked to be, and what of it cannot be had."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from retrieval.data import images
from retrieval.embedder import Embedder
from retrieval.errors import InputError, near
from retrieval.extraction import DTYPES
from retrieval.heads import Whitening
from retrieval.scales import AGGREGATES

INSIDE = ("normalisation", "whitening", "scales")
AXES = {"batch": 0, "height": 2, "width": 3}
# torch.onnx writes its operators as those of 18, and onnxscript converts these up to 25 (its version_converter);
# ONNX Runtime 1.32 runs all of them, tried on a CNN and a ViT
OPSETS = range(18, 26)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """size: height and width that it is exported at, and takes alone where it can take no others. scales, aggregate: as
    in `retrieval.scales`. whitening: what is applied to the descriptor in the end. inside: what the graph does by
    itself, of INSIDE. dynamic: the axes that may have any length, of AXES. opset: of ONNX. input, output: names there.
    """

    size: tuple[int, int]
    scales: Sequence[float] = (1.0,)
    aggregate: str = "paper"
    inside: Sequence[str] = INSIDE
    whitening: Whitening | None = None
    dynamic: Sequence[str] = tuple(AXES)
    opset: int = 20
    input: str = "images"
    output: str = "descriptors"

    @property
    def several(self) -> bool:
        """Whether photos are described at other scales than their own."""
        return tuple(self.scales) != (1.0,)


def refuse(embedder: Embedder, wanted: Wanted, dtype: str) -> None:
    """Raise InputError for what cannot be had of this embedder."""
    refuse_unknown("dtype", [dtype], DTYPES)
    refuse_unknown("aggregate", [wanted.aggregate], AGGREGATES)
    refuse_unknown("inside", wanted.inside, INSIDE)
    refuse_unknown("dynamic", wanted.dynamic, AXES)
    if wanted.opset not in OPSETS:
        raise InputError(
            f"opset must be {OPSETS[0]} to {OPSETS[-1]}, what torch.onnx writes and what can be made of it, "
            f"got {wanted.opset}"
        )
    if not wanted.input or not wanted.output or wanted.input == wanted.output:
        raise InputError(f"input and output must be two names, got {wanted.input!r} and {wanted.output!r}")
    if not wanted.scales or not all(0 < scale < float("inf") for scale in wanted.scales):
        raise InputError(f"scales must be one or more factors above 0, got {list(wanted.scales)}")
    refuse_size(embedder, wanted)
    refuse_whitening(embedder, wanted)
    refuse_order(embedder, wanted)


def refuse_unknown(what: str, given: Sequence[str], accepted: Sequence[str] | dict) -> None:
    for one in given:
        if one not in accepted:
            raise InputError(f"{what} has no '{one}': {near(one, accepted)}")


def refuse_size(embedder: Embedder, wanted: Wanted) -> None:
    """A size that the backbone or the pooling does not take, and scales where there is one size."""
    backbone, (height, width) = embedder.backbone, wanted.size
    nearest = backbone.fixed_size or tuple(images.nearest(side, backbone.multiple) for side in wanted.size)
    if (height, width) != nearest:
        sides = "one size" if backbone.fixed_size else f"sides that are multiples of {backbone.multiple}"
        raise InputError(f"timm's '{backbone.name}' takes {sides}: size must be {list(nearest)}, got {[height, width]}")
    if not (backbone.fixed_size or embedder.map_size):
        return
    if wanted.several:
        raise InputError(f"a model of one size takes scales=[1.0] alone, got {list(wanted.scales)}")
    if embedder.map_size and backbone.map_size(height, width) != embedder.map_size:
        raise InputError(
            f"the pooling takes maps of {list(embedder.map_size)} alone: size = {[height, width]} gives "
            f"{list(backbone.map_size(height, width))}"
        )


def refuse_whitening(embedder: Embedder, wanted: Wanted) -> None:
    if wanted.whitening is not None and wanted.whitening.in_features != embedder.dim:
        raise InputError(
            f"the whitening takes {wanted.whitening.in_features} dimensions, the model gives {embedder.dim}"
        )


def refuse_order(embedder: Embedder, wanted: Wanted) -> None:
    """What is inside though it follows something outside."""
    if not wanted.several or "scales" in wanted.inside:
        return
    if "normalisation" in wanted.inside:
        raise InputError(
            "the scales follow the normalisation, so it is outside where they are; accepted: inside with scales, or "
            f"without normalisation, got {list(wanted.inside)}"
        )
    if not {"height", "width"} <= set(wanted.dynamic):
        raise InputError(
            f"scales outside need a graph of any size, got dynamic={list(wanted.dynamic)}; accepted: inside with scales"
        )
    if wanted.whitening is not None and "whitening" in wanted.inside:
        raise InputError(
            "a whitening follows the aggregate of the scales, so it is inside only where these are; accepted: inside "
            f"with scales, or without whitening, got {list(wanted.inside)}"
        )
    if wanted.aggregate == "mean" and not isinstance(embedder.head, nn.Identity | Whitening):
        raise InputError(
            "aggregate=mean weighs each scale by the length of what the head gives, and a graph gives unit rows: "
            f"accepted: inside with scales, or aggregate=cvnet, got inside={list(wanted.inside)}"
        )
