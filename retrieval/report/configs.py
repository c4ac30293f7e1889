"""What the config of a run says of the model in a row, key by key."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from retrieval.config import load_yaml
from retrieval.subjects import CHOICES, KEYS, MODEL, options, selecting

TRAINING = ("data", *CHOICES, *KEYS, "trainer", "callbacks")


def config_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, `optimizer.lr`, what decides the weights: of an untrained row the model alone.

    A pooling that was judged on the backbone of another one's run has no keys here; nothing has without a
    `config.yaml` that can be read.
    """
    return _config(Path(row["folder"]), row["pooling"], row.get("options") or "", row["untrained"])


def flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """One level deep, by dotted key; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        inside = isinstance(value, Mapping) and value
        found |= flat(value, f"{above}{key}.") if inside else {f"{above}{key}": value}
    return found


@functools.cache  # a finished run's config stays what it is
def _config(folder: Path, pooling: str, changed: str, untrained: bool) -> dict[str, Any]:
    below = sorted(file for file in folder.glob("*/config.yaml") if file.parent.name != ".hydra")
    whole = _read(folder / "config.yaml")
    fitting = next((cfg for cfg in (whole, *map(_read, below)) if _describes(cfg, pooling, changed)), None)
    cfg = fitting or {key: value for key, value in whole.items() if key != "pooling"}
    keys = MODEL if untrained else (*MODEL, *TRAINING)
    return flat({key: cfg[key] for key in keys if key in cfg})


def _describes(cfg: Mapping[str, Any], pooling: str, changed: str) -> bool:
    """Whether the pooling of a config is the one named, with what is changed of it."""
    own = cfg.get("pooling")
    alike = (cfg.get("names") or {}).get("pooling") == pooling and isinstance(own, Mapping)
    return alike and options("pooling", pooling, own) == changed


def _read(file: Path) -> dict[str, Any]:
    try:
        cfg: Any = OmegaConf.to_container(load_yaml(file))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return {}
    callbacks = {"callbacks": selecting(cfg["callbacks"])} if cfg.get("callbacks") else {}
    return {**cfg, **callbacks}
