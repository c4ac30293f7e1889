"""Any timm CNN or ViT -> Features."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import timm
import timm.models
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from retrieval.config import InputError, near
from retrieval.features import Features


class TimmBackbone(nn.Module):
    """A timm model without its classifier: images (B, 3, H, W), normalised -> Features.

    `dim` channels, `multiple` that each side of the input must have, `fixed_size` (H, W) of a model that takes no
    other, `mean` and `std` of its input, `stride` pixels to a position of the map. `pretrained` downloads through
    timm, `weights` loads a local .safetensors or .pth, `kwargs` go to timm as they are.
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
        if not timm.is_model(name):
            raise InputError(f"timm {timm.__version__} has no backbone '{name}': {near(name, timm.list_models())}")
        if pretrained and weights:
            raise InputError(f"give backbone.pretrained or backbone.weights, not both (weights = {weights})")
        state = read_weights(weights) if weights else None
        self.name = name
        self.model = create(name, bool(pretrained), kwargs := dict(kwargs or {}))
        if state is not None:
            load_weights(self.model, state, str(weights))
        cfg = self.model.pretrained_cfg
        self.mean = tuple(float(v) for v in (mean or cfg["mean"]))
        self.std = tuple(float(v) for v in (std or cfg["std"]))
        self.patch = patch_of(self.model)
        dynamic = self.patch is not None and getattr(self.model, "dynamic_img_size", False)
        self.fixed_size = fixed_size(self.model, kwargs) if cfg.get("fixed_input_size") and not dynamic else None
        self.multiple = self.patch or 1
        if self.patch is None:
            self.model.to(memory_format=torch.channels_last)
        self.frozen_statistics = False
        height, width = self.fixed_size or (4 * self.multiple if self.multiple > 1 else 128,) * 2
        features = self._probe(height, width)
        self.dim, self.prefix = features.patches.shape[1], features.prefix.shape[1]
        self.stride = height // features.patches.shape[2]

    def train(self, mode: bool = True) -> Self:
        """With `frozen_statistics` BatchNorm stays in evaluation mode: small batches of few landmarks spoil it."""
        super().train(mode)
        if self.frozen_statistics:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> Features:
        if self.patch is None:  # measured: a CNN trains 1.3 to 2 times as fast on a CPU with its channels last
            images = images.contiguous(memory_format=torch.channels_last)
        out = self.model.forward_features(images)  # pyright: ignore[reportCallIssue]
        if out.ndim == 4:
            return Features(out.permute(0, 3, 1, 2) if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else out)
        return self._from_tokens(out, images.shape[-2], images.shape[-1])

    def _from_tokens(self, tokens: Tensor, height: int, width: int) -> Features:
        if self.patch is None:
            raise ValueError(f"its features are of shape {tuple(tokens.shape)}, and no grid of patches is known")
        skip = self.model.num_prefix_tokens
        cls = 0 if getattr(self.model, "cls_token", None) is None else 1
        patches = tokens[:, skip:].transpose(1, 2)
        patches = patches.reshape(tokens.shape[0], tokens.shape[2], height // self.patch, width // self.patch)
        return Features(patches, tokens[:, :cls])

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the map that images of this size give, measured."""
        rows, columns = self._probe(height, width).patches.shape[-2:]
        return rows, columns

    @torch.no_grad()
    def _probe(self, height: int, width: int) -> Features:
        """What an image of this size gives: timm's num_features, for one, means another layer for some models."""
        training = self.training
        try:
            return self.eval()(torch.zeros(1, 3, height, width, device=next(self.parameters()).device))
        except (RuntimeError, AssertionError, AttributeError, ValueError) as error:
            raise InputError(
                f"backbone '{self.name}' gives no map of features at {height} x {width}: {error}"
            ) from error
        finally:
            self.train(training)


def create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> Any:
    """The timm model; a ViT is asked to take any resolution."""
    attempts = [{"dynamic_img_size": True, **kwargs}, kwargs]
    for attempt in attempts:
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, **attempt)
        except TypeError as error:
            problem = error
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            hint = "; a file of its weights can be given as backbone.weights=FILE" if pretrained else ""
            raise InputError(
                f"timm cannot make '{name}' of {attempt}, pretrained = {pretrained}: {error}{hint}"
            ) from error
    raise InputError(f"timm's '{name}' refuses backbone.kwargs = {kwargs}: {problem}")


def patch_of(model: Any) -> int | None:
    """Side of a ViT's patches; None for a model whose features are a map already."""
    if not hasattr(model, "num_prefix_tokens") or not hasattr(model, "patch_embed"):
        return None
    size = getattr(model.patch_embed, "patch_size", None)
    if size is None:
        return None
    return int(size if isinstance(size, int) else size[0])


def fixed_size(model: Any, kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the one size that a model takes."""
    size = kwargs.get("img_size") or model.pretrained_cfg["input_size"][1:]
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file; nothing in it is executed."""
    if not Path(path).is_file():
        raise InputError(f"backbone.weights: no file at {path}")
    try:
        state = timm.models.load_state_dict(path, weights_only=True)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        LookupError,
        AttributeError,
        OSError,
    ) as error:
        raise InputError(f"backbone.weights: {path} is no .safetensors or .pth of plain tensors: {error}") from error
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"backbone.weights: {path} does not hold a mapping of names to tensors")
    return state


def load_weights(model: Any, state: dict[str, Tensor], path: str) -> None:
    """Copy the tensors into the model; all but the classifier must fit."""
    own = model.state_dict()
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = ((classifier,) if isinstance(classifier, str) else tuple(classifier)) + ("head",)
    missing = sorted(own.keys() - state.keys())
    foreign = sorted(key for key in state.keys() - own.keys() if not key.startswith(tuple(f"{h}." for h in heads)))
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    for what, keys in (("lacks", missing), ("has unknown", foreign), ("has other shapes:", sorted(shapes))):
        if keys:
            raise InputError(
                f"backbone.weights: {path} is not of timm's '{model.pretrained_cfg['architecture']}': "
                f"it {what} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
            )
    model.load_state_dict({key: state[key] for key in own})
