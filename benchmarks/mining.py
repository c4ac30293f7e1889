"""What finding hard negatives costs, beside sorting the pool: `python -m benchmarks.mining`.

Seeded unit descriptors around a centre a cluster, as many clusters as the 551 of SfM-120k's training part. Both ways
multiply queries and pool by torch in float32, and take turns, so that what else the machine does falls on both alike;
CPU seconds vary less where others use the machine, but threads that wait for one another count in them. Memory is that
of a process that holds the descriptors and goes one way.
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.poolings import give_back_at, resident
from benchmarks.search import seconds
from retrieval.descriptors import Indices, Rows
from retrieval.mining import hard_negatives

Search = tuple[Rows, Rows, Indices, Indices, int]  # the arguments of `hard_negatives`
SPREAD = 1.5  # of a photo around its cluster's centre, which is of length 1


def drawn(queries: int, pool: int, clusters: int, dim: int, negatives: int) -> Search:
    """Seeded queries and pool."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((clusters, dim), dtype=np.float32)
    of_each = [rng.integers(clusters, size=size) for size in (queries, pool)]
    rows = []
    for labels in of_each:
        away = rng.standard_normal((len(labels), dim), dtype=np.float32) * np.float32(SPREAD)
        away += centres[labels]
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        rows.append(away)
    return rows[0], rows[1], of_each[0], of_each[1], negatives


def sorting(queries: Rows, pool: Rows, query_clusters: Indices, pool_clusters: Indices, count: int) -> Indices:
    """The reference (Q, count): sort the whole pool for every query, then walk over each list."""
    scores = (torch.from_numpy(queries) @ torch.from_numpy(pool).T).numpy()
    order = np.argsort(-scores, axis=1, kind="stable")
    found = np.empty((len(queries), count), dtype=np.int64)
    for place, ranked, cluster in zip(found, order, query_clusters, strict=True):
        met, taken = {cluster}, 0
        for row in ranked:
            if pool_clusters[row] not in met:
                met.add(pool_clusters[row])
                place[taken], taken = row, taken + 1
                if taken == count:
                    break
    return found


WAYS: dict[str, Callable[..., Indices]] = {
    "sort the pool for every query, walk over the lists": sorting,
    "look for the hardest, as often as negatives are needed (`mining.hard_negatives`)": hard_negatives,
}


def peak(name: str, threads: int, sizes: tuple[int, ...]) -> tuple[int, int]:
    """Bytes of resident memory of this process, with the descriptors at rest and at the most while it goes a way."""
    torch.set_num_threads(threads)
    search = drawn(*sizes)
    give_back_at(2**16)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    WAYS[name](*search)
    return before, resident("VmHWM")


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    sizes = options.queries, options.pool, options.clusters, options.dim, options.negatives
    memory = {}
    for name in WAYS:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            memory[name] = process.submit(peak, name, options.threads, sizes).result()
    search = drawn(*sizes)
    taken = seconds({name: partial(way, *search) for name, way in WAYS.items()}, options.repeats)
    theirs, ours = (way(*search) for way in WAYS.values())
    clock, cpu = (sum(each) for each in zip(*taken.values(), strict=True))
    lines = [
        "# Hard negatives",
        "",
        f"{options.queries:,} queries, {options.pool:,} pool photos of {options.clusters} clusters, {options.dim} "
        f"float32 each ({4e-6 * options.pool * options.dim:.0f} MB for the pool); {options.negatives} negatives a "
        f"query, each of a cluster of its own. {len(os.sched_getaffinity(0))} CPU cores, {options.threads} "
        f"thread{'s' * (options.threads > 1)}, NumPy {np.__version__}, torch {torch.__version__}; medians of "
        f"{options.repeats} turns.",
        "",
        "| | seconds | CPU seconds | at rest GB | peak GB |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {name} | {taken[name][0]:.2f} | {taken[name][1]:.2f} | {before / 1e9:.2f} | {most / 1e9:.2f} |"
            for name, (before, most) in memory.items()
        ),
        "",
        f"The same negatives: {100 * (ours == theirs).mean():.2f} %. Memory is resident: at rest the descriptors and "
        f"the libraries, at the peak all together. While these were timed the process was given {cpu / clock:.1f} "
        "cores.",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "mining_cpu.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mining", description=__doc__)
    parser.add_argument("--queries", type=int, default=2000, metavar="Q")
    parser.add_argument("--pool", type=int, default=22_000, metavar="M")
    parser.add_argument("--clusters", type=int, default=551, metavar="C")
    parser.add_argument("--dim", type=int, default=2048, metavar="d")
    parser.add_argument("--negatives", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="T")
    parser.add_argument("--repeats", type=int, default=5, metavar="R")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    return parser.parse_args()


if __name__ == "__main__":
    main()
