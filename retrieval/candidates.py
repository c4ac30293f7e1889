"""Which models eval.py judges: the one that a config or a run describes, or several poolings on its backbone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from retrieval import embedder
from retrieval.backbones import TimmBackbone
from retrieval.config import CONFIGS, from_plain, load_yaml
from retrieval.embedder import Embedder
from retrieval.errors import InputError, near
from retrieval.published import Published
from retrieval.subjects import NOT_TRAINED, Subject, label, options, plain, subject


class Pooling(NamedTuple):
    """A pooling as chosen: its YAML's name and its config."""

    name: str
    cfg: DictConfig

    @property
    def label(self) -> str:
        return label(self.name, options("pooling", self.name, self.cfg))

    @property
    def folder(self) -> str:
        """The label in letters that neither a file system nor a Hydra override minds: `gem_p_5`."""
        return re.sub(r"[^\w.-]+", "_", self.label)


@dataclass(frozen=True)
class Candidate:
    """A model to be judged; cfg describes it alone, whatever else is judged in the same pass."""

    model: Embedder
    cfg: DictConfig
    subject: Subject
    folder: str  # below the output folder; "" is that folder itself


def poolings(entries: Any) -> list[Pooling]:
    """What `evaluate.poolings` lists: names of configs/pooling, or `{name: {key: value}}`; none twice."""
    entries = plain(entries)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"evaluate.poolings must be a list such as [gap,max,{{gem:{{p:5}}}}], got {entries!r}")
    chosen = [_pooling(entry) for entry in entries]
    for i, pooling in enumerate(chosen):
        if pooling.folder in [earlier.folder for earlier in chosen[:i]]:
            raise InputError(f"evaluate.poolings must name each pooling once, got {pooling.label} twice")
    return chosen


def _pooling(entry: Any) -> Pooling:
    mapping = {entry: {}} if isinstance(entry, str) else entry
    one = isinstance(mapping, Mapping) and len(mapping) == 1
    name, changed = next(iter(mapping.items())) if one else (None, None)
    if not isinstance(name, str) or not isinstance(changed, Mapping):
        raise InputError(
            f"an entry of evaluate.poolings must be a name, as gem, or a name with its keys, as {{gem:{{p:5}}}}, "
            f"got {entry!r}"
        )
    if name not in (known := [path.stem for path in (CONFIGS / "pooling").glob("*.yaml")]):
        raise InputError(f"evaluate.poolings: unknown pooling '{name}': {near(name, known)}")
    cfg: Any = OmegaConf.merge(load_yaml(CONFIGS / "pooling" / f"{name}.yaml"), dict(changed))
    return Pooling(name, cfg)


def off_the_shelf(cfg: DictConfig, resolution: int) -> list[Candidate]:
    """The models that the config describes, each with the weights that it would have alone; resolution: see
    `embedder.sharing`."""
    torch.manual_seed(cfg.seed)
    return described(cfg, resolution)


def described(cfg: DictConfig, resolution: int | None, backbone: TimmBackbone | None = None) -> list[Candidate]:
    """The same, drawn from the random numbers that come next; resolution, backbone: see `embedder.sharing`."""
    several = "evaluate" in cfg and cfg.evaluate.poolings is not None
    chosen = poolings(cfg.evaluate.poolings) if several else [Pooling(cfg.names.pooling, cfg.pooling)]
    models = embedder.sharing(cfg, [pooling.cfg for pooling in chosen], resolution, backbone)
    found = []
    for model, pooling in zip(models, chosen, strict=True):
        own = model.cfg = embedder.completed(_with_pooling(cfg, pooling), model)
        found.append(Candidate(model, own, subject(own, True, NOT_TRAINED), pooling.folder if several else ""))
    return found


def of_run(folder: Path, entries: Any, resolution: int) -> list[Candidate]:
    """The model of a run or, where `evaluate.poolings` lists any, its backbone under each of these.

    The run's own pooling comes as trained, the others as a run of that seed starts with them.
    """
    chosen = [] if entries is None else poolings(entries)
    model = embedder.load(folder)
    cfg = model.cfg
    assert cfg is not None  # as it was loaded
    if not chosen:
        return [Candidate(model, cfg, _of_trained(cfg), "")]
    if not isinstance(model.head, nn.Identity):
        raise InputError(
            f"run={folder} has head {cfg.names.head}, which knows its own pooling alone: evaluate.poolings needs a run "
            "with head none; leave out evaluate.poolings, or name another run"
        )
    own, found = Pooling(cfg.names.pooling, cfg.pooling), []
    for pooling, other in zip(chosen, _on_backbone_of(model, cfg, chosen, resolution), strict=True):
        judged = model if pooling.label == own.label else other
        described = embedder.completed(_with_pooling(cfg, pooling), judged)
        if judged is other and cfg.get("selected_by"):
            described.trained_with = own.label
        found.append(Candidate(judged, described, _of_trained(described), ""))
    return found


def of_published(network: Published, cfg: DictConfig) -> Candidate:
    """A published network, as its authors trained it; cfg: how it is judged."""
    whole: Any = from_plain({**plain(cfg), **plain(network.cfg)})
    return Candidate(network.embedder, whole, _of_trained(whole), "")


def _on_backbone_of(model: Embedder, cfg: DictConfig, chosen: Sequence[Pooling], resolution: int) -> list[Embedder]:
    """Fresh poolings on the backbone of a model; that is built anew first, as what it draws decides what they draw."""
    torch.manual_seed(cfg.seed)
    fresh = embedder.sharing(embedder.without_weights(cfg), [pooling.cfg for pooling in chosen], resolution)
    return [Embedder(model.backbone, other.pooling, other.head).eval() for other in fresh]


def _with_pooling(cfg: DictConfig, pooling: Pooling) -> DictConfig:
    """A copy of the config that describes this pooling alone."""
    whole: Any = from_plain(plain(cfg))
    whole.pooling, whole.names.pooling = plain(pooling.cfg), pooling.name
    if "evaluate" in whole:
        whole.evaluate.poolings = None
    return whole


def _of_trained(cfg: DictConfig) -> Subject:
    selected_by = cfg.get("selected_by")
    return subject(cfg, selected_by is None, selected_by or NOT_TRAINED)


def save(found: Sequence[Candidate], cfg: DictConfig, output_dir: Path) -> None:
    """Each model into its folder; above several the config of the pass, which describes no model of its own."""
    for candidate in found:
        embedder.save(candidate.model, candidate.cfg, output_dir / candidate.folder)
    if any(candidate.folder for candidate in found):
        whole = embedder.completed(cfg, found[0].model)
        whole.pop("pooling")
        whole.names.pop("pooling")
        OmegaConf.save(whole, output_dir / "config.yaml")
