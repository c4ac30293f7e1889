"""Tiny real objects: photos on disk, timm's smallest models."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

torch.set_num_threads(1)
os.environ["RETRIEVAL_CACHE"] = tempfile.mkdtemp(prefix="retrieval-tests-")  # what a test keeps is no other's
settings.register_profile("any machine", deadline=None)  # timing is no claim of a test
settings.load_profile("any machine")

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photos, ground truth and weights, where they lie beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real data that may lie at {SHARED}")
    return SHARED


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four landmarks, five JPEGs each, of several shapes: noise that is smooth and alike within a landmark."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    shapes = [(96, 64), (64, 96), (80, 80), (96, 64), (64, 48)]
    for landmark in ("arch", "bridge", "castle", "dome"):
        (root / landmark).mkdir()
        pattern = rng.uniform(0, 255, (6, 6, 3))
        for i, size in enumerate(shapes):
            pixels = np.clip(pattern + rng.normal(0, 25, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(root / landmark / f"{i}.jpg")
    return root


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run's folder under tmp_path / "runs"."""

    def write(name: str, *rows: Any, rankings: Any = None, history: str = "", config: str = "seed: 0\n") -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(config)
        (folder / "results.json").write_text(json.dumps(rows))
        if rankings:
            (folder / "rankings.json").write_text(json.dumps(rankings))
        if history:
            (folder / "metrics.csv").write_text(history)
        return folder

    return write
