"""What a row says of the model that it judges: names, settings and hashes of its config."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retrieval.config import CONFIGS, load_yaml

NOT_TRAINED = "nothing: not trained"
MODEL = ("backbone", "pooling", "head")
CHOICES = ("loss", "miner", "sampler", "optimizer", "schedule")  # groups of which one is chosen
ONLY_LOG = tuple(f"retrieval.callbacks.{name}" for name in ("PoolingExponent", "Waiting", "Evaluate", "Progress"))
KEYS = ("lr_multipliers", "layer_decay", "freeze_p", "freeze_batchnorm", "memory")

FREE = ("resume", "dry_run", "output_dir", "cache", "logger", "checkpoint_steps", "images")  # decide no weights or rows
ELSEWHERE = ("output_dir", "cache", "run", "dry_run", "trained")  # says where, or what came out


@dataclass(frozen=True)
class Subject:
    """What every row says of the model: names, seed, how it was selected, hashes of its config.

    options: see `options`. trained_with: the pooling, with its options, that the backbone was trained with where
    that is another than the one judged; None where it is the same or nothing was trained. training: see `training`,
    None where nothing was trained, or elsewhere. trained_seconds, steps, peak_memory (bytes) and validation, the mAP on
    held-out landmarks: of the training, None where unknown.
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
    training: dict[str, Any] | None
    trained_seconds: float | None
    steps: int | None
    peak_memory: int | None
    validation: float | None
    settings: str
    config: str


def subject(cfg: DictConfig, untrained: bool, selected_by: str) -> Subject:
    """What the rows of this run say of its model; `settings` is alike for runs that differ in seed alone."""
    keys = MODEL if untrained else (*MODEL, "data", *CHOICES, *KEYS, "trainer", "callbacks", "trained_with")
    settings = {key: plain(cfg[key]) for key in keys if key in cfg}
    settings["names"] = {group: cfg.names[group] for group in (*MODEL, *CHOICES) if group in settings}
    if "callbacks" in settings:
        settings["callbacks"] = selecting(settings["callbacks"])
    took = {} if untrained else cfg.get("trained") or {}
    return Subject(
        backbone=backbone_name(cfg),
        pooling=cfg.names.pooling,
        options=options("pooling", cfg.names.pooling, cfg.pooling),
        head=cfg.names.head,
        seed=int(cfg.seed),
        untrained=untrained,
        trained_with=cfg.get("trained_with"),
        selected_by=selected_by,
        trained_on=cfg.get("trained_on"),
        training=None if untrained or "data" not in cfg else training(cfg),
        trained_seconds=took.get("seconds"),
        steps=took.get("steps"),
        peak_memory=took.get("peak_memory"),
        validation=took.get("validation"),
        settings=digest(settings),
        config=digest({key: value for key, value in plain(cfg).items() if key not in ELSEWHERE}),
    )


def training(cfg: DictConfig) -> dict[str, Any]:
    """What sets one training apart from others: each choice with its options, the photos' sizes, and a few keys."""
    said = {group: choice(cfg, group) for group in CHOICES}
    photos = {key: plain(cfg.data[key]) for key in ("resolution", "resolutions", "aspect", "crop") if key in cfg.data}
    return {**said, **photos, **{key: plain(cfg[key]) for key in KEYS if key in cfg}}


def choice(cfg: DictConfig, group: str) -> str:
    """The YAML that was chosen of a group, with what was set otherwise: `arcface`, `multi_similarity alpha=1`."""
    return label(cfg.names[group], options(group, cfg.names[group], cfg[group]))


def selecting(callbacks: Mapping[str, Any] | None) -> dict[str, Any]:
    """The callbacks on which it depends what comes out of a training, by name."""
    return {name: one for name, one in (callbacks or {}).items() if one["_target_"] not in ONLY_LOG}


def backbone_name(cfg: DictConfig) -> str:
    """The YAML's name as chosen; timm's name where that was set by hand."""
    described = CONFIGS / "backbone" / f"{cfg.names.backbone}.yaml"
    by_hand = described.is_file() and plain(load_yaml(described))["name"] != cfg.backbone.name
    return cfg.backbone.name if by_hand else cfg.names.backbone


def options(group: str, name: str, cfg: DictConfig | Mapping[str, Any]) -> str:
    """What is set otherwise than in configs/GROUP/NAME.yaml: `p=5`, `seeds=4, concatenate=False`, or ""."""
    described = CONFIGS / group / f"{name}.yaml"
    if not described.is_file():
        return ""
    usual = plain(load_yaml(described))
    changed = {key: value for key, value in plain(cfg).items() if key not in usual or usual[key] != value}
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


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a plain config, by dotted name, that decide what comes out."""
    return {key: value for key, value in leaves(config) if decides(key, config)}


def decides(key: str, config: Mapping[str, Any]) -> bool:
    """Whether a dotted name decides weights or rows: a stream's photos, alone, depend on how many workers read them."""
    streamed = not (config.get("sampler") or {}).get("_target_")
    loading = key.endswith("workers") and not (streamed and key == "data.workers")
    return not (loading or key == "trainer.enable_progress_bar" or key.split(".")[0] in FREE)


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dictionaries with its dotted name; lists are values."""
    if not isinstance(value, dict):
        yield place, value
        return
    for key, item in value.items():
        yield from leaves(item, f"{place}.{key}" if place else str(key))
