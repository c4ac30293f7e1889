"""Models from elsewhere: a config and weights that anyone may have made are checked before anything is allocated."""

import io
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from retrieval.errors import InputError
from retrieval.spec import MOST

M = TypeVar("M", bound=nn.Module)

HOMES = {"backbone": "retrieval.backbones", "pooling": "retrieval.poolings.", "head": "retrieval.heads"}
MOST_BYTES, MOST_VALUES, DEEPEST = 1_000_000, 10_000, 32  # of a config, which is of 3 kB, 150 values, five levels
MOST_HEADER, MOST_TENSORS = 8_000_000, 20_000  # of a .safetensors: of timm's models the largest have some 3,000
MOST_TABLES = 2**28  # numbers in what a network computes for itself, such as tables of relative positions
FLOATS, WHOLE = ("F64", "F32", "F16", "BF16"), ("I64", "I32", "I16", "I8", "U8", "BOOL")
NOT_SHAPES = ("checkpoint_path", "cache_dir", "model_name", "kwargs_filter", "feature_cfg", "device", "dtype")
INTERPOLATION = r"(?<!\\)(\\\\)*\$\{"  # one that no odd number of backslashes makes a text
BROKEN = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
)


class Stored(NamedTuple):
    """A tensor of a .safetensors as its header describes it: dtype as written there (F32, I64), shape."""

    dtype: str
    shape: tuple[int, ...]


def config(path: str | Path) -> DictConfig:
    """The mapping in a .yaml or .json, of plain values alone.

    Raises InputError where it is no file, over 1 MB, not YAML, no mapping, or has tags, anchors or interpolations.
    """
    if not Path(path).is_file():
        raise InputError(f"no config file at {path}")
    with open(path, "rb") as file:
        held = file.read(MOST_BYTES + 1)
    if len(held) > MOST_BYTES:
        raise InputError(f"{path} is over {MOST_BYTES:,} bytes, more than a config may have")
    try:
        text = held.decode()
        refuse_tricks(text, path)
        cfg = OmegaConf.load(io.StringIO(text))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, *BROKEN) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} must be YAML of plain values: {error}") from error
    if not isinstance(cfg, DictConfig):
        raise InputError(f"{path} must hold a mapping of keys, it holds a {type(cfg).__name__}")
    return cfg


def refuse_tricks(text: str, path: str | Path) -> None:
    """Refuse YAML that stands for more than it says."""
    depth = values = 0
    text = re.sub(
        r"\\u[dD][89a-fA-F]..", r"\\uFFFD", text
    )  # of a name that is not UTF-8: libyaml takes no half of a pair
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        where = f"{path}, line {event.start_mark.line + 1}"
        if getattr(event, "anchor", None):
            raise InputError(f"{where}: a config may have no anchors and aliases, got {event.anchor!r}; write it out")
        if getattr(event, "tag", None):
            raise InputError(f"{where}: a config may have no tags, got {event.tag!r}; accepted: plain values")
        if isinstance(event, yaml.ScalarEvent) and re.search(INTERPOLATION, event.value):
            raise InputError(f"{where}: a saved config has no interpolations, got {event.value!r}; write the value")
        values += isinstance(event, yaml.ScalarEvent)
        if values > MOST_VALUES:
            raise InputError(f"{where}: a config may have {MOST_VALUES:,} keys and values at most")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise InputError(f"{where}: a config may nest {DEEPEST} levels deep at most")


def refuse_parts(cfg: DictConfig) -> None:
    """Refuse a backbone, pooling and head that ask for more than a network's shape: files, downloads, devices, code,
    absurd sizes."""
    for part in HOMES:
        refuse_values(part, OmegaConf.to_container(cfg[part]))
    backbone: Any = OmegaConf.to_container(cfg.backbone)
    if not re.fullmatch(r"\w+(\.\w+)?", str(backbone.get("name"))):
        raise InputError(f"backbone.name must be a name of timm's own, such as resnet50, got {backbone.get('name')!r}")
    refuse_kwargs(backbone.get("kwargs"))
    for key in ("mean", "std"):
        refuse_statistics(key, backbone.get(key))


def refuse_values(where: str, value: Any) -> None:
    """Refuse what is not plain, and numbers beyond MOST."""
    if isinstance(value, dict):
        for key, held in value.items():
            if not isinstance(key, str) or (key.startswith("_") and f"{where}.{key}" not in TARGETS):
                raise InputError(f"{where} may not have the key {key!r}; accepted: arguments of its class")
            refuse_values(f"{where}.{key}", held)
    elif isinstance(value, list):
        for index, held in enumerate(value):
            refuse_values(f"{where}[{index}]", held)
    elif isinstance(value, int | float) and not abs(value) <= MOST:
        raise InputError(f"{where} must be a finite number of at most {MOST:,}, got {value}")
    elif not isinstance(value, int | float | str | None):
        raise InputError(f"{where} must be a plain value, got a {type(value).__name__}")


TARGETS = {f"{part}._target_" for part in HOMES}


def refuse_kwargs(kwargs: Any) -> None:
    """Refuse arguments of timm that name files, downloads or devices."""
    if not isinstance(kwargs, dict | None):
        raise InputError(f"backbone.kwargs must be a mapping, got {kwargs!r}")
    for key in kwargs or ():
        if key in NOT_SHAPES or key.startswith("pretrained"):
            raise InputError(
                f"backbone.kwargs.{key} may not come with a saved model, as it names a file, a download or a device; "
                "accepted: arguments of the network's own shape"
            )


def refuse_statistics(key: str, values: Any) -> None:
    """Refuse a mean or std that is not one number for each colour; that they are finite is known."""
    three = isinstance(values, list) and len(values) == 3 and all(type(v) in (int, float) for v in values)
    if values is not None and not (three and (key == "mean" or min(values) > 0)):
        above = "" if key == "mean" else " above 0"
        raise InputError(f"backbone.{key} must be three numbers{above}, or null, got {values!r}")


def header(path: str | Path) -> dict[str, Stored]:
    """Names, dtypes and shapes of a .safetensors; no tensor is read.

    Raises InputError where it is none: cut off, a pickle, or a header whose offsets are not those of its shapes and
    of the file.
    """
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > MOST_HEADER:
                raise InputError(f"{path} is no .safetensors: its header must be of {MOST_HEADER:,} bytes at most")
            entries = json.loads(file.read(size), object_pairs_hook=once)
        with safe_open(path, "pt"):  # which checks shapes against offsets, and offsets against the file
            pass
    except (SafetensorError, OSError, *BROKEN) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no .safetensors: {error}") from error
    entries.pop("__metadata__", None)
    if len(entries) > MOST_TENSORS:
        raise InputError(f"{path} may hold {MOST_TENSORS:,} tensors at most, it has {len(entries):,}")
    return {name: Stored(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose keys comes twice."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key of its header comes twice")
    return dict(pairs)


def refuse_whole(stored: Mapping[str, Stored], names: Sequence[str], path: str | Path) -> None:
    """Refuse tensors of whole numbers, and dtypes that are unknown here, where floats are wanted."""
    for name in names:
        if stored[name].dtype not in FLOATS:
            raise InputError(f"{path} must hold {name} as {', '.join(FLOATS)}, it is {stored[name].dtype}")


def built(make: Callable[[], M], cfg: DictConfig, weights: Path) -> M:
    """The model that `make` makes of this config, if the file has its weights; they are not drawn, and not loaded.

    It is made on the meta device first, which allocates nothing, and compared with the header of the file.
    """
    refuse_parts(cfg)
    stored = header(weights)
    try:
        with torch.device("meta"), counted(stored, weights):
            plan = make()
    except BROKEN as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the config beside {weights} describes no model: {error}") from error
    refuse_homes(plan)
    refuse_unfitting(plan.state_dict(), stored, weights)
    refuse_tables(plan)
    with Undrawn():
        return make()


@contextmanager
def counted(stored: Mapping[str, Stored], path: Path) -> Iterator[None]:
    """Within it a model in the making is refused once it has clearly more parameters than the file: a depth of 10^5
    would take minutes. Those that are made and dropped again are few (a VGG's last layers)."""
    most, numbers = 2 * len(stored) + 1_000, 2 * sum(math.prod(one.shape) for one in stored.values()) + MOST_TABLES
    thread, count, total = threading.get_ident(), 0, 0

    def add(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count, total
        if parameter is None or threading.get_ident() != thread:
            return
        count, total = count + 1, total + parameter.numel()
        if count > most or total > numbers:
            raise InputError(
                f"{path} does not fit its config: it holds {len(stored)} tensors, the config asks for more"
            )

    hook = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        hook.remove()


def refuse_homes(model: nn.Module) -> None:
    """Refuse parts that an allowed module merely imports."""
    for part, home in HOMES.items():
        one = type(getattr(model, part))
        if not (f"{one.__module__}.".startswith(home) or (part == "head" and one is nn.Identity)):
            raise InputError(f"{part}._target_ must be a class defined in {home.rstrip('.')}, got {one.__qualname__}")


def refuse_unfitting(wanted: Mapping[str, Tensor], stored: Mapping[str, Stored], path: str | Path) -> None:
    """Refuse a file whose names, shapes or kinds of number are not those of the model's tensors; the first are named.

    BatchNorm's counters may be absent; floats of any width are cast.
    """
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    both = sorted(wanted.keys() & stored.keys())
    shapes = [
        f"{n} is {stored[n].shape}, not {tuple(wanted[n].shape)}" for n in both if stored[n].shape != wanted[n].shape
    ]
    kinds = [
        f"{n} is {stored[n].dtype}, not {' or '.join(accepted)}"
        for n in both
        if stored[n].dtype not in (accepted := FLOATS if wanted[n].is_floating_point() else WHOLE)
    ]
    for what, found in (
        ("lacks", sorted(wanted.keys() - stored.keys() - counters)),
        ("has unknown", sorted(stored.keys() - wanted.keys())),
        ("has other shapes:", shapes),
        ("has other numbers:", kinds),
    ):
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise InputError(f"{path} does not fit its config: it {what} {', '.join(found[:3])}{more}")


def refuse_tables(model: nn.Module) -> None:
    """Refuse a model that would compute huge tables for itself, which no file holds and nothing else bounds."""
    kept = model.state_dict().keys()
    numbers = sum(table.numel() for name, table in model.named_buffers() if name not in kept)
    if numbers > MOST_TABLES:
        raise InputError(f"the config asks for tables of {numbers:,} numbers; accepted: {MOST_TABLES:,} at most")


class Undrawn(TorchFunctionMode):
    """Within it nothing is written into parameters: those that a file overwrites need no values, drawn or other."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name, given = func.__name__, kwargs or {}
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            target = args[0] if args else given.get("tensor")
            if isinstance(target, nn.Parameter):
                return target
        return func(*args, **given)
