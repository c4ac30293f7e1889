"""What judging a million images costs, beside sorting them: `python -m benchmarks.judging [--truth FILE]`.

Seeded unit descriptors lie in shards on disk; relevant images lie towards their queries. Both ways judge the three
levels of Revisited Oxford and Paris from one score matrix, in one thread, and take turns, so that what else the
machine does falls on both alike; CPU seconds vary less where others use the machine. The peak of memory is that of a
process that does nothing but read, score and judge our way. An evaluation also keeps what pictures need, which is
timed as a third way: the first ten of every query, and precision over recall.
"""

import argparse
import json
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieval import metrics
from retrieval.descriptors import Descriptors, Rows

Truth = Sequence[Mapping[str, ArrayLike]]  # per query easy, hard, junk
QUERIES, LABELLED = 70, 4_993  # of ROxford; what stands behind its images are distractors
SIZES = {"easy": 43, "hard": 36, "junk": 19}  # of ROxford, on average
TOWARDS = {"easy": 0.5, "hard": 0.25, "junk": 0.25}
KS = (1, 5, 10)


def labels(rng: np.random.Generator, images: int) -> Truth:
    """Labels as many as ROxford's on average, for as many queries, among as many images."""
    truth = []
    for _ in range(QUERIES):
        order, counts = rng.permutation(min(images, LABELLED)), np.ceil(rng.exponential(list(SIZES.values())))
        ends = np.minimum(np.cumsum(counts).astype(int), len(order))
        truth.append(dict(zip(SIZES, np.split(order, ends), strict=False)))
    return truth


def write(folder: Path, truth: Truth, images: int, dim: int, shard: int = 100_000) -> tuple[Rows, list[Path]]:
    """Queries (Q, d), and shards on disk of as many rows as there are images."""
    rng = np.random.default_rng(0)
    queries = _unit(rng.standard_normal((len(truth), dim), dtype=np.float32))
    pull = np.zeros((images, dim), dtype=np.float32)
    for query, entry in zip(queries, truth, strict=True):
        for level, weight in TOWARDS.items():
            pull[np.asarray(entry[level], dtype=np.int64)] += weight * query
    paths = []
    for start in range(0, images, shard):
        noise = rng.standard_normal(pull[start : start + shard].shape, dtype=np.float32) / np.float32(dim**0.5)
        paths.append(folder / f"{start:09d}.npy")
        np.save(paths[-1], _unit(noise + pull[start : start + shard]))
    return queries, paths


def _unit(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def scored(queries: Rows, shards: Sequence[Path]) -> Rows:
    """Scores (Q, N) of descriptors that are read a block at a time."""
    gallery = Descriptors(shards)
    scores = np.empty((len(queries), len(gallery)), dtype=np.float32)
    for indices, rows in gallery.blocks():
        scores[:, indices] = queries @ rows.T
    return scores


def sorting(scores: Rows, truth: Truth, kind: str | None = None) -> dict[str, NDArray[np.float64]]:
    """The reference, (Q,) by name: sort the whole database for every query, then walk over the list of each level."""
    order = np.argsort(-scores.T, axis=0, kind=kind)  # pyright: ignore[reportCallIssue, reportArgumentType]
    values = {}
    for level, lists in metrics.levels(truth).items():
        rows = [walked(order[:, q], *both) for q, both in enumerate(zip(*lists, strict=True))]
        for name, column in zip(["AP", *(f"P@{k}" for k in KS)], np.array(rows).T, strict=True):
            values[f"{level}/{name}"] = column
    return values


def counting(scores: Rows, truth: Truth) -> dict[str, NDArray[np.float64]]:
    """Our way, (Q,) by name."""
    measures = metrics.trapezoid_and_precision(KS) | {metrics.TIES: metrics.ties}
    return metrics.measured([scores], metrics.levels(truth), measures)


def keeping(truth: Truth, images: int) -> Callable[[Rows], object]:
    """Our way with what an evaluation keeps beside the values, for scores of these labels among so many photos."""
    from retrieval.benchmarks.ranked import Ranked  # here, as the peak is that of a process without torch
    from retrieval.data.images import Photo
    from retrieval.tops import Tops

    queries, gallery = ([Photo(f"{kind}/{i}.jpg") for i in range(n)] for kind, n in (("q", len(truth)), ("g", images)))
    names, measures = [photo.path for photo in queries], metrics.trapezoid_and_precision(KS)
    benchmark: Any = Ranked(queries, gallery, names, metrics.levels(truth), measures, {}, shown="medium")
    return lambda scores: benchmark.per_query(Tops.of(benchmark).watching([scores], benchmark))


def walked(order: NDArray, relevant: ArrayLike, ignored: ArrayLike) -> list[float]:
    """Trapezoid AP and P@k of one sorted list."""
    hits = np.flatnonzero(np.isin(order, relevant))
    if not len(hits):
        return [np.nan] * (1 + len(KS))
    left_out = np.flatnonzero(np.isin(order, ignored))
    ap, ranks, passed = 0.0, [], 0
    for found, position in enumerate(hits):
        while passed < len(left_out) and left_out[passed] < position:
            passed += 1
        rank = position - passed
        ranks.append(rank)
        ap += ((found / rank if rank else 1.0) + (found + 1) / (rank + 1)) / 2
    cuts = [min(k, ranks[-1] + 1) for k in KS]
    return [ap / len(hits), *(sum(rank < cut for rank in ranks) / cut for cut in cuts)]


def disagreement(ours: Mapping[str, NDArray], theirs: Mapping[str, NDArray]) -> float:
    """How far a value of a query without ties is apart at most; infinitely where one way has none."""
    single = {name: ours[f"{name.partition('/')[0]}/{metrics.TIES}"] != 1 for name in theirs}
    pairs = [(ours[name][single[name]], theirs[name][single[name]]) for name in theirs]
    if any((np.isnan(a) != np.isnan(b)).any() for a, b in pairs):
        return float("inf")
    return max(float(np.nanmax(np.abs(a - b), initial=0)) for a, b in pairs)


def peak(queries: Rows, shards: Sequence[Path], truth: Truth) -> int:
    """Bytes of resident memory that this process took at most, once it has scored and judged."""
    counting(scored(queries, shards), truth)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def seconds(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, NDArray[np.float64]]:
    """Median seconds by the clock and of the CPU, (2,), of each way; they take turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            clock, cpu = time.perf_counter(), time.process_time()
            way()
            taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return {name: np.median(each, axis=0) for name, each in taken.items()}


def main() -> None:
    options = parsed()
    truth = read(options.truth) if options.truth else labels(np.random.default_rng(1), options.images)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        queries, shards = write(Path(folder), truth, options.images, options.dim)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            memory = pool.submit(peak, queries, shards, truth).result()
        start = time.perf_counter()
        scores = scored(queries, shards)
        scoring = time.perf_counter() - start
    ours = counting(scores, truth)
    apart, tied = disagreement(ours, sorting(scores, truth)), metrics.tied_queries(ours)
    keep = keeping(truth, options.images)
    ways = {
        "sort": lambda: sorting(scores, truth),
        "count": lambda: counting(scores, truth),
        "keep": lambda: keep(scores),
    }
    taken = seconds(ways, options.repeats)
    named = f"labels of {options.truth.name}" if options.truth else "seeded labels"
    lines = [
        "# Judging without sorting",
        "",
        f"{len(queries)} queries, {options.images:,} images of {options.dim} float32, {named}; easy, medium and hard, "
        f"AP and P@{', '.join(map(str, KS))}. {len(os.sched_getaffinity(0))} CPU cores, both ways in one thread, NumPy "
        f"{np.__version__}; medians of {options.repeats} turns.",
        "",
        "| | seconds | CPU seconds |",
        "| --- | ---: | ---: |",
        "| sort every image for every query, walk over the lists | {:.2f} | {:.2f} |".format(*taken["sort"]),
        "| count the ranks of labelled images (`metrics.measured`) | {:.3f} | {:.3f} |".format(*taken["count"]),
        "| the same, with the first ten and precision over recall | {:.3f} | {:.3f} |".format(*taken["keep"]),
        "| ratio of the first two | {:.1f} | {:.1f} |".format(*(taken["sort"] / taken["count"])),
        f"| for comparison: read the descriptors and score them | {scoring:.2f} | |",
        "",
        f"Largest disagreement of a query's value: {apart:.1e} (without the {tied} queries that have a tie). "
        f"Peak of resident memory of reading, scoring and judging: {memory / 1e9:.2f} GB, of which the score matrix is "
        f"{scores.nbytes / 1e9:.2f}.",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "judging.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def read(path: Path) -> Truth:
    """`gnd` of a ground truth, JSON or the benchmark's own pickle."""
    truth = json.loads(path.read_text()) if path.suffix == ".json" else pickle.loads(path.read_bytes())
    return truth["gnd"]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judging", description=__doc__)
    parser.add_argument("--truth", type=Path, metavar="FILE", help="a ground truth to trust (default: seeded labels)")
    parser.add_argument("--images", type=int, default=LABELLED + 1_000_000, metavar="N")
    parser.add_argument("--dim", type=int, default=128, metavar="D")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where the descriptors lie meanwhile")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    return parser.parse_args()


if __name__ == "__main__":
    main()
