"""run_each(): the one path by which anything is evaluated."""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from retrieval import candidates, extraction, vocabulary
from retrieval.benchmarks import Benchmark
from retrieval.config import InputError, build
from retrieval.data.images import Photo
from retrieval.embedder import Embedder
from retrieval.extraction import Extract
from retrieval.results import VERSIONS, Row, append, rankings, row
from retrieval.subjects import Subject


def run(
    model: Embedder,
    benchmarks: Mapping[str, Benchmark],
    extract: Extract,
    subject: Subject,
    output_dir: Path,
    cache: Path | None = None,
) -> list[Row]:
    """`run_each` with one model."""
    return run_each([model], benchmarks, extract, [subject], output_dir, cache)


def run_each(
    models: Sequence[Embedder],
    benchmarks: Mapping[str, Benchmark],
    extract: Extract,
    subjects: Sequence[Subject],
    output_dir: Path,
    cache: Path | None = None,
) -> list[Row]:
    """Describe and judge every benchmark at every resolution; appends to `results.json` and `rankings.json`.

    models share one backbone, and each resolution is one pass over the photos for all of them. cache: a folder in
    which descriptors are kept for other runs of the same models and photos.
    """
    for model in models:
        extraction.check(model, extract.resolutions, extract.scales, extract.aspect)
    photos = list(dict.fromkeys(p for b in benchmarks.values() for p in (*b.gallery, *b.queries)))
    place = {photo: i for i, photo in enumerate(photos)}
    rows: list[Row] = []
    for resolution in extract.resolutions:
        start = time.perf_counter()
        each = described(models, photos, extract, resolution, subjects, cache)
        cost = {"seconds": round(time.perf_counter() - start, 2), "poolings_in_pass": len(models)}
        for model, about, vectors in zip(models, subjects, each, strict=True):
            for name, benchmark in benchmarks.items():
                sides = (benchmark.queries, benchmark.gallery)
                queries, gallery = (vectors[[place[photo] for photo in side]] for side in sides)
                values = benchmark.judge(queries @ gallery.T)
                rows.append(row(model, name, benchmark, extract, resolution, about, values, cost))
                append(output_dir / "rankings.json", rankings(name, benchmark, queries, gallery, resolution, about))
                append(output_dir / "results.json", rows[-1:])
    return rows


def from_config(cfg: DictConfig, overridden: set[str]) -> list[Row]:
    """What eval.py does: judge the run `cfg.run`, or without one the model that the config describes.

    With `evaluate.poolings` it is each of these poolings on the one backbone.
    """
    refuse(cfg, overridden)
    extract: Extract = build(cfg.extract)
    poolings, output_dir = cfg.evaluate.poolings, Path(cfg.run or cfg.output_dir)
    if not cfg.run:
        refuse_used(output_dir)
    side = extract.resolutions[0]
    found = candidates.of_run(output_dir, poolings, side) if cfg.run else candidates.off_the_shelf(cfg, side)
    models = [candidate.model for candidate in found]
    for model in models:
        extraction.check(model, extract.resolutions, extract.scales, extract.aspect)
        vocabulary.refuse_unfitted(model)
    benchmarks = {name: build(one) for name, one in cfg.benchmark.items()}
    if not cfg.run:
        candidates.save(found, cfg, output_dir)
    return run_each(models, benchmarks, extract, [candidate.subject for candidate in found], output_dir)


def refuse(cfg: DictConfig, overridden: set[str]) -> None:
    """What can be refused by reading the config alone. overridden: the groups and keys given beside the defaults."""
    if cfg.run and overridden & {"backbone", "pooling", "head", "seed", "output_dir"}:
        given = ", ".join(sorted(overridden & {"backbone", "pooling", "head", "seed", "output_dir"}))
        raise InputError(f"run={cfg.run} already has its own {given}: leave that out, or leave out run")
    if cfg.evaluate.poolings is not None and "pooling" in overridden:
        raise InputError(
            "evaluate.poolings and pooling both say what is judged: leave one out; what a pooling sets stands in the "
            "list, as in evaluate.poolings=[gap,{gem:{p:5}}]"
        )
    if not cfg.get("benchmark"):
        raise InputError(
            "nothing to judge on: give benchmark=folder, benchmark=landmarks or several as [folder,landmarks]"
        )


def refuse_used(output_dir: Path) -> None:
    """An output folder that holds another run is refused."""
    held = [name for name in ("config.yaml", "model.safetensors", "results.json") if (output_dir / name).exists()]
    if held:
        raise InputError(f"output_dir {output_dir} holds another run ({', '.join(held)}): name another, or remove it")


def described(
    models: Sequence[Embedder],
    photos: Sequence[Photo],
    extract: Extract,
    resolution: int,
    subjects: Sequence[Subject],
    cache: Path | None,
) -> list[NDArray[np.float32]]:
    """Descriptors (N, d) of each model at one resolution; with a cache, computed only where one of them is not kept."""

    @functools.cache
    def compute() -> list[NDArray[np.float32]]:
        return extraction.describe_each(models, photos, resolution, extract, progress=True)

    if cache is None:
        return compute()
    kept, options = [], {key: value for key, value in asdict(extract).items() if key != "resolutions"}
    for i, (model, about) in enumerate(zip(models, subjects, strict=True)):
        made_of = [*extraction.fingerprint(model, photos), about.settings, resolution, options, VERSIONS]
        kept.append(extraction.remembered(cache, made_of, lambda i=i: compute()[i]))
    return kept
