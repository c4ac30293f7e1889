"""Any timm CNN or ViT -> Features."""

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any, Self

import timm
import timm.models
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from retrieval.errors import InputError, near
from retrieval.features import Features
from retrieval.timm_models import Size, create, input_size, load_weights, read_weights

# Read by oneDNN at the first convolution. It keeps 1,024 kernels, one for each layer and shape, and makes them anew
# where photos have more shapes: measured, 1.25 times the CPU seconds in bfloat16 (48 photos of MobileNetV2, 3 scales).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

MULTIPLES = (1, 2, 4, 8, 14, 16, 32, 48, 64)  # coarser ones (MaxViT's 224) would distort photos: one fixed size
STRIDES = (1, 2, 4, 8, 16, 32, 64)  # of the maps in a CNN
LEARNED = ("multiple", "fixed_size", "least", "dim", "prefix", "stride", "_stride", "_tried", "_rounds_up")  # measured
MEASURED: dict[str, dict[str, Any]] = {}  # of each name and kwargs, which no weights change
FAILURES = (RuntimeError, AssertionError, AttributeError, ValueError, TypeError, LookupError)


def refuse_unknown(name: str) -> None:
    """Refuse what timm has no model of."""
    if not timm.is_model(name):
        raise InputError(f"timm {timm.__version__} has no backbone '{name}': {near(name, timm.list_models())}")


class TimmBackbone(nn.Module):
    """A timm model without its classifier: images (B, 3, H, W), normalised -> Features.

    `dim` channels, `prefix` tokens (1 with CLS, else 0), `multiple` that each side of the input must have, `least`
    pixels of a side (a smaller one is enlarged), `fixed_size` (H, W) of a model that takes no other, `stride` pixels
    from one position to the next, `mean` and `std` of its input.
    `frozen`: a `retrieval.frozen.Frozen` where it does not learn, else None. `pretrained` downloads through timm,
    `weights` loads a local .safetensors or .pth, `kwargs` go to timm as they are (`made_with`: with what was added).
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        weights: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        refuse_unknown(name)
        if pretrained and weights:
            raise InputError(f"give backbone.pretrained or backbone.weights, not both (weights = {weights})")
        state = read_weights(weights) if weights else None
        self.name, self.kwargs = name, dict(kwargs or {})
        self.model, self.made_with = create(name, bool(pretrained), self.kwargs)
        if state is not None:
            load_weights(self.model, state, str(weights))
        cfg = self.model.pretrained_cfg
        self.mean = tuple(float(v) for v in (mean or cfg["mean"]))
        self.std = tuple(float(v) for v in (std or cfg["std"]))
        self.frozen_statistics = False
        self.frozen: Any = None
        self._compiled: Callable[[Any, Tensor], Tensor] | None = None
        self._cls = int(any("cls_token" in key for key, _ in self.model.named_parameters()))
        self._skipped = int(getattr(self.model, "num_prefix_tokens", self._cls))  # CLS, distillation, registers
        self._learn(input_size(self.model, self.kwargs))
        if self._stride is None:
            self.model.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Self:
        """With `frozen_statistics` BatchNorm stays in evaluation mode: small batches of few landmarks spoil it.

        All of a frozen backbone does.
        """
        super().train(mode and self.frozen is None)
        if self.frozen_statistics:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Features:
        """sizes (B, 2): real height and width of each image at the top left of a padded one; None where all is real."""
        images = self._enlarged(images, sizes)
        if self._stride is None:  # measured: a CNN trains 1.3 to 2 times as fast on a CPU with its channels last
            images = images.contiguous(memory_format=torch.channels_last)
        height, width = images.shape[-2:]
        if sizes is None:
            run = self._compiled if self._compiled and self.training else forward_features
            return self._features(run(self.model, images), height, width)
        with self._unpadded(sizes, (height, width)):
            features = self._features(
                self.model.forward_features(images, **self._attended(sizes, images)), height, width
            )
        return Features(features.patches, features.prefix, self._real(sizes, features.patches, self.stride))

    def _enlarged(self, images: Tensor, sizes: Tensor | None) -> Tensor:
        """Images with no side below `least`: resized bilinearly, or padded further where they are padded."""
        height, width = images.shape[-2:]
        if height >= self.least and width >= self.least:
            return images
        high, wide = max(height, self.least), max(width, self.least)
        if sizes is not None:
            return functional.pad(images, (0, wide - width, 0, high - height))
        return functional.interpolate(images, (high, wide), mode="bilinear", align_corners=False)

    def _features(self, out: Tensor, height: int, width: int) -> Features:
        if self._stride is None:
            return Features(out.permute(0, 3, 1, 2) if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else out)
        patches = out[:, self._skipped :].transpose(1, 2)
        return Features(patches.unflatten(2, (height // self._stride, width // self._stride)), out[:, : self._cls])

    def _positions(self, sides: Any, stride: int) -> Any:
        """How many positions of this stride a side has: cells of `stride` pixels, the last one in part where the
        backbone rounds up."""
        return (sides + (stride - 1 if self._rounds_up else 0)) // stride

    def _real(self, sizes: Tensor, x: Tensor, stride: int) -> Tensor:
        """(B, H, W) bool for a map x of this stride: True on as many positions as the image alone has."""
        return real_part(self._positions(sizes, stride).clamp(min=1), x.shape[2], x.shape[3])

    @contextmanager
    def _unpadded(self, sizes: Tensor, whole: Sequence[int]) -> Iterator[None]:
        """Within it every layer of a CNN that looks at neighbours sees 0 in the padding, as beyond an image's border:
        else biases would fill the padding and leak in.

        Exact for convolutions that pad alike on all sides, and maxima after a ReLU (ResNet, MobileNetV2, ConvNeXt). Not
        where padding depends on the size (TensorFlow's) or a layer averages (squeeze-and-excitation).
        """

        def zeroed(module: nn.Module, given: tuple[Tensor]) -> Tensor:
            x = given[0]
            off = {
                s: [abs(self._positions(n, s) - m) for n, m in zip(whole, x.shape[2:], strict=True)] for s in STRIDES
            }
            return x * self._real(sizes, x, min(STRIDES, key=lambda stride: sum(off[stride])))[:, None]

        layers = [] if self._stride else [m for m in self.model.modules() if looks_around(m)]
        hooks = [layer.register_forward_pre_hook(zeroed) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _attended(self, sizes: Tensor, images: Tensor) -> dict[str, Tensor]:
        """timm's mask that keeps the attention of a ViT off the padding, (B, 1, 1, T), where the model takes one; its
        position embedding remains that of the padded grid."""
        if self._stride is None or "attn_mask" not in inspect.signature(self.model.forward_features).parameters:
            return {}
        real = self._real(sizes, images[..., :: self._stride, :: self._stride], self._stride).flatten(1)
        return {"attn_mask": functional.pad(real, (self._skipped, 0), value=True)[:, None, None]}

    @contextmanager
    def compiled(self) -> Iterator[None]:
        """Within it the model runs through torch.compile, for any size; what cannot be compiled as a whole raises."""
        self.model.forward_features = torch.compile(self.model.forward_features, dynamic=True, fullgraph=True)
        try:
            yield
        finally:
            del self.model.forward_features

    def compile_training(self) -> None:
        """From now on it trains through torch.compile, for any size, with the same names of weights; it describes as
        before, so that rows do not depend on how a model was trained. A copy trains through its own weights."""
        torch.compiler.reset()  # what earlier jobs of a sweep compiled counts towards a limit, after which nothing is
        self._compiled = torch.compile(forward_features, dynamic=True)

    def checkpoint_activations(self) -> None:
        """From now on training keeps what enters each block alone; the backward pass computes the rest once more."""
        try:
            self.model.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise InputError(
                f"checkpointing=true: timm's '{self.name}' cannot compute its activations anew; accepted: "
                "checkpointing=false, pieces=N for less memory, or another backbone"
            ) from error

    def depths(self) -> dict[str, int]:
        """How many layers each parameter lies below the top one that features pass, 0; timm says what a layer is."""
        if not hasattr(self.model, "group_matcher"):
            raise InputError(
                f"layer_decay needs layers in order, and timm gives none for '{self.name}'; accepted: layer_decay=1.0, "
                "or another backbone"
            )
        layers: Any = timm.models.group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        top = max(layers[name] for name in self.used())
        return {f"model.{name}": max(0, top - layer) for name, layer in layers.items()}

    def undecayed(self) -> set[str]:
        """Parameters that timm spares weight decay, such as position embeddings and class tokens."""
        patterns = getattr(self.model, "no_weight_decay", set)()
        names = [name for name, _ in self.model.named_parameters()]
        return {f"model.{name}" for name in names if any(fnmatch(name, pattern) for pattern in patterns)}

    @torch.enable_grad()
    def used(self) -> set[str]:
        """Trainable parameters of the timm model that its features depend on; others follow the features, as a
        ConvNeXt's last norm does."""
        named = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        training, height, width = self.training, *self._tried
        out = self.eval().model.forward_features(
            torch.zeros(1, 3, height, width, device=next(self.parameters()).device)
        )
        gradients = torch.autograd.grad(out.sum(), list(named.values()), allow_unused=True)
        self.train(training)
        return {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}

    def freeze_unused(self) -> None:
        """Leave what follows the features out of training: DDP waits for a gradient of all that it trains."""
        used = self.used()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in used)

    @torch.no_grad()
    def map_size(self, height: int, width: int) -> Size:
        """Rows and columns of the map that images of this size give, measured."""
        training = self.training
        patches = self.eval()(torch.zeros(1, 3, height, width, device=next(self.parameters()).device)).patches
        self.train(training)
        return patches.shape[2], patches.shape[3]

    def _learn(self, nominal: Size) -> None:
        """Measure, once in a process for each name and kwargs; again for real where meta tensors cannot tell."""
        made, lookups = f"{self.name} {self.kwargs}", Lookups()
        if made in MEASURED:
            self.__dict__.update(MEASURED[made])
            return
        with lookups:
            self._measure(nominal)
        if not (lookups.met and next(self.parameters()).is_meta):
            MEASURED[made] = {name: getattr(self, name) for name in LEARNED}

    @torch.no_grad()
    def _measure(self, nominal: Size) -> None:
        """Learn what it takes and gives by running it.

        timm's fixed_input_size is also set for models that take any size, its patch_size is that of one stage, and
        its num_features means another layer for some.
        """
        training, problem = self.training, None
        self.eval()
        for self.multiple, self.fixed_size, (height, width) in trials(nominal):
            try:
                out = self.model.forward_features(torch.zeros(1, 3, height, width))
                self._stride = stride_of(out, self._skipped, height, width)
                features = self._features(out, height, width)
                break
            except FAILURES as error:
                problem = error
        else:
            reason = str(problem) or type(problem).__name__
            raise InputError(f"backbone '{self.name}' gives no map of features at {height} x {width}: {reason}")
        self._tried = height, width
        self.least = self.multiple * (1 if self.fixed_size else self._fewest())
        self.train(training)
        self.dim, self.prefix = features.patches.shape[1], features.prefix.shape[1]
        rows = features.patches.shape[2]  # of a CNN that halves its map, rounding up or down, a few times
        self.stride = self._stride or 2 ** round(math.log2(height / rows))
        self._rounds_up = rows * self.stride >= height

    def _fewest(self) -> int:
        """How many multiples a side has at least, found by doubling and halving."""

        def taken(count: int) -> bool:
            side = count * self.multiple
            try:
                out = self.model.forward_features(torch.zeros(1, 3, side, side))
                return self._features(out, side, side).patches.numel() > 0
            except FAILURES:
                return False

        low, high = 0, 1
        while high * self.multiple < min(self._tried) and not taken(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if taken(middle) else (middle, high)
        return high


class Lookups(TorchFunctionMode):
    """`met`: whether anything was looked up at computed places. Meta tensors have no values, so that with them places
    beyond the end of a table (MViTv2's, for images larger than its own) pass."""

    met = False

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if name in ("embedding", "gather", "index_select", "take", "take_along_dim"):
            self.met = True
        elif name == "__getitem__":
            self.met |= any(isinstance(i, Tensor) for i in (args[1] if isinstance(args[1], tuple) else args[1:]))
        return func(*args, **(kwargs or {}))


def forward_features(model: Any, images: Tensor) -> Tensor:
    """What timm's model gives before its classifier."""
    return model.forward_features(images)


def looks_around(layer: nn.Module) -> bool:
    """Whether a position of its result depends on neighbours."""
    return isinstance(layer, nn.MaxPool2d) or (isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1)


def real_part(counts: Tensor, height: int, width: int) -> Tensor:
    """(B, height, width) bool, True on the first rows and columns; counts (B, 2) says how many."""
    rows, columns = (torch.arange(side, device=counts.device) for side in (height, width))
    rows, columns = rows < counts[:, :1], columns < counts[:, 1:]
    return rows[:, :, None] & columns[:, None]


def trials(nominal: Size) -> Iterator[tuple[int, Size | None, Size]]:
    """(multiple, fixed size, size to try), the finest multiple first and the nominal size, as the only one, last.

    The height is one multiple above and the width one below what strides of 2 to 32 divide, as a stride may round up
    or down; not both are multiples of a later entry. The width exceeds the nominal one, where some tables of
    positions (MViTv2's) end.
    """
    wide = 96 * math.ceil((nominal[1] + 128) / 96)
    for multiple in MULTIPLES:
        yield multiple, None, (multiple * (128 // multiple + 1), multiple * (wide // multiple - 1))
    yield 1, nominal, nominal


def stride_of(out: Any, skipped: int, height: int, width: int) -> int | None:
    """Pixels from one token to the next in (B, N, D), whose grid must have the image's aspect; None for a map."""
    if not isinstance(out, Tensor) or out.ndim not in (3, 4):
        shape = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__} of {len(out)}"
        raise ValueError(f"its features are {shape}, accepted is one tensor: a map (4 axes) or tokens (B, N, D)")
    if out.ndim == 4:
        return None
    count = out.shape[1] - skipped
    rows = round(math.sqrt(max(count, 0) * height / width))
    if not rows or count % rows or rows * width != count // rows * height:
        raise ValueError(f"{count} of its {out.shape[1]} tokens are patches: no grid of the image's aspect")
    return height // rows
