"""run(): the one path by which anything is evaluated."""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import nn

from retrieval import embedder, extraction, metrics, search, vocabulary
from retrieval.config import CONFIGS, InputError, build, load_yaml
from retrieval.data.images import Photo
from retrieval.embedder import Embedder
from retrieval.extraction import Extract

Row = dict[str, Any]
VERSIONS = {library: version(library) for library in ("torch", "timm", "lightning", "numpy", "pillow")}
NOT_TRAINED = "nothing: not trained"
SHOWN, TOP = 8, 10  # queries kept for pictures, and how many photos of each ranking


class Benchmark(Protocol):
    """What is judged: see retrieval/benchmarks."""

    queries: list[Photo]
    gallery: list[Photo]
    relevant: Sequence[NDArray]
    ignored: Sequence[NDArray]
    skipped: int

    def judge(self, scores: NDArray) -> dict[str, float]: ...


@dataclass(frozen=True)
class Subject:
    """What every row says of the model: names, seed, how it was selected, hashes of its config."""

    backbone: str
    pooling: str
    head: str
    seed: int
    untrained: bool
    selected_by: str
    trained_on: str | None
    settings: str
    config: str


def run(
    model: Embedder,
    benchmarks: Mapping[str, Benchmark],
    extract: Extract,
    subject: Subject,
    output_dir: Path,
    cache: Path | None = None,
) -> list[Row]:
    """Describe and judge every benchmark at every resolution; appends to `results.json` and `rankings.json`.

    cache: a folder in which descriptors are kept for other runs of the same model and photos.
    """
    extraction.check(model, extract.resolutions, extract.scales, extract.aspect)
    rows: list[Row] = []
    for resolution in extract.resolutions:
        start = time.perf_counter()
        described = Descriptions(model, benchmarks, extract, resolution, subject, cache)
        seconds = time.perf_counter() - start
        for name, benchmark in benchmarks.items():
            queries, gallery = described.of(benchmark.queries), described.of(benchmark.gallery)
            values = benchmark.judge(queries @ gallery.T)
            rows.append(row(model, name, benchmark, extract, resolution, subject, values, seconds))
            append(output_dir / "rankings.json", rankings(name, benchmark, queries, gallery, resolution, subject))
            append(output_dir / "results.json", rows[-1:])
    return rows


def from_config(cfg: DictConfig, overridden: set[str]) -> list[Row]:
    """What eval.py does: judge the run `cfg.run`, or without one the model that the config describes."""
    if cfg.run and overridden & {"backbone", "pooling", "head", "seed", "output_dir"}:
        given = ", ".join(sorted(overridden & {"backbone", "pooling", "head", "seed", "output_dir"}))
        raise InputError(f"run={cfg.run} already has its own {given}: leave that out, or leave out run")
    if not cfg.get("benchmark"):
        raise InputError(
            "nothing to judge on: give benchmark=folder, benchmark=landmarks or several as [folder,landmarks]"
        )
    extract: Extract = build(cfg.extract)
    if cfg.run:
        model, output_dir = embedder.load(cfg.run), Path(cfg.run)
        described = load_yaml(output_dir / "config.yaml")
        selected_by = described.get("selected_by")
        about = subject(described, selected_by is None, selected_by or NOT_TRAINED)
    else:
        refuse_used(Path(cfg.output_dir))
        torch.manual_seed(cfg.seed)
        model, output_dir = embedder.from_config(cfg, extract.resolutions[0]), Path(cfg.output_dir)
        cfg = embedder.completed(cfg, model)
        about = subject(cfg, True, NOT_TRAINED)
    extraction.check(model, extract.resolutions, extract.scales, extract.aspect)
    vocabulary.refuse_unfitted(model)
    benchmarks = {name: build(one) for name, one in cfg.benchmark.items()}
    if not cfg.run:
        embedder.save(model, cfg, output_dir)
    return run(model, benchmarks, extract, about, output_dir)


def refuse_used(output_dir: Path) -> None:
    """An output folder that holds another run is refused."""
    held = [name for name in ("config.yaml", "model.safetensors", "results.json") if (output_dir / name).exists()]
    if held:
        raise InputError(f"output_dir {output_dir} holds another run ({', '.join(held)}): name another, or remove it")


def subject(cfg: DictConfig, untrained: bool, selected_by: str) -> Subject:
    """What the rows of this run say of its model; `settings` is alike for runs that differ in seed alone."""
    model = ("names", "backbone", "pooling", "head")
    training = ("data", "loss", "optimizer", "schedule", "trainer", "callbacks", "lr_multipliers", "freeze_batchnorm")
    settings = {key: plain(cfg[key]) for key in (model if untrained else (*model, *training)) if key in cfg}
    return Subject(
        backbone=backbone_name(cfg),
        pooling=cfg.names.pooling,
        head=cfg.names.head,
        seed=int(cfg.seed),
        untrained=untrained,
        selected_by=selected_by,
        trained_on=cfg.get("trained_on"),
        settings=digest(settings),
        config=digest({key: value for key, value in plain(cfg).items() if key not in ("output_dir", "cache", "run")}),
    )


def backbone_name(cfg: DictConfig) -> str:
    """The YAML's name as chosen; timm's name where that was set by hand."""
    described = CONFIGS / "backbone" / f"{cfg.names.backbone}.yaml"
    by_hand = described.is_file() and plain(load_yaml(described))["name"] != cfg.backbone.name
    return cfg.backbone.name if by_hand else cfg.names.backbone


def digest(value: Any) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def plain(cfg: Any) -> Any:
    """Dictionaries and lists in place of OmegaConf's."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


class Descriptions:
    """Descriptors at one resolution of all that the benchmarks share, each photo described once."""

    def __init__(
        self,
        model: Embedder,
        benchmarks: Mapping[str, Benchmark],
        extract: Extract,
        resolution: int,
        subject: Subject,
        cache: Path | None,
    ) -> None:
        photos = list(dict.fromkeys(p for b in benchmarks.values() for p in (*b.gallery, *b.queries)))
        options = {k: v for k, v in asdict(extract).items() if k != "resolutions"}

        def compute() -> NDArray[np.float32]:
            return extraction.describe(model, photos, resolution, **options, progress=True)

        if cache is None:
            self.rows = compute()
        else:
            made_of = [*extraction.fingerprint(model, photos), subject.settings, resolution, options, VERSIONS]
            self.rows = extraction.remembered(cache, made_of, compute)
        self.index = {photo: i for i, photo in enumerate(photos)}

    def of(self, photos: Sequence[Photo]) -> NDArray[np.float32]:
        """(N, d), a row per photo."""
        return self.rows[[self.index[photo] for photo in photos]]


def row(
    model: Embedder,
    name: str,
    benchmark: Benchmark,
    extract: Extract,
    resolution: int,
    subject: Subject,
    values: Mapping[str, float],
    seconds: float,
) -> Row:
    """One line of `results.json`."""
    sizes = {"queries": len(benchmark.queries), "images": len(benchmark.gallery), "skipped": benchmark.skipped}
    how = {"resolution": resolution, "scales": list(extract.scales), "aspect": extract.aspect, "dtype": extract.dtype}
    how |= {"multiple": model.backbone.multiple, "device": extraction.device_of(extract.device).type}
    network = {"p": p_of(model), "dim": model.dim, "parameters": parameters(model)}
    numbers = {name: None if math.isnan(value) else value for name, value in values.items()}  # JSON knows no NaN
    judged = {"whitening": None, "rerank": None, "crop": getattr(benchmark, "crop", False), "metrics": numbers}
    cost = {"seconds": round(seconds, 2), "versions": VERSIONS}
    return {"benchmark": name, **asdict(subject), **how, **sizes, **network, **judged, **cost}


def p_of(model: Embedder) -> float | dict[str, float] | None:
    """GeM's p: the value, or mean, min and max when it is per channel; None for other poolings."""
    p = model.p
    if p is None:
        return None
    if p.numel() == 1:
        return p.item()
    return {"mean": p.mean().item(), "min": p.min().item(), "max": p.max().item()}


def parameters(module: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in module.parameters())


def rankings(
    name: str, benchmark: Benchmark, queries: NDArray, gallery: NDArray, resolution: int, subject: Subject
) -> list[Row]:
    """For a few queries, evenly spread: the photos found first, each marked right, wrong or junk."""
    shown = np.unique(np.linspace(0, len(queries) - 1, SHOWN).round().astype(int))
    scores, found = search.exact(gallery, queries[shown], TOP + 1)
    model = {key: getattr(subject, key) for key in ("backbone", "pooling", "head", "seed", "untrained", "settings")}
    entries = []
    for place, q in enumerate(shown):
        query = benchmark.queries[q]
        relevant, ignored = benchmark.relevant[q], benchmark.ignored[q]
        judged = metrics.per_query(queries[[q]] @ gallery.T, [relevant], [ignored])
        top = [
            {"path": photo_path(benchmark.gallery[i]), "score": float(score), "mark": mark(i, relevant, ignored)}
            for score, i in zip(scores[place], found[place], strict=True)
            if benchmark.gallery[i] != query
        ]
        asked = {"path": photo_path(query), "box": query.box}
        entry = {"benchmark": name, "resolution": resolution, **model, "query": asked}
        entries.append({**entry, "ap": float(judged["AP"][0]), "top": top[:TOP]})
    return entries


def photo_path(photo: Photo) -> str:
    return str(Path(photo.path).resolve())


def mark(image: int, relevant: NDArray, ignored: NDArray) -> str:
    """How a found image counts for a query."""
    return "right" if image in relevant else "junk" if image in ignored else "wrong"


def append(path: Path, rows: list[Row]) -> None:
    """Add rows to a JSON list on disk; the file is replaced as a whole, one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        before = json.loads(path.read_text()) if path.is_file() else []
        part = path.with_suffix(".part")
        part.write_text(json.dumps(before + rows, indent=1, allow_nan=False))
        part.replace(path)


def printed(rows: Sequence[Row]) -> str:
    """The rows as a table for the terminal, values in percent."""
    names = list(dict.fromkeys(n for r in rows for n in r["metrics"] if "mAP" in n or "mP@10" in n))
    head = f"{'benchmark':12} {'pooling':14} {'':9} {'px':>5} " + " ".join(f"{n:>13}" for n in names)
    lines = [
        f"{r['benchmark']:12} {r['pooling']:14} {'untrained' if r['untrained'] else '':9} {r['resolution']:>5} "
        + " ".join(f"{100 * v:13.1f}" if (v := r["metrics"].get(n)) is not None else f"{'-':>13}" for n in names)
        for r in rows
    ]
    return "\n".join([head, *lines])
