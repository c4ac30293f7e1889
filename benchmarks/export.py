"""A model taken away beside the model itself, in time: `python -m benchmarks.export --photos DIR --weights FILE`.

One photo at a time and 16, as bytes of 240 x 320 pixels: eager PyTorch, ONNX Runtime in float32 and int8, and the
program of torch.export, each with the same number of threads. They take turns in one process, and rest before each
turn, as the threads of the one before spin for a while. Then how long a fresh process takes until it has described
its first photo, beside one that imports torch and timm alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from numpy.typing import NDArray

from retrieval import config, embedder
from retrieval.data import images, tensors
from retrieval.data.folder import read
from retrieval.embedder import Embedder
from retrieval.export.checks import noise, squeezed
from retrieval.export.quantised import int8

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
HEIGHT, WIDTH = 240, 320
BATCHES = (1, 16)
HEAD = ["| what | " + " | ".join(f"ms, {b} | eager / this, {b}" for b in BATCHES) + " | MB | least cosine |"]
HEAD += ["| --- " + "| ---: " * (2 * len(BATCHES) + 2) + "|"]
IMPORT = "import torch, timm"
FIRST = """
import sys, torch
from PIL import Image
from retrieval.embedder import load
model = load(sys.argv[1])
with torch.no_grad():
    model(model.preprocess(Image.new("RGB", (320, 240), "grey"), 320)[None])
"""


def eager(model: Embedder) -> Run:
    @torch.no_grad()
    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return model(tensors.normalised(torch.from_numpy(pixels), model.backbone.mean, model.backbone.std)).numpy()

    return run


def onnx(file: Path, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run(None, {"images": pixels})[0])


def program(file: Path) -> Run:
    module = torch.export.load(file).module()

    @torch.no_grad()
    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return module(torch.from_numpy(pixels)).numpy()

    return run


def saved(model: Embedder, folder: Path, batches: list[NDArray[np.uint8]]) -> dict[str, Path]:
    """The files of a model, by what they are."""
    from retrieval.export.files import save_onnx, save_torch_export
    from retrieval.export.graph import exported, spec_of, taken
    from retrieval.export.wanted import Wanted

    wanted = Wanted(size=(HEIGHT, WIDTH))
    out = exported(taken(model, wanted), wanted, model)
    spec = spec_of(model, wanted, out, max(HEIGHT, WIDTH), model.backbone.name)
    files = {"ONNX": folder / "m.onnx", "ONNX, int8": folder / "m.int8.onnx", "torch.export": folder / "m.pt2"}
    save_onnx(out, spec, wanted, files["ONNX"])
    save_torch_export(out, spec, files["torch.export"])
    int8(files["ONNX"], files["ONNX, int8"], batches, spec)
    return files


def medians(runs: Mapping[str, Run], pixels: NDArray[np.uint8], rounds: int, calls: int, rest: float) -> dict:
    """Median milliseconds of a call; all in each round, each after a rest and a call that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(rest)
            run(pixels)
            for _ in range(calls):
                start = time.perf_counter()
                run(pixels)
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def table(model: Embedder, batches: list[NDArray[np.uint8]], options: argparse.Namespace) -> list[str]:
    photos = np.stack([squeezed(one[0], HEIGHT, WIDTH) for one in batches[: max(BATCHES)]])
    with tempfile.TemporaryDirectory() as folder:
        files = saved(model, Path(folder), batches)
        runs: dict[str, Run] = {"eager PyTorch": eager(model)}
        runs |= {
            name: program(file) if file.suffix == ".pt2" else onnx(file, options.threads)
            for name, file in files.items()
        }
        sizes = {name: f"{file.stat().st_size / 1e6:.1f}" for name, file in files.items()}
        each = [
            medians(runs, photos[:batch], options.rounds, 5 if batch == 1 else 1, options.rest) for batch in BATCHES
        ]
    rows = {name: run(photos) for name, run in runs.items()}
    lines = list(HEAD)
    for name, made in rows.items():
        times = " | ".join(f"{one[name]:.1f} | {one['eager PyTorch'] / one[name]:.2f}" for one in each)
        cosine = (made * rows["eager PyTorch"]).sum(1).min()
        lines.append(f"| {name} | {times} | {sizes.get(name, '')} | {cosine:.5f} |")
    return lines


def starting(model: Embedder, cfg: Any, rounds: int) -> list[str]:
    """How long a fresh process takes to import torch and timm, and to describe a first photo."""
    with tempfile.TemporaryDirectory() as folder:
        embedder.save(model, cfg, Path(folder))
        codes = {f"`{IMPORT}`": [IMPORT], "`embedder.load` of its folder, first descriptor": [FIRST, folder]}
        taken: dict[str, list[float]] = {name: [] for name in codes}
        for _ in range(rounds + 1):
            for name, words in codes.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, "-c", *words], check=True)
                taken[name].append(time.perf_counter() - start)
    lines = ["| fresh process | seconds |", "| --- | ---: |"]
    return lines + [f"| {name} | {statistics.median(times[1:]):.2f} |" for name, times in taken.items()]


def calibration(root: Path | None, count: int) -> list[NDArray[np.uint8]]:
    """Photos one by one: of a folder `<landmark>/<image>`, evenly spread, or of noise."""
    if root is None:
        rng = np.random.default_rng(1)
        return [noise(rng, HEIGHT, WIDTH)[None] for _ in range(count)]
    photos = read(str(root)).photos
    photos = [photos[i] for i in np.linspace(0, len(photos) - 1, min(count, len(photos))).astype(int)]
    sized = [images.resized(images.decode(one), images.target_size(one, max(HEIGHT, WIDTH))) for one in photos]
    return [np.array(image).transpose(2, 0, 1)[None] for image in sized]


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    batches = calibration(options.photos, 32)
    lines = [
        "# A model taken away",
        "",
        f"{len(os.sched_getaffinity(0))} CPU cores, {options.threads} threads; torch {torch.__version__}, timm "
        f"{timm.__version__}, onnxruntime {onnxruntime.__version__}; medians of {options.rounds} rounds. Bytes of "
        f"{HEIGHT} x {WIDTH} pixels in, unit rows out; GeM.",
    ]
    for name, weights in (("mobilenetv2_tf", options.weights), ("resnet50", None)):
        words = [f"backbone={name}", "pooling=gem", *([f"backbone.weights={weights}"] if weights else [])]
        torch.manual_seed(0)
        cfg = config.compose("eval", words, "unused")
        model = embedder.from_config(cfg).eval()
        title = f"## {name}, {'weights of ' + Path(weights).name if weights else 'weights at random, seed 0'}"
        lines += ["", title, "", *table(model, batches, options)]
        if name == "mobilenetv2_tf":
            lines += ["", *starting(model, cfg, 5)]
        print("\n".join(lines), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "export_cpu.md").write_text("\n".join(lines) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    add = parser.add_argument
    add("--photos", type=Path, metavar="DIR", help="<landmark>/<image> to calibrate int8 on; noise without")
    add("--weights", metavar="FILE", help="of mobilenetv2_tf; at random without")
    add("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    add("--rounds", type=int, default=11, metavar="N")
    add("--rest", type=float, default=0.2, metavar="S", help="seconds before each turn (default: 0.2)")
    add("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    return parser.parse_args()


if __name__ == "__main__":
    main()
