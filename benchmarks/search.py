"""What search and re-ranking cost, and what an approximate search loses: `python -m benchmarks.search`.

Seeded photos of landmarks: unit vectors around a centre a landmark, from close views to ones that many others beat, in
shards on disk; a few landmarks are asked for and all others distract. Uniform noise would say nothing: no point of it
is much nearer than the next, so that there is nothing for an approximate index to find. All ways take turns in one
process, so that what else the machine does falls on all of them alike. CPU seconds stand beside those of the clock:
they vary less, but threads that wait for one another on a busy machine count in them. There, one thread tells most:
`OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.search --threads 1`.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.poolings import Bench
from retrieval import metrics
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.descriptors import Descriptors, Indices, Rows
from retrieval.rerank import DatabaseAugmentation, Ranking, Step
from retrieval.search import Exact, Faiss, Search, recall
from retrieval.search.approximate import RECALLS

NEIGHBOURS = 1000  # the default of configs/search/faiss.yaml
INDEXES: list[tuple[str, Sequence[int | None]]] = [  # with each number of clusters looked into
    ("Flat", [None]),
    ("SQ8", [None]),
    ("HNSW32", [None]),
    ("IVF1024,Flat", [4, 16, 64]),
    ("IVF1024,PQ32", [4, 16, 64]),
    ("PQ32", [None]),
]
SHARD = 25_000  # photos in one file
PHOTOS = 50  # of a landmark, on average; their numbers are exponentially distributed
SPREAD = 0.3, 1.5  # of a photo around its landmark's centre, drawn evenly: the exact mAP is near that of ROxford
DECAY = -0.5  # dimension i has the variance 1/i, so that a few of them say most, as in descriptors of photos


@dataclass(frozen=True)
class Photos:
    """queries (Q, d), and per query the images of its landmark."""

    queries: Rows
    gallery: Descriptors
    relevant: list[Indices]


@dataclass(frozen=True)
class Way:
    """A search that is timed. quality: each recall@k and mAP; index: seconds to build and to open, MB of its file."""

    name: str
    ask: Callable[[], object]
    quality: list[float]
    index: tuple[float | None, ...] = (None, None, None)


def written(folder: Path, images: int, dim: int, queries: int) -> Photos:
    """Photos whose descriptors lie in shards in the folder."""
    rng = np.random.default_rng(0)
    scale: Rows = (np.arange(1, dim + 1) ** DECAY).astype(np.float32)
    scale /= np.float32(np.linalg.norm(scale))
    landmarks = images // PHOTOS
    centres = _unit(rng.standard_normal((landmarks, dim), dtype=np.float32) * scale)
    sizes = rng.exponential(size=landmarks)
    label = rng.choice(landmarks, images, p=sizes / sizes.sum())
    asked = rng.choice(np.unique(label), queries, replace=False)

    def photographed(landmark: Indices) -> Rows:
        away = rng.uniform(*SPREAD, (len(landmark), 1)).astype(np.float32)
        noise = rng.standard_normal((len(landmark), dim), dtype=np.float32) * scale
        return _unit(centres[landmark] + away * noise)

    paths = [folder / f"{start:09d}.npy" for start in range(0, images, SHARD)]
    for path, start in zip(paths, range(0, images, SHARD), strict=True):
        np.save(path, photographed(label[start : start + SHARD]))
    return Photos(photographed(asked), Descriptors(paths), [np.flatnonzero(label == landmark) for landmark in asked])


def _unit(rows: NDArray) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def exact_ways(photos: Photos) -> list[Way]:
    """Every score, on the CPU and on a GPU if there is one; all images are ranked."""
    ways = []
    for device, place in (("cpu", "CPU"), ("cuda", "GPU"))[: 1 + torch.cuda.is_available()]:
        ask = partial(every_score, Exact(device), photos)
        ways.append(Way(f"exact | {place}", ask, [1.0] * len(RECALLS) + [mean_of_all(ask(), photos)]))
    return ways


def index_ways(factory: str, probes: Sequence[int | None], photos: Photos, truth: Indices, folder: Path) -> list[Way]:
    """An index, built once and opened from its file for each number of clusters looked into."""
    path = folder / f"{factory}.index"
    build: float | None = ready(Faiss(factory, NEIGHBOURS, probes[0], str(path)), photos)
    print(f"{factory}: {build:.1f} s to build", flush=True)
    ways = []
    for nprobe in probes:
        search = Faiss(factory, NEIGHBOURS, nprobe, str(path))
        index = build, ready(search, photos), path.stat().st_size / 1e6
        place = "CPU" if search.held is None or search.held[1] is search.held[2] else "GPU"
        name = f"{factory}{f', nprobe {nprobe}' if nprobe else ''} | {place}"
        ways.append(Way(name, partial(nearest, search, photos), quality(search, photos, truth), index))
        build = None
    return ways


def ready(search: Faiss, photos: Photos) -> float:
    """Seconds until the first answer."""
    start = time.perf_counter()
    search.nearest(photos.queries[:1], photos.gallery, 1)
    return time.perf_counter() - start


def every_score(search: Search, photos: Photos) -> Rows:
    """(Q, N)."""
    return np.concatenate(list(search.scores(photos.queries, photos.gallery)))


def nearest(search: Search, photos: Photos) -> Indices:
    """(Q, NEIGHBOURS)."""
    return search.nearest(photos.queries, photos.gallery, NEIGHBOURS)[1]


def quality(search: Search, photos: Photos, truth: Indices) -> list[float]:
    found = nearest(search, photos)
    return [*recall(found, truth).values(), mean_average_precision(found, photos.relevant)]


def mean_of_all(scores: Rows, photos: Photos) -> float:
    """mAP of a ranking of every image."""
    nothing = [np.empty(0, dtype=np.int64)] * len(scores)
    return float(metrics.per_query(scores, photos.relevant, nothing)["AP"].mean())


def mean_average_precision(found: Indices, relevant: Sequence[Indices]) -> float:
    """mAP of the images found (Q, k), best first; one that was not found has no rank."""
    lists = zip(found, relevant, strict=True)
    return float(np.mean([metrics.average_precision(np.flatnonzero(np.isin(r, w)), len(w)) for r, w in lists]))


def seconds(steps: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds by the clock and of the CPU of each step; they take turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            clock, cpu = time.perf_counter(), time.process_time()
            step()
            taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return {
        n: (statistics.median(c for c, _ in each), statistics.median(c for _, c in each)) for n, each in taken.items()
    }


def search_table(photos: Photos, folder: Path, repeats: int) -> list[str]:
    """Every way beside the exact one."""
    truth = Exact("cpu").nearest(photos.queries, photos.gallery, max(RECALLS))[1]
    ways = exact_ways(photos)
    for factory, probes in INDEXES:
        ways += index_ways(factory, probes, photos, truth, folder)
    taken = seconds({way.name: way.ask for way in ways}, repeats)
    named = ["search", "on", "build s", "open s", "MB", "ms a query", "CPU ms", *(f"recall@{k}" for k in RECALLS)]
    lines = [f"| {' | '.join([*named, 'mAP', 'lost'])} |", "| --- | --- |" + " ---: |" * len(named)]
    whole = ways[0].quality[-1]
    for way in ways:
        cost = ["" if number is None else f"{number:.1f}" for number in way.index]
        times = [f"{1e3 * each / len(photos.queries):.3g}" for each in taken[way.name]]
        percent = [f"{100 * share:.1f}" for share in (*way.quality, whole - way.quality[-1])]
        lines.append(f"| {' | '.join([way.name, *cost, *times, *percent])} |")
    clock, cpu = (sum(each) for each in zip(*taken.values(), strict=True))
    return [*lines, "", f"While these were timed the process was given {cpu / clock:.1f} cores."]


def rerank_table(photos: Photos, repeats: int) -> list[str]:
    """Every step of configs/rerank with its defaults, behind the exact search on the CPU."""
    few = photos.gallery.subset(np.arange(max(1, len(photos.gallery) // 10)))
    steps = {f"none | {len(g):,}": partial(ranked, None, photos.queries, g) for g in (photos.gallery, few)}
    for yaml in sorted((CONFIGS / "rerank").glob("*.yaml")):
        step = build(load_yaml(yaml))
        gallery = few if isinstance(step, DatabaseAugmentation) else photos.gallery
        steps[f"{step.label} | {len(gallery):,}"] = partial(ranked, step, photos.queries, gallery)
    taken = seconds(steps, repeats)  # before the peaks, which have freed memory given back at once: that takes time
    memory = {name: Bench("cpu", 1).peak(step) / 1e6 for name, step in steps.items()}
    lines = ["| step | images | seconds | CPU seconds | extra memory MB |", "| --- | ---: | ---: | ---: | ---: |"]
    return lines + [f"| {name} | {c:.2f} | {cpu:.2f} | {memory[name]:.0f} |" for name, (c, cpu) in taken.items()]


def ranked(step: Step | None, queries: Rows, gallery: Descriptors) -> None:
    """All blocks of scores, after the step."""
    ranking = Ranking(queries, gallery, Exact("cpu"))
    for _ in (step(ranking) if step else ranking).blocks():
        pass


def main() -> None:
    options = parsed()
    for factory, probes in INDEXES:
        Faiss(factory, NEIGHBOURS, probes[0]).check(options.dim, options.images)
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    on_gpu = torch.cuda.is_available()
    gpu = f"{torch.cuda.get_device_name()}, " if on_gpu else ""
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        photos = written(Path(folder), options.images, options.dim, options.queries)
        searched = search_table(photos, Path(folder), options.repeats)
        reranked = rerank_table(photos, options.repeats)
    lines = [
        "# Search and re-ranking",
        "",
        f"{options.images:,} images of {options.dim} float32 ({4e-6 * options.images * options.dim:.1f} MB) and "
        f"{options.queries} queries at once: seeded photos of landmarks, of the kind `benchmarks/search.py` states. "
        f"{gpu}{len(os.sched_getaffinity(0))} CPU cores, {threads}, NumPy {np.__version__}, faiss "
        f"{faiss.__version__}, torch {torch.__version__}; medians of {options.repeats} turns.",
        "",
        "## What a factory string costs",
        "",
        f"exact: every score, and every image ranked. All others give the {NEIGHBOURS:,} nearest; an image beyond them "
        "has no rank. Building, once, is training, hashing the descriptors and writing a file of that many MB; opening "
        "is hashing and reading. recall@k: the share of the exact k nearest among the first k. Quality in percent; "
        "lost: points of mAP. How much is lost depends on the descriptors: measure `recall` on your own.",
        "",
        *searched,
        "",
        "## What a step of re-ranking costs",
        "",
        f"For all {options.queries} queries, exact searches before and after included. Extra memory: the peak of "
        "resident memory above what stood before, mapped shards included. database_augmentation searches for every "
        "image, so that its time grows with the square of their number.",
        "",
        *reranked,
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"search_{'cuda' if on_gpu else 'cpu'}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--images", type=int, default=200_000, metavar="N")
    parser.add_argument("--dim", type=int, default=256, metavar="d")
    parser.add_argument("--queries", type=int, default=100, metavar="Q")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="T")
    parser.add_argument("--repeats", type=int, default=3, metavar="R")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where descriptors and indexes lie meanwhile")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    options = parser.parse_args()
    if options.queries > (most := options.images // (2 * PHOTOS)):
        parser.error(f"--queries are of a landmark each: accepted for {options.images} images: 1 to {most}")
    return options


if __name__ == "__main__":
    main()
