"""Networks that others published, as ours: checkpoints of filipradenovic/cnnimageretrieval-pytorch.

A checkpoint holds `state_dict` (`features.*`, `pool.p`, `whiten.*`) and `meta` (architecture, pooling, mean, std and,
in `Lw`, whitenings learned for one scale, `ss`, and for several, `ms`). It is a pickle from the internet: it may only
build tensors and plain data, arrays by the stand-ins of `data.truth`, as NumPy's own functions trust what they are
given (an array of objects made of bytes crashes the process).
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from retrieval import embedder, whitening
from retrieval.config import CONFIGS, load_yaml
from retrieval.data import download, truth
from retrieval.data.sources import NETWORKS, SOURCES
from retrieval.embedder import Embedder
from retrieval.errors import InputError, near
from retrieval.heads import Whitening

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg11", "vgg13", "vgg16", "vgg19")
POOLINGS = {"gem": "gem", "gemmp": "gem", "mac": "max", "spoc": "gap", "rmac": "rmac"}  # theirs -> ours
RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
WHITENED_ON = "retrieval-SfM-120k"
CLASSIC, WITH_LAYER = (1.0, 2**-0.5, 0.5), (1.0, 2**0.5, 2**-0.5)
BROKEN = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, OSError, AssertionError)


@dataclass(frozen=True)
class Published:
    """A published network: `cfg` describes it in full, as `embedder.save(embedder, cfg, folder)` needs.

    whitenings: those that came with it, `ss` for one scale and `ms` for several, or none.
    """

    embedder: Embedder
    cfg: DictConfig
    whitenings: Mapping[str, Whitening]

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales at which its authors test it."""
        return WITH_LAYER if isinstance(self.embedder.head, Whitening) else CLASSIC

    def save(self, folder: Path) -> None:
        """Write a run that `embedder.load` and `whitening.of_run` read."""
        embedder.save(self.embedder, self.cfg, folder)
        whitening.save_all(self.whitenings, folder)


def load(network: str | Path, root: str | Path | None = None) -> Published:
    """The network in a checkpoint's file, or of one of the published names, which is fetched below `root`.

    Raises InputError where the checkpoint asks for anything but tensors and plain data, and where any of its weights
    has no place or any of ours no weight.
    """
    path = found(str(network), root)
    meta, state = read(path)
    cfg = described(meta, state, path)
    model = embedder.from_config(embedder.without_weights(cfg))
    try:
        model.load_state_dict({renamed(key, str(meta["architecture"])): value for key, value in state.items()})
    except RuntimeError as error:
        raise InputError(f"{path} does not hold the weights of what its meta describes: {error}") from error
    model.cfg = embedder.completed(cfg, model)
    return Published(model.eval(), model.cfg, whitenings(meta, path))


def found(network: str, root: str | Path | None) -> Path:
    """Where the file of a network lies, fetched first if it is one of the published names."""
    if Path(network).is_file():
        return Path(network)
    if network not in NETWORKS:
        raise InputError(f"network must be a file or a published name, got '{network}': {near(network, NETWORKS)}")
    if root is None:
        raise InputError(f"say where the published network {network} is to be kept: a root folder")
    source = SOURCES[network]
    download.prepare(network, Path(root))
    return Path(root) / source.folder / source.files[0].name


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`meta`, of plain data alone, and `state_dict`, of tensors alone."""
    try:
        with torch.serialization.safe_globals([(function, name) for name, function in truth.NUMPY.items()]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *BROKEN) as error:
        raise InputError(f"{path} is not read: {reason(error)}") from error
    if not isinstance(checkpoint, dict) or not {"meta", "state_dict"} <= checkpoint.keys():
        raise InputError(f"{path} must hold meta and state_dict, as cnnimageretrieval-pytorch saves them")
    try:
        meta = truth.plain(checkpoint["meta"], path.stat().st_size)
    except truth.NotPlain as error:
        raise InputError(f"the meta of {path} is not read: {error}") from error
    state = checkpoint["state_dict"]
    if (
        not isinstance(meta, dict)
        or not isinstance(state, dict)
        or not all(isinstance(v, Tensor) for v in state.values())
    ):
        raise InputError(f"{path} must hold meta and a state_dict of tensors alone")
    return meta, dict(state)


def reason(error: Exception) -> str:
    """What a checkpoint asks for, or the first sentence: torch goes on to advise running whatever the file says."""
    asked = re.search(r"(?:Unsupported global: |unsupported )GLOBAL (\S+)", str(error))
    if asked:
        return f"a network is tensors and plain data, it asks for {asked[1]}"
    return f"it is no checkpoint of tensors and plain data ({type(error).__name__}: {str(error).split('. ')[0][:200]})"


def described(meta: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> DictConfig:
    """The config of a checkpoint's network, which names the checkpoint itself as its weights."""
    architecture, pooling = (meta.get(key) for key in ("architecture", "pooling"))
    for key, value, accepted in (("architecture", architecture, ARCHITECTURES), ("pooling", pooling, POOLINGS)):
        if value not in accepted:
            raise InputError(f"{path} has {key} {value!r}, which has no form here: {near(str(value), accepted)}")
    for key in ("regional", "local_whitening"):
        if meta.get(key):
            raise InputError(f"{path} whitens each region or position before pooling ({key}), which has no form here")
    groups = {
        "backbone": "timm",
        "pooling": POOLINGS[str(pooling)],
        "head": "whitening" if meta.get("whitening") else "none",
    }
    cfg: Any = OmegaConf.create({group: load_yaml(CONFIGS / group / f"{name}.yaml") for group, name in groups.items()})
    cfg.names = {**groups, "backbone": architecture}
    cfg.backbone.name, cfg.backbone.weights = architecture, path.name
    cfg.backbone.mean, cfg.backbone.std = (three(key, meta.get(key), path) for key in ("mean", "std"))
    if "pool.p" in state and "per_channel" in cfg.pooling:
        cfg.pooling.per_channel = state["pool.p"].numel() > 1
    if groups["head"] == "whitening":
        cfg.head.weights = None
        cfg.head.out_dim = len(state["whiten.weight"]) if "whiten.weight" in state else None
    cfg.seed, cfg.selected_by, cfg.trained_on = 0, "its authors", f"as published in {path.name}"
    return cfg


def three(key: str, values: Any, path: Path) -> list[float]:
    """One number for each of red, green and blue."""
    numbers = np.asarray(values if isinstance(values, (list, tuple, np.ndarray)) else [])
    if numbers.shape != (3,) or numbers.dtype.kind not in "iuf":
        raise InputError(f"the meta of {path} needs a {key} of three numbers, got {values!r}")
    return [float(number) for number in numbers]


def renamed(key: str, architecture: str) -> str:
    """The name in our model of a weight of theirs; one that has no place keeps its own, and is refused."""
    part, _, rest = key.partition(".")
    if part == "features" and architecture.startswith("resnet"):
        number, _, rest = rest.partition(".")
        return f"backbone.model.{RESNET[number]}.{rest}" if number in RESNET else key
    return {"features": "backbone.model.features", "pool": "pooling", "whiten": "head"}.get(part, part) + f".{rest}"


def whitenings(meta: Mapping[str, Any], path: Path) -> dict[str, Whitening]:
    """The whitenings in `Lw` that were learned on SfM-120k: x -> P (x - m), m (d, 1), P (out, d)."""
    stored, layers = meta.get("Lw", {}), {}
    stored = stored.get(WHITENED_ON, {}) if isinstance(stored, dict) else None
    if not isinstance(stored, dict):
        raise InputError(f"the Lw of {path} must hold ss and ms under {WHITENED_ON}")
    for name in ("ss", "ms"):
        if name in stored:
            layers[name] = affine(stored[name], f"{path}, Lw {WHITENED_ON} {name}")
    return layers


def affine(stored: Any, where: str) -> Whitening:
    """The layer of one `m` and `P`."""
    mean, projection = (np.asarray(stored.get(key) if isinstance(stored, dict) else None) for key in ("m", "P"))
    if projection.ndim != 2 or mean.shape != (projection.shape[1], 1) or not np.isfinite(mean.sum() + projection.sum()):
        raise InputError(f"{where} needs a finite P (out, d) and m (d, 1), it has {projection.shape} and {mean.shape}")
    mean, projection = mean.astype(np.float64), projection.astype(np.float64)
    return Whitening.of(projection, -(projection @ mean)[:, 0], f"learned, {WHITENED_ON} (published)")
