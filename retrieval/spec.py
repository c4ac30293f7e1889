"""What must be known of a network to use it away from here; it travels inside the file, as JSON text under `KEY`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from retrieval.errors import InputError, flag, near

KEY = "retrieval"  # of an ONNX file's metadata, and of a torch.export archive's extra files (KEY.json)
AGGREGATES = ("paper", "cvnet", "mean", "max")
MOST = 65_536  # dimensions, pixels: more is no network but a mistake, or an attack
MOST_SCALES, MOST_SCALE = 16, 8  # how many, and the largest
DTYPES = ("float32", "float16", "bfloat16", "int8")


@dataclass(frozen=True)
class Spec:
    """A network that takes pixels (B, 3, H, W), named `input`, and gives unit rows (B, graph_dim), named `output`.

    What the graph does not do itself is done by who runs it, in this order, and this says how:
    - normalised: the graph takes uint8 RGB as decoded; else float32 (x / 255 - mean) / std.
    - sizes: each side a multiple of `multiple`; squeezed to `size` (H, W) where it takes one alone; the longer side is
      at most `resolution`, where nothing else is asked for.
    - scales, scaled: the graph describes at all scales; else it is run at each, the normalised pixels resized
      bilinearly (`retrieval.scales.resized`), and `aggregate` with `exponent` (its m) makes one row of these
      (`retrieval.scales`).
    - whitening, whitened: the graph whitens; else the .safetensors of that name, beside the file, is applied, then L2.
      whitening None: there is none.
    `name`: what it is, for people. `dim`: of the descriptor in the end. `batch`: how many photos it takes, where it
    takes one number alone. `dtype`: of its weights.
    """

    name: str
    dim: int
    graph_dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int
    multiple: int = 1
    size: tuple[int, int] | None = None
    batch: int | None = None
    normalised: bool = True
    scales: tuple[float, ...] = (1.0,)
    scaled: bool = True
    aggregate: str = "paper"
    exponent: float = 1.0
    whitening: str | None = None
    whitened: bool = True
    input: str = "images"
    output: str = "descriptors"
    dtype: str = "float32"

    def json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str | bytes, where: str) -> Self:
        """The spec in JSON text from anyone; `where` it stood, for the messages. Raises InputError, naming the key."""
        given = _object(text, where)
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise InputError(f"{where} has an unknown key '{key}': {near(key, known)}")
        if missing := [key for key in known if key not in given]:
            raise InputError(f"{where} lacks {', '.join(missing)}")
        try:
            spec = cls(**{key: RULES[key](key, value) for key, value in given.items()})
            _refuse_order(spec)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        return spec


def factors(scales: Sequence[float]) -> tuple[float, ...]:
    """Scales that someone asks for."""
    return tuple(_factor("scales", one) for one in _list("scales", list(scales), 1, MOST_SCALES))


def _object(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise InputError(f"{where} must be an object of JSON, got {type(given).__name__}")
    return given


def _refuse_order(spec: Spec) -> None:
    """What cannot be: something inside the graph that follows something outside, or is at odds with it."""
    whitens_after = spec.whitening is not None and not spec.whitened
    if spec.whitening is None and not spec.whitened:
        raise InputError("whitened is false and whitening null: a graph that does not whiten needs the name of a file")
    if spec.dim != spec.graph_dim and not whitens_after:
        raise InputError(f"dim is {spec.dim} and graph_dim {spec.graph_dim}, though nothing follows the graph")
    if not spec.scaled and (spec.normalised or spec.size or (spec.whitening and spec.whitened)):
        raise InputError(
            "scaled is false, so the graph must take normalised pixels of any size and whiten nothing: accepted are "
            "normalised false, size null and no whitening inside"
        )


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > 1000 or not value.isprintable():
        raise InputError(f"{key} must be a text of 1 to 1000 characters, got {_short(value)}")
    return value


def _whole(key: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MOST:
        raise InputError(f"{key} must be a whole number from 1 to {MOST}, got {_short(value)}")
    return value


def _number(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= MOST:  # so that NaN is refused too
        raise InputError(f"{key} must be a number of at most {MOST}, got {_short(value)}")
    return float(value)


def _positive(key: str, value: Any) -> float:
    if (number := _number(key, value)) <= 0:
        raise InputError(f"{key} must be above 0, got {_short(value)}")
    return number


def _factor(key: str, value: Any) -> float:
    if (number := _positive(key, value)) > MOST_SCALE:
        raise InputError(f"{key} must be at most {MOST_SCALE}, got {_short(value)}")
    return number


def _list(key: str, value: Any, least: int, most: int) -> list[Any]:
    if not isinstance(value, list) or not least <= len(value) <= most:
        count = str(least) if least == most else f"{least} to {most}"
        raise InputError(f"{key} must be a list of {count}, got {_short(value)}")
    return value


def _choice(key: str, value: Any, accepted: tuple[str, ...]) -> str:
    if value not in accepted:
        raise InputError(f"{key} must be one of {', '.join(accepted)}, got {_short(value)}")
    return value


def _file(key: str, value: Any) -> str:
    name = _text(key, value)
    if "/" in name or "\\" in name or name.startswith(".") or not name.endswith(".safetensors"):
        raise InputError(f"{key} must be the plain name of a .safetensors beside the file, got {_short(value)}")
    return name


def _short(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 100 else f"{repr(value)[:100]}..."


RULES: dict[str, Any] = {
    **dict.fromkeys(("name", "input", "output"), _text),
    **dict.fromkeys(("dim", "graph_dim", "resolution", "multiple"), _whole),
    **dict.fromkeys(("normalised", "scaled", "whitened"), flag),
    "mean": lambda key, value: tuple(_number(key, one) for one in _list(key, value, 3, 3)),
    "std": lambda key, value: tuple(_positive(key, one) for one in _list(key, value, 3, 3)),
    "scales": lambda key, value: tuple(_factor(key, one) for one in _list(key, value, 1, MOST_SCALES)),
    "size": lambda key, value: None if value is None else tuple(_whole(key, one) for one in _list(key, value, 2, 2)),
    "batch": lambda key, value: None if value is None else _whole(key, value),
    "whitening": lambda key, value: None if value is None else _file(key, value),
    "exponent": _positive,
    "aggregate": lambda key, value: _choice(key, value, AGGREGATES),
    "dtype": lambda key, value: _choice(key, value, DTYPES),
}
