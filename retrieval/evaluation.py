"""run_each(): the one path by which anything is evaluated."""

import json
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from retrieval import candidates, embedder, extraction, passes, processes, published, stages, vocabulary, whitening
from retrieval.benchmarks import Benchmark
from retrieval.config import build, chosen, load_yaml
from retrieval.data.images import Photo, limit_pixels
from retrieval.data.snapshot import Snapshot
from retrieval.descriptors import Descriptors, Rows
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.heads import Whitening
from retrieval.looking import look
from retrieval.method import Method, alike
from retrieval.results import Row, contents, keep, keep_whitening, rankings, row
from retrieval.subjects import Subject, backbone_name, deciding, label, plain
from retrieval.together import describe_together
from retrieval.tops import Tops


def run(
    model: Embedder,
    benchmarks: Mapping[str, Benchmark],
    extract: Extract,
    subject: Subject,
    output_dir: Path,
    kept: Path | None = None,
) -> list[Row]:
    """`run_each` with one model, no whitening, exact search and no re-ranking."""
    return run_each([model], benchmarks, extract, [subject], output_dir, kept)


def run_each(
    models: Sequence[Embedder],
    benchmarks: Mapping[str, Benchmark],
    extract: Extract,
    subjects: Sequence[Subject],
    output_dir: Path,
    kept: Path | None = None,
    method: Method | None = None,
) -> list[Row]:
    """Describe and judge every benchmark at every resolution; appends to `results.json` and `rankings.json`.

    models share one backbone, and each resolution is one pass over the photos for all of them, see `passes.Pass`. kept:
    a folder in which descriptors are kept. Of several processes all describe, and the first one judges.
    """
    method = method or Method()
    for model in models:
        extraction.check(model, extract.resolutions, extract.scales, extract.aspect)
    method.check(models, benchmarks, len(extract.resolutions))
    photos = parted(benchmarks, method.pairs.photos if method.pairs else ())
    place = {photo: i for i, photo in enumerate(photo for part in photos.values() for photo in part)}
    files = Snapshot(skippable([*benchmarks.values(), *([method.pairs] if method.pairs else [])]))
    rows: list[Row] = []
    shared = passes.Pass(models, subjects, extract, kept, output_dir, files)
    for resolution in extract.resolutions:
        stages.stage(f"describing {len(place)} photos at {resolution} px")
        start = time.perf_counter()
        each = shared.described(photos, resolution)
        seconds = round(time.perf_counter() - start, 2)
        settled = {name: benchmark.settled(files) for name, benchmark in benchmarks.items()}
        for benchmark in settled.values():
            benchmark.convention["contents"] = contents(benchmark, files)
        if files.faults and getattr(method.pairs, "may_skip", False):
            method = replace(method, pairs=method.pairs.without(files.faults))
        cost = {"seconds": seconds, "poolings_in_pass": shared.poolings, "described": shared.passed}
        for model, about, vectors in zip(models, subjects, each, strict=True) if processes.first() else ():
            how = {"resolution": resolution, **extract.how(), **method.how(None), "dim": vectors.dim}
            white = None
            if method.whitening:
                pairs = vectors.subset([place[photo] for photo in method.pairs.photos]) if method.pairs else None
                white = method.whitening.fit(pairs, method.pairs)
                how |= {**method.how(white), "dim": white.out_features}
                how["whitening_file"] = keep_whitening(output_dir, white, about, how)
                vectors = vectors.mapped(white, white.out_features)
            for name, benchmark in settled.items():
                stages.stage(f"evaluating {label(about.pooling, about.options)} on {name} at {resolution} px")
                sides = ([place[photo] for photo in side] for side in (benchmark.queries, benchmark.gallery))
                queries, gallery = vectors.take(next(sides)), vectors.subset(next(sides))
                if alike(queries, gallery):
                    warnings.warn(
                        f"{about.backbone} {about.pooling} gives all {len(queries)} queries of {name} and the photos "
                        f"that they are sought in one descriptor (to 1e-6) at {resolution} pixels: it tells no photos "
                        "apart, and its values are those of chance",
                        stacklevel=1,
                    )
                per_query, tops = judged(benchmark, queries, gallery, method)
                found = {"search_recall": method.search.recall(queries, gallery, benchmark.ignored)}
                rows.append(row(model, name, benchmark, how | found, about, per_query, cost))
                entries = rankings(name, benchmark, tops, per_query, how, about)
                if resolution == max(extract.resolutions):
                    look(entries, model, benchmark, tops, resolution, extract, white)
                keep(output_dir, benchmark, rows[-1], per_query, tops, entries)
    return rows


def values_of(
    model: Embedder, benchmarks: Mapping[str, Benchmark], extract: Extract, resolution: int, device: str
) -> dict[str, dict[str, float]]:
    """What each benchmark says of a model in training, by exact search on descriptors at one scale; no row is kept.

    Of several processes each describes a share of the photos, the first one judges, and the others get nothing.
    """
    photos = list(
        dict.fromkeys(p for benchmark in benchmarks.values() for p in (*benchmark.gallery, *benchmark.queries))
    )
    files = Snapshot(skippable(benchmarks.values()))
    rows = describe_together(model, photos, resolution, extract, device, False, files)
    files.faults.update({photo.path: "" for photo, row in zip(photos, rows, strict=True) if np.isnan(row[0])})
    vectors = Descriptors([rows])
    place, values = {photo: i for i, photo in enumerate(photos)}, {}
    for name, given in benchmarks.items() if processes.first() else ():
        if given.convention.get("duplicates") == "junk":
            files.hash_all([*given.queries, *given.gallery])  # those that other processes read
        benchmark = given.settled(files)
        queries, gallery = ([place[photo] for photo in side] for side in (benchmark.queries, benchmark.gallery))
        per_query, _ = judged(benchmark, vectors.take(queries), vectors.subset(gallery), Method())
        values[name] = benchmark.values(per_query)
    return values


def skippable(sets: Iterable[Any]) -> set[str]:
    """The files that may be left out where they cannot be decoded: of sets that skip such, and of no other set."""
    paths: dict[bool, set[str]] = {True: set(), False: set()}
    sets = list(sets)
    for one in sets if any(getattr(one, "may_skip", False) for one in sets) else ():
        photos = one.photos if hasattr(one, "photos") else (*one.queries, *one.gallery)
        paths[getattr(one, "may_skip", False)] |= {photo.path for photo in photos}
    return paths[True] - paths[False]


def judged(
    benchmark: Benchmark, queries: Rows, gallery: Descriptors, method: Method
) -> tuple[dict[str, NDArray], Tops]:
    """The values of every query, and the photos that it finds first."""
    tops, blocks = Tops.of(benchmark), method.ranking(queries, gallery, benchmark).blocks()
    return benchmark.per_query(tops.watching(blocks, benchmark)), tops


def parted(benchmarks: Mapping[str, Benchmark], pairs: Sequence[Photo] = ()) -> dict[str, list[Photo]]:
    """Every photo once, by the names of the benchmarks that it is in; those of pairs and distractors are parts of their
    own.

    So a part is described once for all, and found again by another call that has it.
    """
    members: dict[Photo, list[str]] = defaultdict(list)
    for name, benchmark in benchmarks.items():
        own = len(benchmark.gallery) - int(benchmark.convention.get("distractors", 0))
        for photo in dict.fromkeys((*benchmark.gallery[:own], *benchmark.queries)):
            members[photo].append(name)
        for photo in benchmark.gallery[own:]:
            members[photo] = ["distractors"]
    for photo in dict.fromkeys(pairs):
        members[photo].append("pairs")
    parts: dict[str, list[Photo]] = defaultdict(list)
    for photo, names in members.items():
        parts["+".join(names)].append(photo)
    return parts


@dataclass(frozen=True)
class Asked:
    """What a config of eval.py asks for; own: the whitenings that a run or a published network brings."""

    found: Sequence[candidates.Candidate]
    own: Mapping[str, Whitening]
    extract: Extract
    benchmarks: Mapping[str, Benchmark]
    method: Method

    @classmethod
    def of(cls, cfg: DictConfig, overridden: set[str]) -> "Asked":
        """Everything that can be refused before a photo is described is refused here, and nothing is written."""
        limit_pixels(cfg.images.max_pixels)
        refuse(cfg, overridden)
        extract: Extract = build(cfg.extract)
        poolings, side = cfg.evaluate.poolings, extract.resolutions[0]
        own = whitening.of_run(Path(cfg.run)) if cfg.run else {}
        if cfg.network:
            network = published.load(cfg.network, cfg.cache)
            found, own = [candidates.of_published(network, cfg)], network.whitenings
        else:
            stages.stage(f"loading {cfg.run or backbone_name(cfg)}")
            run = Path(cfg.run or "")
            found = candidates.of_run(run, poolings, side) if cfg.run else candidates.off_the_shelf(cfg, side)
        models = [candidate.model for candidate in found]
        for model in models:
            extraction.check(model, extract.resolutions, extract.scales, extract.aspect)
            vocabulary.refuse_unfitted(model)
        benchmarks, method = benchmarks_of(cfg), method_of(cfg, own, extract)
        method.check(models, benchmarks, len(extract.resolutions))
        asked = cls(found, own, extract, benchmarks, method)
        if not cfg.run and processes.first():
            refuse_other(Path(cfg.output_dir), found, asked.rows)
        return asked

    @property
    def models(self) -> list[Embedder]:
        return [candidate.model for candidate in self.found]

    @property
    def rows(self) -> int:
        return len(self.found) * len(self.benchmarks) * len(self.extract.resolutions)


def from_config(cfg: DictConfig, overridden: set[str]) -> list[Row]:
    """What eval.py does: judge the run `cfg.run`, the published network `cfg.network`, or without either the model that
    the config describes.

    With `evaluate.poolings` it is each of these poolings on the one backbone.
    """
    asked, output_dir = Asked.of(cfg, overridden), Path(cfg.run or cfg.output_dir)
    if not (cfg.run or cfg.network or cfg.backbone.pretrained or cfg.backbone.weights):
        warnings.warn(
            f"{backbone_name(cfg)} is judged with random weights: backbone.pretrained=true or backbone.weights=FILE "
            "gives it those of a training",
            stacklevel=1,
        )
    if not cfg.run and processes.first():
        for name in ("results.json", "rankings.json"):  # of a call that was killed: judged again from what is kept
            (output_dir / name).unlink(missing_ok=True)
        candidates.save(asked.found, cfg, output_dir)
        whitening.save_all(asked.own, output_dir)
    subjects, kept = [candidate.subject for candidate in asked.found], Path(cfg.cache) / "descriptors"
    return run_each(asked.models, asked.benchmarks, asked.extract, subjects, output_dir, kept, asked.method)


def benchmarks_of(cfg: DictConfig) -> dict[str, Benchmark]:
    """The benchmarks of a config by name; `benchmark.download=true` lets each fetch what it may."""
    fetched = {"download": True} if cfg.benchmark.download else {}
    benchmarks = {}
    for name, one in chosen(cfg.benchmark).items():
        stages.stage(f"reading the benchmark {name}")
        benchmarks[name] = build(one, **fetched, **({"cache": cfg.cache} if one.get("verify") else {}))
    return benchmarks


def method_of(cfg: DictConfig, own: Mapping[str, Whitening], extract: Extract) -> Method:
    """What `search`, `rerank`, `whitening` and `whitening_set` of a config say; own: the whitenings of a network."""
    fit, pairs = whitening.from_config(cfg, own, extract.scales) or (None, None)
    return Method(build(cfg.search), [build(step) for step in chosen(cfg.get("rerank")).values()], fit, pairs)


def refuse(cfg: DictConfig, overridden: set[str]) -> None:
    """What can be refused by reading the config alone. overridden: the groups and keys given beside the defaults."""
    if cfg.run and overridden & {"backbone", "pooling", "head", "seed", "output_dir"}:
        given = ", ".join(sorted(overridden & {"backbone", "pooling", "head", "seed", "output_dir"}))
        raise InputError(f"run={cfg.run} already has its own {given}: leave that out, or leave out run")
    if cfg.network and (cfg.run or cfg.evaluate.poolings or overridden & {"backbone", "pooling", "head"}):
        raise InputError(
            f"network={cfg.network} is a whole model: leave out run, backbone, pooling, head and evaluate.poolings"
        )
    if cfg.evaluate.poolings is not None and "pooling" in overridden:
        raise InputError(
            "evaluate.poolings and pooling both say what is judged: leave one out; what a pooling sets stands in the "
            "list, as in evaluate.poolings=[gap,{gem:{p:5}}]"
        )
    if "whitening_set" in overridden and cfg.whitening._target_ is None:
        raise InputError(
            "whitening_set says what a whitening is fitted to: give whitening=pca, ... too, or leave it out"
        )
    if not chosen(cfg.benchmark):
        raise InputError(
            "nothing to judge on: give benchmark=folder, benchmark=landmarks or several as [folder,landmarks]"
        )


def refuse_other(output_dir: Path, found: Sequence[candidates.Candidate], rows: int) -> None:
    """Refuse a folder with another run or with all of this one's rows; a call that was killed may be made again."""
    file = output_dir / "results.json"
    complete = file.is_file() and len(json.loads(file.read_text())) >= rows
    saved = [output_dir / candidate.folder / "config.yaml" for candidate in found]
    wanted = [deciding(plain(embedder.completed(candidate.cfg, candidate.model))) for candidate in found]
    held = [deciding(plain(load_yaml(path))) if path.is_file() else None for path in saved]
    same = all(there in (None, asked) for there, asked in zip(held, wanted, strict=True))
    if complete or not same or not any(path.is_file() for path in saved):
        refuse_used(output_dir)


def refuse_used(output_dir: Path) -> None:
    """An output folder that holds another run is refused."""
    held = [name for name in ("config.yaml", "model.safetensors", "results.json") if (output_dir / name).exists()]
    if held:
        raise InputError(f"output_dir {output_dir} holds another run ({', '.join(held)}): name another, or remove it")
