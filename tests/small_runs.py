"""What the tests of training share: a run of seconds, and the curves that it leaves."""

import csv
from pathlib import Path

from omegaconf import DictConfig

from retrieval import config

TINY = [
    "backbone=timm",
    "backbone.name=test_resnet",
    "data=folder",
    "data.resolution=64",
    "sampler.landmarks=2",
    "data.workers=0",
    "sampler.photos=2",
    "benchmark=folder",
    "extract.resolutions=[48]",
    "extract.workers=0",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "logger=csv",
    "evaluate_untrained=false",
    "optimizer.lr=1e-3",
]


def tiny(photos: Path, out: Path, *words: str) -> DictConfig:
    places = [f"data.root={photos}", f"benchmark.folder.root={photos}", f"cache={out.parent}"]
    return config.compose("train", [*TINY, *places, *words], out)


def columns(folder: Path) -> dict[str, list[float]]:
    with (folder / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}
