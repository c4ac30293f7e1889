"""What an evaluation leaves behind: rows of `results.json`, rankings for pictures, a table on the terminal."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from torch import nn

from retrieval import extraction, metrics, search
from retrieval.benchmarks import Benchmark
from retrieval.data.images import Photo
from retrieval.embedder import Embedder
from retrieval.extraction import Extract
from retrieval.subjects import Subject, label

Row = dict[str, Any]
VERSIONS = {library: version(library) for library in ("torch", "timm", "lightning", "numpy", "pillow")}
SHOWN, TOP = 8, 10  # queries kept for pictures, and how many photos of each ranking


def row(
    model: Embedder,
    name: str,
    benchmark: Benchmark,
    extract: Extract,
    resolution: int,
    subject: Subject,
    values: Mapping[str, float],
    cost: Mapping[str, float],
) -> Row:
    """One line of `results.json`.

    cost: `seconds` of the pass over the photos, which all of its `poolings_in_pass` shared.
    """
    sizes = {"queries": len(benchmark.queries), "images": len(benchmark.gallery), "skipped": benchmark.skipped}
    how = {"resolution": resolution, "scales": list(extract.scales), "aspect": extract.aspect, "dtype": extract.dtype}
    how |= {"multiple": model.backbone.multiple, "device": extraction.device_of(extract.device).type}
    network = {"p": p_of(model), "dim": model.dim, "parameters": parameters(model)}
    numbers = {name: None if math.isnan(value) else value for name, value in values.items()}  # JSON knows no NaN
    judged = {"whitening": None, "rerank": None, "crop": getattr(benchmark, "crop", False), "metrics": numbers}
    return {
        **{"benchmark": name, **asdict(subject), **how, **sizes},
        **{**network, **judged, **cost, "versions": VERSIONS},
    }


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
    poolings = [label(row["pooling"], row["options"]) for row in rows]
    wide = max(14, *map(len, poolings))
    head = f"{'benchmark':12} {'pooling':{wide}} {'':9} {'px':>5} " + " ".join(f"{n:>13}" for n in names)
    lines = [
        f"{r['benchmark']:12} {pooling:{wide}} {'untrained' if r['untrained'] else '':9} {r['resolution']:>5} "
        + " ".join(f"{100 * v:13.1f}" if (v := r["metrics"].get(n)) is not None else f"{'-':>13}" for n in names)
        for r, pooling in zip(rows, poolings, strict=True)
    ]
    return "\n".join([head, *lines])
