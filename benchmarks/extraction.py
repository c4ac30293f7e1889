"""What describing photos costs beside the field's loop: `python -m benchmarks.extraction --root DIR`.

The plain loop is that of cnnimageretrieval-pytorch: one photo after another, one scale after another, float32,
channels first. Everything else is `extraction.describe_each`. All see the same files and weights, decode and resize
alike, and take turns in one process, so that what else the machine does falls on all of them alike.
"""

import argparse
import copy
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import __version__ as pillow
from torch import Tensor

from retrieval import config, embedder, extraction, scales
from retrieval.data import images, tensors
from retrieval.data.folder import read
from retrieval.data.images import Photo
from retrieval.embedder import Embedder
from retrieval.extraction import Extract, describe_each

Rows = NDArray[np.float32]
HEAD = ["| what | seconds | times as fast | CPU seconds | times as few | photos/s | mean cosine | least |"]
HEAD += ["| --- " + "| ---: " * 7 + "|"]


def gem(x: Tensor, p: Tensor, eps: float) -> Tensor:
    """GeM as the field writes it: (B, D, H, W) -> (B, D)."""
    return F.avg_pool2d(x.clamp(min=eps).pow(p), x.shape[-2:]).pow(1 / p).flatten(1)


@torch.no_grad()
def plain(network: Any, model: Embedder, photos: Sequence[Photo], extract: Extract, last: bool = False) -> Rows:
    """The field's loop, (N, d); network: timm's model, its channels last if `last`."""
    device, m = extraction.device_of(extract.device), model.pooling.p
    rows = torch.zeros(len(photos), model.dim)
    for row, photo in zip(rows, photos, strict=True):
        size = images.target_size(photo, extract.resolutions[0], model.backbone.multiple)
        pixels = model.normalised(images.resized(images.decode(photo), size))[None].contiguous().to(device)
        for scale in extract.scales:
            x, _ = scales.rescaled(pixels, scale, model.backbone.multiple)
            x = x.contiguous(memory_format=torch.channels_last) if last else x
            vector = F.normalize(gem(network.forward_features(x), model.pooling.p, model.pooling.eps))[0]
            row += vector.pow(m).cpu() if len(extract.scales) > 1 else vector.cpu()
        row.copy_(F.normalize((row / len(extract.scales)).pow(1 / m.cpu()) if len(extract.scales) > 1 else row, dim=0))
    return rows.numpy()


def decoded(photos: Sequence[Photo], resolution: int, multiple: int) -> Rows:
    """Nothing but decoding and resizing; one number."""
    sizes = [images.target_size(photo, resolution, multiple) for photo in photos]
    pixels = [tensors.to_bytes(images.resized(images.decode(p), s)) for p, s in zip(photos, sizes, strict=True)]
    return np.array([[len(pixels)]], dtype=np.float32)


def network_alone(model: Embedder, photos: Sequence[Photo], extract: Extract) -> Callable[[], Rows]:
    """The network on batches that lie on its device already, normalised; rows in the order of the batches."""
    device, dtype = extraction.device_of(extract.device), extraction.DTYPES[extract.dtype]
    plan = extraction.plan(model, photos, extract.resolutions[0], extract)
    loader = extraction.loaded(model, photos, plan, extract.resolutions[0], extract)
    batches = [extraction.on_device(batch, model.backbone, device) for batch in loader]

    @torch.no_grad()
    def run() -> Rows:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            each = [scales.multi_scale([model], x, extract.scales, sizes=sizes)[0] for x, sizes in batches]
        return torch.cat(each).float().cpu().numpy()

    return run


def passes(model: Embedder, photos: Sequence[Photo], base: Extract, options: argparse.Namespace) -> dict[str, Any]:
    """What takes turns, the plain loop first: name -> callable that gives (N, d)."""
    device, side = extraction.device_of(base.device), base.resolutions[0]
    model.to(device)
    first = copy.deepcopy(model.backbone.model).to(memory_format=torch.contiguous_format)
    last = copy.deepcopy(first).to(memory_format=torch.channels_last)

    def ours(**changed: Any) -> Callable[[], Rows]:
        return lambda: describe_each([model], photos, side, replace(base, **changed))[0]

    chosen: dict[str, Any] = {
        "plain loop": lambda: plain(first, model, photos, base),
        "plain loop, channels last": lambda: plain(last, model, photos, base, last=True),
        "describe, batches of 1": ours(batch_size=1),
    }
    for size in options.batch_sizes:
        chosen[f"describe, batches of {size}"] = ours(batch_size=size)
    best = options.batch_sizes[-1]
    chosen[f"padded batches of {best}"] = ours(batch_size=best, aspect="padded")
    for size in options.batch_sizes:
        chosen[f"bfloat16, batches of {size}"] = ours(batch_size=size, dtype="bfloat16")
    chosen[f"bfloat16, batches of {best}, {options.workers} workers"] = ours(
        batch_size=best, dtype="bfloat16", workers=options.workers
    )
    if options.compile:
        chosen[f"compiled, batches of {best}"] = ours(batch_size=best, compile=True)
        chosen[f"compiled, bfloat16, batches of {best}"] = ours(batch_size=best, compile=True, dtype="bfloat16")
    if device.type == "cuda":
        alone = replace(base, batch_size=best, dtype="bfloat16")
        chosen[f"network alone, bfloat16, batches of {best}"] = network_alone(model, photos, alone)
    return chosen


def measured(chosen: Mapping[str, Callable[[], Rows]], repeats: int) -> tuple[dict[str, Rows], dict[str, NDArray]]:
    """What each gives, and its seconds by the clock and of the CPU, (repeats, 2); a turn before is not counted."""
    rows: dict[str, Rows] = {}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for _ in range(repeats + 1):
        for name, run in chosen.items():
            clock, cpu = time.perf_counter(), time.process_time()
            rows[name] = run()
            taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return rows, {name: np.array(each[1:]) for name, each in taken.items()}


def table(rows: Mapping[str, Rows], taken: Mapping[str, NDArray], photos: int) -> list[str]:
    """A line each; 'times' are medians of the ratios within a turn."""
    plain_rows, plain_taken = rows["plain loop"], taken["plain loop"]
    lines = list(HEAD)
    for name, each in taken.items():
        (clock, cpu), (fast, few) = np.median(each, axis=0), np.median(plain_taken / each, axis=0)
        cosine = "| | |"
        if rows[name].shape == plain_rows.shape and not name.startswith("network alone"):  # that has another order
            near = (rows[name] * plain_rows).sum(1)
            cosine = f"| {near.mean():.6f} | {near.min():.6f} |"
        lines.append(f"| {name} | {clock:.2f} | {fast:.2f} | {cpu:.2f} | {few:.2f} | {photos / clock:.1f} {cosine}")
    return lines


def section(word: str, photos: Sequence[Photo], base: Extract, options: argparse.Namespace) -> list[str]:
    """Heading, what was run, table of one network; word: NAME or NAME=FILE of its weights."""
    name, _, weights = word.partition("=")
    words = [f"backbone={name}", "pooling=gem", *([f"backbone.weights={weights}"] if weights else [])]
    torch.manual_seed(0)
    model = embedder.from_config(config.compose("eval", words, "unused")).eval()
    multiple, side = model.backbone.multiple, base.resolutions[0]
    shapes = images.target_sizes(photos, side, multiple)
    chosen = passes(model, photos, base, options)
    chosen["decoding and resizing alone"] = lambda: decoded(photos, side, multiple)
    rows, taken = measured(chosen, options.repeats)
    others = (rows["plain loop"].sum(0) ** 2).sum() - len(photos)
    return [
        "",
        f"## {name}, {'weights of ' + Path(weights).name if weights else 'weights at random, seed 0'}",
        "",
        f"{len(photos)} photos of {len(set(shapes))} shapes at {side} px, scales "
        f"{', '.join(f'{scale:.4g}' for scale in base.scales)}. Two photos have a mean cosine of "
        f"{others / (len(photos) * (len(photos) - 1)):.3f}; those of the table are to the plain loop.",
        "",
        *table(rows, taken, len(photos)),
    ]


def main() -> None:
    options = parsed()
    photos = read(str(options.root)).photos
    photos = [photos[i] for i in np.linspace(0, len(photos) - 1, min(options.photos, len(photos))).astype(int)]
    base = Extract(
        [options.resolution], options.scales, batch_size=1, workers=options.base_workers, device=options.device
    )
    device = extraction.device_of(options.device)
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    lines = [
        "# Describing photos",
        "",
        f"{len(os.sched_getaffinity(0))} CPU cores, {options.threads} threads{gpu}; torch {torch.__version__}, timm "
        f"{timm.__version__}, Pillow {pillow}; medians of {options.repeats} turns. GeM, one photo's scales joined as "
        "in the paper; decoding, resizing, network and pooling. 'Times as fast' is by the clock, 'times as few' by "
        "the seconds of the CPU (worker processes not counted), both of the plain loop in the same turn.",
    ]
    torch.set_num_threads(options.threads)
    for word in options.backbone:
        lines += section(word, photos, base, options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"extraction_{device.type}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def parsed() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description=__doc__)
    add = parser.add_argument
    add("--root", type=Path, required=True, metavar="DIR", help="photos as <landmark>/<image>")
    add("--backbone", nargs="+", default=["resnet50"], metavar="NAME[=FILE]", help="YAMLs of configs/backbone, weights")
    add("--photos", type=int, default=96, metavar="N", help="how many, evenly spread (default: 96)")
    add("--resolution", type=int, default=1024, metavar="PX", help="longer side; never enlarged (default: 1024)")
    add("--scales", type=float, nargs="+", default=[1.0, 2**-0.5, 0.5], metavar="S")
    add("--batch-sizes", type=int, nargs="+", default=[16] if gpu else [2, 4], metavar="N")
    add("--workers", type=int, default=8 if gpu else 1, metavar="N", help="of the row with workers")
    add("--base-workers", type=int, default=8 if gpu else 0, metavar="N", help="of the others but the plain loop")
    add("--compile", action="store_true", help="rows with torch.compile, which take minutes before their first turn")
    add("--device", default="auto")
    add("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    add("--repeats", type=int, default=3, metavar="N")
    add("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    return parser.parse_args()


if __name__ == "__main__":
    main()
