"""The model: backbone -> pooling -> L2 -> head -> L2, images (B, 3, H, W) -> unit vectors (B, d)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, ModelHubMixin
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from retrieval import hub, strangers
from retrieval.atomic import replace
from retrieval.backbones import TimmBackbone
from retrieval.config import build, from_plain
from retrieval.data import images, tensors
from retrieval.errors import InputError
from retrieval.features import Features
from retrieval.heads import Whitening
from retrieval.subjects import plain

PARTS: dict[str, tuple[str, ...]] = {
    "backbone": ("retrieval.backbones.",),
    "pooling": ("retrieval.poolings.",),
    "head": ("retrieval.heads.", "torch.nn.Identity"),
}
CARD = """\
---
library_name: retrieval
pipeline_tag: image-feature-extraction
tags: [image-retrieval, timm]
---

# {backbone} with {pooling}

Photos to unit vectors of {dim} numbers, the closer the more likely they show one landmark.

- backbone: timm's `{backbone}`
- pooling: {pooling}
- head: {head}
- trained on: {trained_on}

```python
from PIL import Image
from retrieval import embedder

model = embedder.load("org/name")  # this folder, or its id on the Hub
vector = model(model.preprocess(Image.open("photo.jpg"), 1024)[None])
```
"""


class Embedder(nn.Module, ModelHubMixin):
    """Images -> descriptors. `dim` is the descriptor's length; rows are items.

    `cfg`: the whole config that describes it, None where it was built by hand.
    """

    def __init__(self, backbone: TimmBackbone, pooling: Any, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.pooling, self.head = backbone, pooling, head
        self.dim: int = head.out_features if isinstance(head, nn.Linear) else pooling.out_dim
        self.cfg: DictConfig | None = None

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, H, W), normalised -> (B, d) unit vectors, float32."""
        return self.describe(self.backbone(pixels))

    def describe(self, features: Features) -> Tensor:
        """What follows the backbone: Features -> (B, d) unit vectors."""
        return F.normalize(self.project(features), dim=-1)

    def project(self, features: Features) -> Tensor:
        """(B, d) of the head, before the last L2, in at least float32."""
        pooled = F.normalize(self.pooling(features), dim=-1)
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(pooled)

    def preprocess(self, image: Image.Image, resolution: int) -> Tensor:
        """(3, H, W), normalised: turned upright, longer side at most `resolution`, sides as the backbone needs them.

        Where the backbone or the pooling takes one size alone, it is squeezed to a square.
        """
        rgb = images.to_rgb(image)
        if self.backbone.fixed_size or self.map_size:
            height, width = squared(self.backbone, resolution)
            return self.normalised(images.resized(rgb, (width, height)))
        return self.normalised(images.resized(rgb, images.fit(rgb.size, resolution, self.backbone.multiple)))

    @property
    def map_size(self) -> tuple[int, int] | None:
        """Rows and columns of the only map that the pooling takes; None where it takes any."""
        return getattr(self.pooling, "map_size", None)

    @property
    def p(self) -> Tensor | None:
        """The pooling's learned p, (1,) or one per channel (D,), without its gradient; None where it has none."""
        p = getattr(self.pooling, "p", None)
        return p.full_tensor().detach() if isinstance(p, DTensor) else None if p is None else p.detach()

    def normalised(self, rgb: Image.Image) -> Tensor:
        """(3, H, W) by the backbone's mean and std."""
        return tensors.to_tensor(rgb, self.backbone.mean, self.backbone.std)

    def save_pretrained(self, save_directory: str | Path, **how: Any) -> str | None:
        """Write `model.safetensors`, `config.yaml`, `config.json` (the same) and a card, README.md, where none is.

        how: `push_to_hub`, `repo_id`, ... of huggingface_hub's ModelHubMixin; `model_card_kwargs={"text": CARD}` gives
        another card than the short one.
        """
        if self.cfg is None:
            raise InputError(
                "save_pretrained writes the config that a model was made of, and this one was built by hand; accepted: "
                "a model of embedder.from_config or embedder.load, or one whose cfg has been set"
            )
        return super().save_pretrained(save_directory, **how)

    def _save_pretrained(self, save_directory: Path) -> None:
        assert self.cfg is not None
        save(self, self.cfg, save_directory)
        text = json.dumps(plain(completed(self.cfg, self)), indent=2, ensure_ascii=False)  # YAML reads it too
        replace(save_directory / "config.json", lambda file: file.write(text.encode()))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, **how: Any
    ) -> "Embedder":
        """`load`, from a revision (branch, tag, commit) of the Hub; how: `token`, `cache_dir`, `force_download`,
        `local_files_only` of `hf_hub_download`.

        In place of the mixin's, which hands a stranger's config.json to the constructor unread.
        """
        return load(hub.find(pretrained_model_name_or_path, revision, **how))

    def generate_model_card(self, text: str | None = None) -> ModelCard:
        """The card of what this is; text: another, whole."""
        said = {
            "backbone": self.backbone.name,
            "pooling": f"{type(self.pooling).__name__}{spelled(self.p)}",
            "head": "none" if isinstance(self.head, nn.Identity) else type(self.head).__name__,
            "dim": self.dim,
            "trained_on": (self.cfg or {}).get("trained_on") or "not said in its config",
        }
        return ModelCard(text or CARD.format(**said))


def spelled(p: Tensor | None) -> str:
    """`, p = 2.93`, or of one per channel the least and the largest."""
    if p is None:
        return ""
    least, largest = f"{p.min().item():.3g}", f"{p.max().item():.3g}"
    return f", p = {least}" if least == largest else f", p = {least} to {largest}"


def from_config(cfg: Mapping[str, Any] | DictConfig, resolution: int | None = None) -> Embedder:
    """The model that `backbone`, `pooling` and `head` of a config describe; resolution: see `sharing`."""
    return sharing(cfg, [cfg["pooling"]], resolution)[0]


def sharing(
    cfg: Mapping[str, Any] | DictConfig,
    poolings: Sequence[Mapping[str, Any] | DictConfig],
    resolution: int | None = None,
    backbone: TimmBackbone | None = None,
) -> list[Embedder]:
    """A model for each pooling's config, all on one backbone; pooling and head of each draw the random numbers that
    they would draw alone.

    resolution: side of the square photos they are for, which sizes a pooling that takes one map alone. backbone: one
    that is there already, in place of the config's.
    """
    for part, prefixes in PARTS.items():
        for one in poolings if part == "pooling" else [cfg[part]]:
            target = str(one.get("_target_", ""))
            if not target.startswith(prefixes):
                raise InputError(f"{part}._target_ must start with {' or '.join(prefixes)}, got {target!r}")
    shared: TimmBackbone = build(cfg["backbone"]) if backbone is None else backbone
    drawn = torch.get_rng_state()
    models: list[Embedder] = []
    for one in poolings:
        torch.set_rng_state(drawn)
        size = map_of(shared, one, resolution)
        pooling = build(one, dim=shared.dim, prefix=shared.prefix, **size)
        models.append(Embedder(shared, pooling, build(cfg["head"], dim=pooling.out_dim)))
        models[-1].cfg = completed(from_plain({**plain(cfg), "pooling": plain(one)}), models[-1])
    return models


def map_of(backbone: TimmBackbone, pooling: Mapping[str, Any] | DictConfig, resolution: int | None) -> dict[str, int]:
    """Height and width of the map of a square photo, for a pooling whose config has these keys and leaves them open."""
    if resolution is None or not all(key in pooling and pooling[key] is None for key in ("height", "width")):
        return {}
    height, width = square_map(backbone, resolution)
    return {"height": height, "width": width}


def square_map(backbone: TimmBackbone, side: int) -> tuple[int, int]:
    """Rows and columns of the map of a square photo."""
    return backbone.map_size(*squared(backbone, side))


def squared(backbone: TimmBackbone, side: int) -> tuple[int, int]:
    """Height and width of a square photo as the backbone needs them: a fixed size is always that."""
    nearest = images.nearest(side, backbone.multiple)
    return backbone.fixed_size or (nearest, nearest)


def completed(cfg: DictConfig, embedder: Embedder) -> DictConfig:
    """The config with every interpolation resolved and the mean, std, map and size that the model turned out with."""
    whole: Any = from_plain(plain(cfg))
    whole.backbone.mean, whole.backbone.std = list(embedder.backbone.mean), list(embedder.backbone.std)
    if embedder.map_size:
        whole.pooling.height, whole.pooling.width = embedder.map_size
    if isinstance(embedder.head, Whitening):
        whole.head.out_dim = embedder.dim
    return whole


def save(embedder: Embedder, cfg: DictConfig, folder: Path) -> None:
    """Write `model.safetensors` and `config.yaml`, all that `load` needs."""
    cfg = completed(cfg, embedder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous().cpu() for name, tensor in embedder.state_dict().items()}
    replace(folder / hub.WEIGHTS, lambda file: file.write(to_bytes(state)))  # the library's own files are for us alone
    replace(folder / "config.yaml", lambda file: file.write(OmegaConf.to_yaml(cfg).encode()))


def without_weights(cfg: DictConfig) -> DictConfig:
    """The config of a model that starts at random, as its weights come from a run's folder."""
    cfg = cfg.copy()
    cfg.backbone.pretrained, cfg.backbone.weights = False, None
    for part, key in (("pooling", "centroids"), ("head", "weights")):
        if key in cfg[part]:  # a file that lies elsewhere: the weights hold what it held
            cfg[part][key] = None
    return cfg


def load(path_or_hub_id: str | Path) -> Embedder:
    """The model that a run's folder holds, or that of `org/name` or `org/name@revision` on the Hugging Face Hub, of
    which config and weights are fetched; in evaluation mode, no pickle is read.
    """
    folder = hub.find(path_or_hub_id)
    described = hub.description(folder)
    cfg = strangers.config(described)
    missing = [part for part in PARTS if not isinstance(cfg.get(part), DictConfig)]
    if missing:
        below = sorted(file.parent.name for file in folder.glob("*/model.safetensors"))
        hint = f"; a model each is in its folders {', '.join(below)}" if below else ""
        raise InputError(f"{described} describes no model, it lacks {', '.join(missing)}{hint}")
    weights = folder / hub.WEIGHTS
    if not weights.is_file():
        raise InputError(f"{folder} holds no {hub.WEIGHTS} (is its training finished?)")
    bare = without_weights(cfg)
    embedder = strangers.built(lambda: from_config(bare), bare, weights)
    try:
        embedder.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{weights} does not fit {described}: {error}") from error
    embedder.cfg = completed(cfg, embedder)
    return embedder.eval()
