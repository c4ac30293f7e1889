"""Recipes: what they promise, what their authors published, and a step of training on a small copy of the data."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval import training
from retrieval.config import CONFIGS, compose, load_yaml
from retrieval.plan import read

EXPERIMENT = CONFIGS / "experiment"
RECIPES = sorted(EXPERIMENT.glob("*/*.yaml"))
PAPER = sorted(path.stem for path in EXPERIMENT.glob("train/radenovic2018_*.yaml"))
PROMISE = ["command", "hardware", "time", "expect"]
CLUSTERS, OF_EACH = 12, 5
SMALL = [
    "backbone.name=test_resnet",
    "backbone.pretrained=false",
    "sampler.queries=10",
    "sampler.pool=60",
    "data.workers=0",
    "extract.workers=0",
    "trainer.max_steps=1",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "logger=csv",
]


def shown(path: Path, landmark: int) -> None:
    """A tiny JPEG: noise that is alike within a landmark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern = np.random.default_rng(landmark).uniform(0, 255, (4, 5, 3))
    pixels = np.clip(pattern + np.random.default_rng(list(path.name.encode())).normal(0, 25, pattern.shape), 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).resize((40, 32)).save(path, "JPEG")


def models(root: Path, first: int) -> dict[str, Any]:
    """Photos of 3D models below root/ims as retrieval-SfM-120k lists them, each paired with another of its model."""
    numbers = range(first, first + CLUSTERS * OF_EACH)
    cids = [f"{number * 7919:032x}"[::-1] for number in numbers]
    clusters = [number // OF_EACH for number in numbers]
    for cid, cluster in zip(cids, clusters, strict=True):
        shown(root / "ims" / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid, cluster)
    queries = np.arange(len(cids))
    positives = queries // OF_EACH * OF_EACH + (queries + 1) % OF_EACH
    return {"cids": cids, "cluster": clusters, "bbxs": [None] * len(cids), "qidxs": queries, "pidxs": positives}


def benchmark(root: Path, name: str) -> None:
    """Four photos of two landmarks and a query of each, in the layout of Revisited Oxford."""
    images, queries = [f"{name}_{i}" for i in range(4)], [f"{name}_query_{i}" for i in range(2)]
    for i, image in enumerate([*images, *queries]):
        shown(root / name / "jpg" / f"{image}.jpg", i % 2)
    answers = [{"bbx": [2, 2, 38, 30], "easy": [i], "hard": [2 + i], "junk": []} for i in range(2)]
    truth = {"imlist": images, "qimlist": queries, "gnd": answers}
    (root / name / f"gnd_{name}.pkl").write_bytes(pickle.dumps(truth))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SfM-120k and both benchmarks, small."""
    root = tmp_path_factory.mktemp("data")
    train, held_out = (models(root / "sfm120k", first) for first in (0, CLUSTERS * OF_EACH))
    for name, stored in (("120k", {"train": train, "val": held_out}), ("120k-whiten", train)):
        (root / "sfm120k" / f"retrieval-SfM-{name}.pkl").write_bytes(pickle.dumps(stored))
    for name in ("roxford5k", "rparis6k"):
        benchmark(root, name)
    return root


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_opens_with_its_promise(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    assert re.findall(r"^# (command|hardware|time|expect) ", text, re.MULTILINE) == PROMISE
    command = text.split("# command   ")[1]
    assert command.startswith(("make ", f"python {path.parent.name}.py experiment={path.stem}"))


def test_what_is_trained_by_the_paper_is_judged_as_published_too() -> None:
    assert sorted(path.stem for path in EXPERIMENT.glob("eval/radenovic2018_*.yaml")) == PAPER


@pytest.mark.parametrize(
    ("name", "loss", "margin", "negatives", "pool", "resolution", "rate"),
    [
        ("resnet101", "TupleContrastive", 0.85, 5, 22000, 362, 5e-7),
        ("vgg16", "TupleContrastive", 0.75, 5, 22000, 362, 5e-7),
        ("resnet50_w", "TupleTriplet", 0.5, 5, 20000, 1024, 1e-6),
        ("resnet101_w", "TupleTriplet", 0.5, 4, 20000, 1024, 5e-7),
        ("resnet152_w", "TupleTriplet", 0.5, 3, 20000, 900, 5e-7),
    ],
)
def test_settings_are_those_the_authors_publish(
    name: str, loss: str, margin: float, negatives: int, pool: int, resolution: int, rate: float, tmp_path: Path
) -> None:
    cfg = compose("train", [f"experiment=radenovic2018_{name}"], tmp_path)
    assert (cfg.loss._target_, cfg.loss.margin) == (f"retrieval.losses.{loss}", margin)
    assert (cfg.sampler.queries, cfg.sampler.pool, cfg.sampler.tuples) == (2000, pool, 5)
    assert (cfg.sampler.negatives, cfg.data.resolution, cfg.data.aspect) == (negatives, resolution, "native")
    assert (cfg.optimizer._target_, cfg.optimizer.lr, cfg.optimizer.weight_decay) == ("torch.optim.Adam", rate, 1e-6)
    assert (cfg.data.crop, cfg.data.flip, cfg.data.jitter, cfg.data.bucket) == (1, False, 0, 1)
    assert (cfg.trainer.max_epochs, cfg.schedule.rate, cfg.lr_multipliers.p) == (100, 0.01, 10)
    assert cfg.freeze_batchnorm and cfg.backbone.pretrained


@pytest.mark.filterwarnings("ignore:learned whitening")  # of more dimensions than there are pairs
@pytest.mark.parametrize("name", PAPER)
def test_a_step_is_trained_and_judged_on_a_small_copy(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVAL_DATA", str(data))
    layer = ["head.out_dim=2"] if name.endswith("_w") else []  # all would whiten so few pairs that no loss is left
    cfg = compose("train", [f"experiment={name}", *SMALL, *layer, f"cache={tmp_path}"], tmp_path / "run")
    rows = [row for row in training.fit(cfg) if not row["untrained"]]
    assert {row["benchmark"] for row in rows} == {"roxford5k", "rparis6k"}
    assert all(row["scales"] == list(cfg.extract.scales) and row["resolution"] == 1024 for row in rows)
    assert all((row["whitening"] or "").startswith("learned") != bool(layer) for row in rows)
    assert abs(rows[0]["p"] - 3) == pytest.approx(10 * cfg.optimizer.lr, rel=0.1)  # one step of Adam


@pytest.mark.parametrize("name", ["gem_vs_gap", "gem_vs_gap_photos", "gem_vs_gap_sfm120k"])
def test_a_study_is_four_poolings_with_three_seeds(name: str) -> None:
    study = load_yaml(EXPERIMENT / "train" / f"{name}.yaml").hydra
    assert study.sweeper.params == {"pooling": "gap,max,gem,strided_conv", "seed": "0,1,2"}
    assert (study.mode, study.sweep.dir) == ("MULTIRUN", f"runs/{name}")


def test_a_study_runs_by_the_name_of_its_recipe_alone(photos: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / "photos" / part).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / part).symlink_to(photos)
    sweep = tmp_path / "sweep"
    words = [
        "backbone=timm",
        "backbone.name=test_resnet",
        "backbone.weights=null",
        "seed=0",
        "pooling=gap,gem",
        "logger=csv",
    ]
    small = ["data.resolution=64", "extract.resolutions=[48]", "sampler.landmarks=2", "sampler.photos=2"]
    here = [
        f"hydra.sweep.dir={sweep}",
        f"cache={tmp_path}",
        "trainer.max_steps=1",
        "evaluate_untrained=false",
        "logger=csv",
    ]
    call = [sys.executable, "train.py", "experiment=gem_vs_gap_photos", "logger=csv", *words, *small, *here]
    environment = {**os.environ, "PHOTOS": str(tmp_path / "photos"), "WEIGHTS": "none"}
    subprocess.run(call, cwd=CONFIGS.parent, env=environment, check=True, capture_output=True)
    assert [json.loads((sweep / job.folder / "results.json").read_text())[0]["pooling"] for job in read(sweep)] == [
        "gap",
        "gem",
    ]
