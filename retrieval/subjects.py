"""What a row says of the model that it judges: names, settings and hashes of its config."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retrieval.config import CONFIGS, load_yaml

NOT_TRAINED = "nothing: not trained"
ONLY_LOG = tuple(f"retrieval.callbacks.{name}" for name in ("PoolingExponent", "Waiting", "Evaluate"))


@dataclass(frozen=True)
class Subject:
    """What every row says of the model: names, seed, how it was selected, hashes of its config.

    options: see `options`. trained_with: the pooling, with its options, that the backbone was trained with where
    that is another than the one judged; None where it is the same or nothing was trained.
    """

    backbone: str
    pooling: str
    options: str
    head: str
    seed: int
    untrained: bool
    trained_with: str | None
    selected_by: str
    trained_on: str | None
    settings: str
    config: str


def subject(cfg: DictConfig, untrained: bool, selected_by: str) -> Subject:
    """What the rows of this run say of its model; `settings` is alike for runs that differ in seed alone."""
    model = ("names", "backbone", "pooling", "head")
    training = ("data", "loss", "optimizer", "schedule", "trainer", "callbacks", "lr_multipliers", "freeze_batchnorm")
    training = (*training, "trained_with")
    settings = {key: plain(cfg[key]) for key in (model if untrained else (*model, *training)) if key in cfg}
    if "callbacks" in settings:
        settings["callbacks"] = selecting(settings["callbacks"])
    return Subject(
        backbone=backbone_name(cfg),
        pooling=cfg.names.pooling,
        options=options(cfg.names.pooling, cfg.pooling),
        head=cfg.names.head,
        seed=int(cfg.seed),
        untrained=untrained,
        trained_with=cfg.get("trained_with"),
        selected_by=selected_by,
        trained_on=cfg.get("trained_on"),
        settings=digest(settings),
        config=digest({key: value for key, value in plain(cfg).items() if key not in ("output_dir", "cache", "run")}),
    )


def selecting(callbacks: Mapping[str, Any] | None) -> dict[str, Any]:
    """The callbacks on which it depends what comes out of a training, by name."""
    return {name: one for name, one in (callbacks or {}).items() if one["_target_"] not in ONLY_LOG}


def backbone_name(cfg: DictConfig) -> str:
    """The YAML's name as chosen; timm's name where that was set by hand."""
    described = CONFIGS / "backbone" / f"{cfg.names.backbone}.yaml"
    by_hand = described.is_file() and plain(load_yaml(described))["name"] != cfg.backbone.name
    return cfg.backbone.name if by_hand else cfg.names.backbone


def options(name: str, pooling: DictConfig) -> str:
    """What is set otherwise than in configs/pooling/NAME.yaml: `p=5`, `seeds=4, concatenate=False`, or ""."""
    described = CONFIGS / "pooling" / f"{name}.yaml"
    if not described.is_file():
        return ""
    usual = plain(load_yaml(described))
    changed = {key: value for key, value in plain(pooling).items() if key not in usual or usual[key] != value}
    return ", ".join(f"{key}={str(value).removesuffix('.0')}" for key, value in changed.items())


def label(pooling: str, options: str) -> str:
    """`gem`, or `gem p=5`."""
    return f"{pooling} {options}".rstrip()


def digest(value: Any) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def plain(cfg: Any) -> Any:
    """Dictionaries and lists in place of OmegaConf's."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
