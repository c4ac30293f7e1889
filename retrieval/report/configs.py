"""What the config of a run says of the model in a row, key by key."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.report import reading
from retrieval.subjects import CHOICES, KEYS, MODEL, leaves, options, selecting

TRAINING = ("data", *CHOICES, *KEYS, "trainer", "callbacks")


def config_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, `optimizer.lr`, what decides the weights: of an untrained row the model alone.

    A pooling that was judged on the backbone of another one's run has no keys here; nothing has without a
    `config.yaml` that can be read.
    """
    return _config(Path(row["folder"]), row["pooling"], row.get("options") or "", row["untrained"])


@functools.cache  # a finished run's config stays what it is
def _config(folder: Path, pooling: str, changed: str, untrained: bool) -> dict[str, Any]:
    below = sorted(file for file in folder.glob("*/config.yaml") if file.parent.name != ".hydra")
    whole = _read(folder / "config.yaml")
    fitting = next((cfg for cfg in (whole, *map(_read, below)) if _describes(cfg, pooling, changed)), None)
    cfg = fitting or {key: value for key, value in whole.items() if key != "pooling"}
    keys = MODEL if untrained else (*MODEL, *TRAINING)
    return dict(leaves({key: cfg[key] for key in keys if key in cfg}))


def _describes(cfg: Mapping[str, Any], pooling: str, changed: str) -> bool:
    """Whether the pooling of a config is the one named, with what is changed of it."""
    names, own = cfg.get("names"), cfg.get("pooling")
    if not isinstance(names, Mapping) or not isinstance(own, Mapping):
        return False
    return names.get("pooling") == pooling and options("pooling", pooling, own) == changed


def _read(file: Path) -> dict[str, Any]:
    """What it holds, in JSON's types."""
    try:
        cfg = json.loads(json.dumps(reading.cleaned(reading.config(reading.text(file))), default=str))
    except (TypeError, ValueError):
        return {}
    callbacks = cfg.pop("callbacks", None)
    each = callbacks.values() if isinstance(callbacks, Mapping) else [None]
    known = all(isinstance(one, Mapping) and "_target_" in one for one in each)
    return {**cfg, "callbacks": selecting(callbacks)} if known else cfg
