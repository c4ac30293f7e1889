"""What a step of training costs beside a bare loop: `python -m benchmarks.training`.

The framework's steps are those of `training.fit` as train.py calls it: data module, LightningModule, Trainer, the
callbacks and the logger of metrics.csv. The bare loop is what one would write for the same model, photos, augmentation
and loss and no more: no logs, no checks, no schedule. Both take turns within one training, a few steps each, so that
what else the machine does falls on both alike.
"""

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.extraction import gem
from retrieval import config, parts, training
from retrieval.data.batching import Batches
from retrieval.data.loading import TrainingBatch, TrainingPhotos, collated
from retrieval.data.module import LandmarkData

LANDMARKS, PHOTOS = 8, 4  # of a batch
MARGIN, SCALE = 28.6, 64.0  # of ArcFace, as in configs/loss/arcface.yaml
WARM_UP = 3  # turns that are not counted


class Bare:
    """The bare loop: timm's network, GeM, L2, ArcFace, AdamW. module: whose weights it starts from."""

    def __init__(self, module: Any, data: LandmarkData, lr: float) -> None:
        self.backbone, self.device = module.embedder.backbone, module.device
        self.bfloat16 = module.trainer.precision == "bf16-mixed"
        self.network = copy.deepcopy(self.backbone.model).train()
        for layer in self.network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        self.p = nn.Parameter(module.embedder.p.clone())
        (self.classes,) = (nn.Parameter(weight.detach().clone()) for weight in module.objective.parameters())
        self.optimizer = torch.optim.AdamW([*self.network.parameters(), self.p, self.classes], lr, weight_decay=1e-4)
        self.batches = self.drawn(data)

    def drawn(self, data: LandmarkData) -> Iterator[TrainingBatch]:
        """The batches that the framework trains on, by torch's own loader."""
        loader = DataLoader(
            TrainingPhotos(data.train, data.labels, data.augment),
            batch_sampler=Batches(data.sampler, data.resolutions, data.batches.seed),  # pyright: ignore
            collate_fn=collated,
            num_workers=data.workers,
            pin_memory=self.device.type == "cuda",
        )
        while True:
            yield from loader

    def step(self) -> Tensor:
        """One step; its loss."""
        batch = next(self.batches)
        mean, std = (
            torch.tensor(v, device=self.device)[:, None, None] for v in (self.backbone.mean, self.backbone.std)
        )
        pixels: Any = batch.pixels[0]
        x = (pixels.to(self.device, non_blocking=True).float() / 255 - mean) / std
        labels = batch.labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            features = self.network.forward_features(x)
        loss = arcface(F.normalize(gem(features.float(), self.p, 1e-6)), labels, self.classes)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def arcface(x: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Deng et al., CVPR 2019, eq. 3: unit rows x (B, d), labels (B,), classes (d, C)."""
    cosines = x @ F.normalize(classes, dim=0)
    moved = torch.cos(torch.acos(cosines.clamp(-1 + 1e-7, 1 - 1e-7)) + np.deg2rad(MARGIN))
    own = F.one_hot(labels, classes.shape[1]).bool()
    return F.cross_entropy(SCALE * torch.where(own, moved, cosines), labels)


class Beside(pl.Callback):
    """After every `turn` steps of the framework, as many of the bare loop; taken: seconds of both by two clocks."""

    def __init__(self, turn: int, lr: float) -> None:
        self.turn, self.lr = turn, lr
        self.taken: list[tuple[NDArray, NDArray]] = []
        self.losses: list[tuple[float, float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.bare = Bare(pl_module, trainer.datamodule, self.lr)  # pyright: ignore[reportAttributeAccessIssue]
        self.began = clocks()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, index: int) -> None:
        if (index + 1) % self.turn:
            return
        changed = clocks()
        losses = [self.bare.step() for _ in range(self.turn)]
        ended = clocks()
        self.taken.append((changed - self.began, ended - changed))
        self.losses.append((float(outputs["loss"]), float(losses[-1])))
        self.began = clocks()


def clocks() -> NDArray:
    """Seconds by the clock and of the CPU, when the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def drawn(root: Path, landmarks: int, photos: int, side: int) -> None:
    """JPEGs of smooth noise, <root>/<landmark>/<photo>, their longer side a third above `side`."""
    rng = np.random.default_rng(0)
    for landmark in range(landmarks):
        (root / f"{landmark:04}").mkdir(parents=True)
        pattern = rng.uniform(0, 255, (12, 12, 3))
        for photo in range(photos):
            pixels = np.clip(pattern + rng.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
            size = (side * 4 // 3, side)
            file = root / f"{landmark:04}" / f"{photo:02}.jpg"
            Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, quality=90)


def trained(options: argparse.Namespace, folder: Path) -> Beside:
    """One training of one epoch, with the bare loop beside it."""
    steps = options.turn * (options.turns + WARM_UP)
    drawn(folder / "train", LANDMARKS * 4, steps * PHOTOS // 4, options.resolution)
    drawn(folder / "test", 2, 3, options.resolution)
    words = [
        f"backbone={options.backbone}", "backbone.pretrained=false", "pooling=gem", "loss=arcface",
        "data=folder", f"data.root={folder / 'train'}", f"data.resolution={options.resolution}",
        f"data.workers={options.workers}", f"sampler.landmarks={LANDMARKS}", f"sampler.photos={PHOTOS}",
        "benchmark=folder", f"benchmark.folder.root={folder / 'test'}", "extract.resolutions=[64]", "extract.workers=0",
        "schedule=constant", "trainer.max_epochs=1", f"trainer.precision={options.precision}", "logger=csv",
        "evaluate_untrained=false", f"cache={folder}",
    ]  # fmt: skip
    cfg = config.compose("train", words, folder / "run")
    beside, make = Beside(options.turn, float(cfg.optimizer.lr)), parts.trainer_of

    def with_the_bare_loop(*args: Any, **kwargs: Any) -> pl.Trainer:
        trainer = make(*args, **kwargs)
        trainer.callbacks.append(beside)  # pyright: ignore[reportAttributeAccessIssue]
        return trainer

    parts.trainer_of = with_the_bare_loop
    training.fit(cfg)
    return beside


def report(beside: Beside, options: argparse.Namespace) -> list[str]:
    """What was run, and a table."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    taken = np.array(beside.taken)[WARM_UP:] / options.turn * 1000
    (ours, bare), ratios = np.median(taken, axis=0), taken[:, 0] / taken[:, 1] - 1
    first = beside.losses[0]
    rows = [
        f"| {name} | {bare[i]:.1f} | {ours[i]:.1f} | {100 * np.median(ratios[:, i]):+.1f} % | "
        f"{100 * np.quantile(ratios[:, i], 0.25):+.1f} % to {100 * np.quantile(ratios[:, i], 0.75):+.1f} % |"
        for i, name in enumerate(("by the clock", "of the CPU"))
    ]
    return [
        "# A step of training",
        "",
        f"{len(os.sched_getaffinity(0))} CPU cores, {options.threads} threads{gpu}; torch {torch.__version__}, "
        f"Lightning {lightning.__version__}, timm {timm.__version__}. {options.backbone}, GeM, ArcFace, AdamW, "
        f"{options.precision}, {LANDMARKS} landmarks x {PHOTOS} photos at {options.resolution} px, "
        f"{options.workers} worker processes; {len(taken)} turns of {options.turn} steps of the bare loop and of the "
        f"framework. Overhead: median, and quartiles, of the framework's time over the bare loop's in the same turn. "
        f"The loss of turn 1 is {first[1]:.4f} and {first[0]:.4f}.",
        "",
        "| milliseconds a step | bare loop | framework | overhead | quartiles |",
        "| --- | ---: | ---: | ---: | ---: |",
        *rows,
    ]


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        lines = report(trained(options, Path(folder)), options)
    options.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    (options.out / f"training_{device}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def parsed() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    add = parser.add_argument
    add("--backbone", default="resnet50" if gpu else "resnet18", metavar="NAME", help="a YAML of configs/backbone")
    add("--resolution", type=int, default=362 if gpu else 160, metavar="PX")
    add("--precision", default="bf16-mixed" if gpu else "32-true")
    add("--workers", type=int, default=8 if gpu else 0, metavar="N", help="of each of the two loops")
    add("--turn", type=int, default=20 if gpu else 1, metavar="N", help="steps of a turn")
    add("--turns", type=int, default=10 if gpu else 60, metavar="N")
    add("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    add("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    return parser.parse_args()


if __name__ == "__main__":
    main()
