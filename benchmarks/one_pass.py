"""What several poolings in one pass cost beside one: `python -m benchmarks.one_pass --root DIR --weights FILE`.

The passes take turns in one process, so that what else the machine does falls on all of them alike; a pass is
decoding, resizing, the backbone and its poolings (`extraction.describe_each`, without worker processes). CPU seconds
stand beside those of the clock: on a machine that others use they vary far less.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval import candidates, config, embedder
from retrieval.data.folder import read
from retrieval.data.images import Photo
from retrieval.embedder import Embedder
from retrieval.extraction import describe_each

FREE = ["gap", "max", "gem", {"gem": {"p": 5}}, "log_sum_exp", "rmac"]  # without parameters, or with p alone


def passes(models: Mapping[str, Embedder]) -> dict[str, list[Embedder]]:
    """What is timed: the first pooling alone, all of them, and all but GeM, but R-MAC, but both."""
    without = {"": (), "gem": ("gem",), "rmac": ("rmac",), "gem and rmac": ("gem", "rmac")}
    first, *_ = models
    chosen = {f"{first} alone": [models[first]]}
    for words, left_out in without.items():
        kept = [model for label, model in models.items() if label.split(" ")[0] not in left_out]
        chosen[f"{len(kept)} poolings" + (f", without {words}" if words else "")] = kept
    return chosen


def seconds(
    chosen: Mapping[str, Sequence[Embedder]], photos: Sequence[Photo], resolution: int, repeats: int
) -> dict[str, NDArray[np.float64]]:
    """Seconds by the clock and of the CPU, (repeats, 2), of each pass; one repeat before these is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for _ in range(repeats + 1):
        for name, models in chosen.items():
            clock, cpu = time.perf_counter(), time.process_time()
            describe_each(models, photos, resolution, device="cpu")
            taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return {name: np.array(each[1:]) for name, each in taken.items()}


def main() -> None:
    options = parsed()
    photos = read(str(options.root)).photos
    photos = [photos[i] for i in np.linspace(0, len(photos) - 1, min(options.photos, len(photos))).astype(int)]
    words = [f"backbone={options.backbone}", f"backbone.weights={options.weights}"]
    cfg = config.compose("eval", words, "unused")
    listed = candidates.poolings(FREE)
    models = embedder.sharing(cfg, [pooling.cfg for pooling in listed])
    chosen = passes({pooling.label: model for pooling, model in zip(listed, models, strict=True)})
    print(f"{options.backbone}, {len(photos)} photos: {', '.join(pooling.label for pooling in listed)}")
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {torch.get_num_threads()} threads, no workers; medians of {options.repeats} repeats")
    for resolution in options.resolutions:
        taken = seconds(chosen, photos, resolution, options.repeats)
        alone = np.median(next(iter(taken.values())), axis=0)
        for name, each in taken.items():
            (clock, cpu), (times, times_cpu) = np.median(each, axis=0), np.median(each, axis=0) / alone
            print(f"{resolution:4} px  {name:34} {clock:7.3f} s {times:5.2f} x   CPU {cpu:7.3f} s {times_cpu:5.2f} x")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_pass", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="photos as <landmark>/<image>")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="the backbone's weights")
    parser.add_argument("--backbone", default="mobilenetv2_tf", metavar="NAME", help="a YAML of configs/backbone")
    parser.add_argument("--photos", type=int, default=96, metavar="N", help="how many, evenly spread (default: 96)")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[224, 320], metavar="PX")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    return parser.parse_args()


if __name__ == "__main__":
    main()
