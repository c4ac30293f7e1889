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
from retrieval.extraction import Extract, describe_each

FEW = ["gap", "max", "gem", {"gem": {"p": 5}}]
FREE = [
    *FEW,
    {"gem": {"p": 2}},
    {"gem": {"p": 10}},
    "log_sum_exp",
    "rmac",
    "spatial_pyramid",
    {"spatial_pyramid": {"reduce": "max"}},
    "mean_token",
    "max_token",
    "last_token",
]  # without weights, or with p alone
EVERY = [*FREE, "regional_gem"]


def seconds(
    chosen: Mapping[str, Sequence[Embedder]], photos: Sequence[Photo], resolution: int, repeats: int
) -> dict[str, NDArray[np.float64]]:
    """Seconds by the clock and of the CPU, (repeats, 2), of each pass; one repeat before these is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for _ in range(repeats + 1):
        for name, models in chosen.items():
            clock, cpu = time.perf_counter(), time.process_time()
            describe_each(models, photos, resolution, Extract([resolution], workers=0, device="cpu"))
            taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return {name: np.array(each[1:]) for name, each in taken.items()}


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    photos = read(str(options.root)).photos
    photos = [photos[i] for i in np.linspace(0, len(photos) - 1, min(options.photos, len(photos))).astype(int)]
    words = [f"backbone={options.backbone}", f"backbone.weights={options.weights}"]
    listed = candidates.poolings(EVERY)
    models = embedder.sharing(config.compose("eval", words, "unused"), [pooling.cfg for pooling in listed])
    chosen = {"gap alone": models[:1]}
    for some in (FEW, FREE, EVERY):
        chosen[f"the first {len(some)}"] = models[: len(some)]
    lines = [
        "# Several poolings in one pass",
        "",
        f"{options.backbone}, {len(photos)} photos, batches of 16; decoding, resizing, backbone and poolings. "
        f"{len(os.sched_getaffinity(0))} CPU cores, {options.threads} threads, no workers, torch {torch.__version__}; "
        f"medians of {options.repeats} turns. Poolings: {', '.join(pooling.label for pooling in listed)}.",
        "",
        "| px | poolings | seconds | / gap alone | CPU seconds | / gap alone |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for resolution in options.resolutions:
        taken = seconds(chosen, photos, resolution, options.repeats)
        alone = np.median(taken["gap alone"], axis=0)
        for name, each in taken.items():
            (clock, cpu), (times, times_cpu) = np.median(each, axis=0), np.median(each, axis=0) / alone
            lines.append(f"| {resolution} | {name} | {clock:.2f} | {times:.2f} | {cpu:.2f} | {times_cpu:.2f} |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "one_pass.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_pass", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="photos as <landmark>/<image>")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="the backbone's weights")
    parser.add_argument("--backbone", default="mobilenetv2_tf", metavar="NAME", help="a YAML of configs/backbone")
    parser.add_argument("--photos", type=int, default=192, metavar="N", help="how many, evenly spread (default: 192)")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[224, 448], metavar="PX")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    return parser.parse_args()


if __name__ == "__main__":
    main()
