"""timm's models as they are made, and files of their weights."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import timm.models
from safetensors import SafetensorError
from torch import Tensor

from retrieval.errors import InputError

Size = tuple[int, int]  # height, width, as in timm
PRUNED = timm.models.VGG


def create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The timm model, and the kwargs that it was made of: a ViT is asked to take any resolution."""
    attempts = [{"dynamic_img_size": True, **kwargs}, kwargs]
    for attempt in attempts:
        try:
            return to_last_relu(timm.create_model(name, pretrained=pretrained, num_classes=0, **attempt)), attempt
        except TypeError as error:
            problem = error
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            hint = "; a file of its weights can be given as backbone.weights=FILE" if pretrained else ""
            raise InputError(
                f"timm cannot make '{name}' of {attempt}, pretrained = {pretrained}: {error}{hint}"
            ) from error
    raise InputError(f"timm's '{name}' refuses backbone.kwargs = {kwargs}: {problem}")


def to_last_relu(model: Any) -> Any:
    """A VGG without its last max-pooling, and without the 120 million weights that follow: retrieval pools what its
    last ReLU gives (Radenovic et al., TPAMI 2019). Other networks as they are.
    """
    if isinstance(model, PRUNED):
        model.prune_intermediate_layers([4])
    return model


def input_size(model: Any, kwargs: Mapping[str, Any]) -> Size:
    """Height and width that a model was made for."""
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
    heads = ((classifier,) if isinstance(classifier, str) else tuple(classifier)) + ("head", "pre_logits")
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
