"""run_each(): the one path by which anything is evaluated."""

import functools
import os
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from retrieval import candidates, extraction, store, vocabulary
from retrieval.benchmarks import Benchmark
from retrieval.config import InputError, build, chosen
from retrieval.data.images import Photo
from retrieval.descriptors import Descriptors, joined
from retrieval.embedder import Embedder
from retrieval.extraction import Extract
from retrieval.results import VERSIONS, Row, append, rankings, row
from retrieval.store import Store
from retrieval.subjects import Subject, label


def run(
    model: Embedder,
    benchmarks: Mapping[str, Benchmark],
    extract: Extract,
    subject: Subject,
    output_dir: Path,
    kept: Path | None = None,
) -> list[Row]:
    """`run_each` with one model."""
    return run_each([model], benchmarks, extract, [subject], output_dir, kept)


def run_each(
    models: Sequence[Embedder],
    benchmarks: Mapping[str, Benchmark],
    extract: Extract,
    subjects: Sequence[Subject],
    output_dir: Path,
    kept: Path | None = None,
) -> list[Row]:
    """Describe and judge every benchmark at every resolution; appends to `results.json` and `rankings.json`.

    models share one backbone, and each resolution is one pass over the photos for all of them. kept: a folder in
    which descriptors are kept. Of several processes all describe, and the first one judges.
    """
    for model in models:
        extraction.check(model, extract.resolutions, extract.scales, extract.aspect)
    photos = parted(benchmarks)
    place = {photo: i for i, photo in enumerate(photo for part in photos.values() for photo in part)}
    rows: list[Row] = []
    for resolution in extract.resolutions:
        start = time.perf_counter()
        each = described(models, subjects, photos, extract, resolution, kept)
        cost = {"seconds": round(time.perf_counter() - start, 2), "poolings_in_pass": len(models)}
        for model, about, vectors in zip(models, subjects, each, strict=True) if first_process() else ():
            for name, benchmark in benchmarks.items():
                sides = (benchmark.queries, benchmark.gallery)
                queries, gallery = (vectors.take([place[photo] for photo in side]) for side in sides)
                values = benchmark.judge(queries @ gallery.T)
                rows.append(row(model, name, benchmark, extract, resolution, about, values, cost))
                append(output_dir / "rankings.json", rankings(name, benchmark, queries, gallery, resolution, about))
                append(output_dir / "results.json", rows[-1:])
    return rows


def first_process() -> bool:
    """Whether this is the one of several processes that judges and writes rows (torchrun numbers them)."""
    return int(os.environ.get("RANK", 0)) == 0


def parted(benchmarks: Mapping[str, Benchmark]) -> dict[str, list[Photo]]:
    """Every photo once, by the names of the benchmarks that it is in; distractors are a part of their own.

    So a part is described once for all, and found again by another call that has it.
    """
    members: dict[Photo, list[str]] = defaultdict(list)
    for name, benchmark in benchmarks.items():
        own = len(benchmark.gallery) - int(getattr(benchmark, "distractors", 0))
        for photo in dict.fromkeys((*benchmark.gallery[:own], *benchmark.queries)):
            members[photo].append(name)
        for photo in benchmark.gallery[own:]:
            members[photo] = ["distractors"]
    parts: dict[str, list[Photo]] = defaultdict(list)
    for photo, names in members.items():
        parts["+".join(names)].append(photo)
    return parts


def described(
    models: Sequence[Embedder],
    subjects: Sequence[Subject],
    parts: Mapping[str, Sequence[Photo]],
    extract: Extract,
    resolution: int,
    kept: Path | None,
) -> list[Descriptors]:
    """Descriptors of the photos of all parts, one part after the other, by each model.

    They lie in `extract.store`, else in a folder of `kept` that is named after what made them, else in memory.
    """
    if extract.store is None and kept is None:
        photos = [photo for part in parts.values() for photo in part]
        each = extraction.describe_each(models, photos, resolution, extract, progress=True)
        return [Descriptors([vectors]) for vectors in each]
    filled = [
        _filled(models, subjects, name, photos, extract, resolution, Path(extract.store or kept or ""))
        for name, photos in parts.items()
    ]
    return [joined(of_model) for of_model in zip(*filled, strict=True)]


def _filled(
    models: Sequence[Embedder],
    subjects: Sequence[Subject],
    name: str,
    photos: Sequence[Photo],
    extract: Extract,
    resolution: int,
    folder: Path,
) -> list[Descriptors]:
    stores = []
    for model, about in zip(models, subjects, strict=True):
        made_of = store.made_of(model, photos, extract, resolution) | {"settings": about.settings, "versions": VERSIONS}
        own = re.sub(r"[^\w.-]+", "_", f"{name}_{label(about.pooling, about.options)}_{resolution}")
        named = own if extract.store else store.digest(made_of)
        stores.append(Store(folder / named, made_of, len(photos), model.dim, extract.store_dtype))
    return store.fill(
        stores,
        functools.cache(lambda: extraction.plan(models[0], photos, resolution, extract)),
        lambda batches: extraction.vectors(models, photos, batches, resolution, extract),
        f"describing at {resolution}",
    )


def from_config(cfg: DictConfig, overridden: set[str]) -> list[Row]:
    """What eval.py does: judge the run `cfg.run`, or without one the model that the config describes.

    With `evaluate.poolings` it is each of these poolings on the one backbone.
    """
    refuse(cfg, overridden)
    extract: Extract = build(cfg.extract)
    poolings, output_dir = cfg.evaluate.poolings, Path(cfg.run or cfg.output_dir)
    if not cfg.run and first_process():
        refuse_used(output_dir)
    side = extract.resolutions[0]
    found = candidates.of_run(output_dir, poolings, side) if cfg.run else candidates.off_the_shelf(cfg, side)
    models = [candidate.model for candidate in found]
    for model in models:
        extraction.check(model, extract.resolutions, extract.scales, extract.aspect)
        vocabulary.refuse_unfitted(model)
    benchmarks = {name: build(one) for name, one in chosen(cfg.benchmark).items()}
    if not cfg.run and first_process():
        candidates.save(found, cfg, output_dir)
    return run_each(
        models,
        benchmarks,
        extract,
        [candidate.subject for candidate in found],
        output_dir,
        Path(cfg.cache) / "descriptors",
    )


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
    if not chosen(cfg.benchmark):
        raise InputError(
            "nothing to judge on: give benchmark=folder, benchmark=landmarks or several as [folder,landmarks]"
        )


def refuse_used(output_dir: Path) -> None:
    """An output folder that holds another run is refused."""
    held = [name for name in ("config.yaml", "model.safetensors", "results.json") if (output_dir / name).exists()]
    if held:
        raise InputError(f"output_dir {output_dir} holds another run ({', '.join(held)}): name another, or remove it")
