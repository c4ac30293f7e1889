"""What an evaluation leaves behind: rows of `results.json`, rankings for pictures, a table on the terminal."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from torch import nn

from retrieval import metrics, statistics
from retrieval.benchmarks import Benchmark
from retrieval.data.snapshot import Snapshot
from retrieval.embedder import Embedder
from retrieval.heads import Whitening
from retrieval.search import FAISS_VERSION
from retrieval.store import VERSIONS
from retrieval.subjects import Subject, digest, label
from retrieval.tops import MARKS, Tops, arrays, marks, photo_path
from retrieval.whitening import save

Row = dict[str, Any]
JUDGED_BY = {"faiss": FAISS_VERSION, "scipy": version("scipy")}
SAID = re.compile(r"mAP$|mAP@100$|micro-AP$|mP@10$|recall@1$")  # what the terminal shows
# of a row: what came out
NOT_OWN = (
    *("metrics", "macro", "intervals", "tied_queries", "search_recall", "seconds", "poolings_in_pass", "described"),
)
SHOWN = 8  # queries whose rankings stand in `rankings.json`


def row(
    model: Embedder,
    name: str,
    benchmark: Benchmark,
    how: Mapping[str, Any],
    subject: Subject,
    per_query: Mapping[str, NDArray],
    cost: Mapping[str, Any],
) -> Row:
    """One line of `results.json`.

    how: all else that a value depends on (resolution, scales, whitening, search, ...). cost: `seconds` of the pass over
    the photos, which all of its `poolings_in_pass` shared, and in which so many were `described`.
    """
    values = benchmark.values(per_query)
    sizes = {"queries": len(benchmark.queries), "images": len(benchmark.gallery), "skipped": benchmark.skipped}
    sizes |= benchmark.counts
    network = {"p": p_of(model), "parameters": parameters(model), "multiple": model.backbone.multiple}
    numbers = {name: None if math.isnan(value) else value for name, value in values.items()}  # JSON knows no NaN
    ties = {"tied_queries": metrics.tied_queries(per_query)}
    judged = {"metrics": numbers, **certainty(values, per_query, benchmark.landmarks), **ties}
    return {
        **{"benchmark": name, **asdict(subject), **how, **sizes, "convention": benchmark.convention},
        **{**network, **judged, **cost, "versions": VERSIONS | JUDGED_BY},
    }


def certainty(
    values: Mapping[str, float], per_query: Mapping[str, NDArray], landmarks: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`macro`: the mean over landmarks of each value; `intervals`: where it may lie (95 %), resampling landmarks.

    Both stand for values that are means over queries of at least two landmarks.
    """
    known: dict[str, dict[str, Any]] = {"macro": {}, "intervals": {}}
    of = np.asarray(landmarks)
    for name, each in per_query.items():
        if (mean := metrics.mean_name(name)) in values and len(np.unique(of[~np.isnan(each)])) > 1:
            known["macro"][mean] = statistics.macro_mean(each, of)
            known["intervals"][mean] = list(statistics.interval(each, of))
    return known


def contents(benchmark: Benchmark, files: Snapshot) -> str:
    """A short hash of which photos are judged and what is right: the bytes of their files, boxes and labels."""
    listed = [files.key(photo) for photo in (*benchmark.queries, *benchmark.gallery)]
    levels = getattr(benchmark, "levels", {"": (benchmark.relevant, benchmark.ignored)})
    labels = {level: [[list(map(int, one)) for one in lists] for lists in both] for level, both in levels.items()}
    return digest([listed, labels])


def keep(
    output_dir: Path,
    benchmark: Benchmark,
    row: Row,
    per_query: Mapping[str, NDArray],
    tops: Tops,
    rankings: list[Row],
) -> None:
    """Add a row to `results.json`, its rankings to `rankings.json`, and the values of each query beside them.

    The row names their file, `.npz`: `queries` and `landmarks` (Q,), text; the values (Q,) by name, of curves the means
    (points,); and what each query finds first, see `tops.arrays`.
    """
    above = os.path.commonpath([os.path.dirname(photo_path(query)) for query in benchmark.queries])
    names = [f"{os.path.relpath(photo_path(q), above)}{f' {q.box}' if q.box else ''}" for q in benchmark.queries]
    kept: dict[str, Any] = {"queries": np.array(names), "landmarks": np.array(benchmark.landmarks), **per_query}
    kept |= metrics.mean_curves(per_query) | arrays(tops, benchmark)
    row["per_query"] = _own_file("per_query", row, ".npz")
    (output_dir / row["per_query"]).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(output_dir / row["per_query"], **kept)
    append(output_dir / "rankings.json", rankings, indent=None)
    append(output_dir / "results.json", [row])


def keep_whitening(output_dir: Path, whitening: Whitening, subject: Subject, how: Mapping[str, Any]) -> str:
    """Write what was fitted into the run; its path there."""
    name = _own_file("whitening", {**asdict(subject), **how}, ".safetensors")
    (output_dir / name).parent.mkdir(parents=True, exist_ok=True)
    save(whitening, output_dir / name)
    return name


def _own_file(folder: str, made_of: Mapping[str, Any], suffix: str) -> str:
    """A name that says of which pooling and resolution a file is, and is its own by all else that tells rows apart."""
    own = {key: value for key, value in made_of.items() if key not in NOT_OWN}
    return f"{folder}/{made_of['pooling']}_{made_of['resolution']}_{digest(own)}{suffix}"


def p_of(model: Embedder) -> float | dict[str, float] | None:
    """GeM's p: the value, or mean, min and max when it is per channel; None for other poolings."""
    p = model.p
    if p is None:
        return None
    if p.numel() == 1:
        return p.item()
    return {"mean": p.mean().item(), "min": p.min().item(), "max": p.max().item()}


def parameters(*modules: nn.Module) -> int:
    """Number of weights of modules, those that they share once."""
    return sum(p.numel() for p in {p for module in modules for p in module.parameters()})


def shown(benchmark: Benchmark) -> list[int]:
    """A few queries that have something to find, evenly spread."""
    some = [q for q, relevant in enumerate(benchmark.relevant) if len(relevant)]
    return [some[i] for i in np.unique(np.linspace(0, len(some) - 1, SHOWN).round().astype(int))] if some else []


def rankings(
    name: str,
    benchmark: Benchmark,
    tops: Tops,
    per_query: Mapping[str, NDArray],
    how: Mapping[str, Any],
    subject: Subject,
) -> list[Row]:
    """The photos that each query of `shown` finds first, each marked right, wrong or junk."""
    model = {key: getattr(subject, key) for key in ("backbone", "pooling", "head", "seed", "untrained", "settings")}
    about = {"benchmark": name, **model, **how, "convention": benchmark.convention}
    aps, numbers = scored(per_query), marks(tops, benchmark)
    entries = []
    for q in shown(benchmark):
        query, found = benchmark.queries[q], zip(tops.images[q], tops.scores[q], numbers[q], strict=True)
        top = [
            {"path": photo_path(benchmark.gallery[i]), "score": float(score), "mark": MARKS[number]}
            for i, score, number in found
            if i >= 0
        ]
        asked = {"path": photo_path(query), "box": query.box}
        entries.append({**about, "query": asked, "ap": float(aps[q]), "top": top})
    return entries


def scored(per_query: Mapping[str, NDArray]) -> NDArray:
    """The value (Q,) that stands beside a ranking: the AP, the medium one of several, or what there is."""
    of = {name.rpartition("/")[2]: values for name, values in reversed(list(per_query.items()))}
    first = next((of[name] for name in ("AP", "AP@100", "recall@1", "correct") if name in of), next(iter(of.values())))
    return np.nan_to_num(np.asarray(per_query.get("medium/AP", first), dtype=np.float64))


def objective(rows: Sequence[Row]) -> float | None:
    """What a search over settings maximises: the mAP on held-out training landmarks where there are any, otherwise the
    mean of the rows' Medium mAP, or of the first metric of a benchmark without levels; None without rows."""
    trained = [row for row in rows if not row["untrained"]] or rows
    held_out = [row["validation"] for row in trained if row.get("validation") is not None]
    firsts = [row["metrics"].get("medium/mAP", next(iter(row["metrics"].values()))) or 0.0 for row in trained]
    return float(np.mean(held_out or firsts)) if trained else None


def append(path: Path, rows: list[Row], indent: int | None = 1) -> None:
    """Add rows to a JSON list on disk; the file is replaced as a whole, one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        before = json.loads(path.read_text()) if path.is_file() else []
        part = path.with_suffix(".part")
        part.write_text(json.dumps(before + rows, indent=indent, allow_nan=False))
        part.replace(path)


def printed(rows: Sequence[Row]) -> str:
    """The rows as a table for the terminal, values in percent."""
    names = list(dict.fromkeys(n for r in rows for n in r["metrics"] if SAID.search(n)))
    poolings = [label(row["pooling"], row["options"]) for row in rows]
    wide = max(14, *map(len, poolings))
    head = f"{'benchmark':12} {'pooling':{wide}} {'':9} {'px':>5} " + " ".join(f"{n:>13}" for n in names)
    lines = [
        f"{r['benchmark']:12} {pooling:{wide}} {'untrained' if r['untrained'] else '':9} {r['resolution']:>5} "
        + " ".join(f"{100 * v:13.1f}" if (v := r["metrics"].get(n)) is not None else f"{'-':>13}" for n in names)
        for r, pooling in zip(rows, poolings, strict=True)
    ]
    return "\n".join([head, *lines])
