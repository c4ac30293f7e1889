"""What the jobs of a sweep have in common is computed once, and their rows are those of jobs on their own."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

from retrieval import companions, config, evaluation, extraction
from retrieval.data.images import Photo
from retrieval.results import Row
from retrieval.subjects import plain
from tests.small_runs import tiny

ROOT = Path(__file__).parent.parent
POOLINGS = [["pooling=gap"], ["pooling=gem", "pooling.p=5"], ["pooling=strided_conv", "seed=3"], ["pooling=cls"]]
OWN = ("seconds", "poolings_in_pass", "config", "per_query")  # of a row: how it was come by, and where it lies


def judging(photos: Path, folder: Path, *words: str) -> DictConfig:
    given = ["backbone=timm", "backbone.name=test_resnet", "benchmark=folder", f"benchmark.folder.root={photos}"]
    given += ["extract.resolutions=[48,64]", "extract.workers=0", f"cache={folder.parent / 'cache'}"]
    return config.compose("eval", [*given, *words], folder)


def sweep(folder: Path, jobs: Sequence[DictConfig]) -> None:
    """The plan of a sweep whose jobs are still to be done."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [Path(cfg.output_dir).name for cfg in jobs]
    told = [{"job": i, "folder": name, "state": "waiting"} for i, name in enumerate(names)]
    (folder / "sweep.json").write_text(json.dumps({"script": "eval", "jobs": told}))
    (folder / "configs.json").write_text(json.dumps(dict(zip(names, map(plain, jobs), strict=True))))


def weighted(photos: Path, folder: Path) -> str:
    """The word that gives every job one backbone, whatever its seed."""
    evaluation.from_config(judging(photos, folder / "weights"), set())
    state = {k.removeprefix("backbone.model."): v for k, v in load_file(folder / "weights/model.safetensors").items()}
    save_file({k: v for k, v in state.items() if not k.startswith("pooling")}, folder / "backbone.safetensors")
    return f"backbone.weights={folder / 'backbone.safetensors'}"


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """The photos that pass a backbone while a test runs, with how many models the pass serves."""
    seen: list[tuple[int, str]] = []
    vectors = extraction.vectors

    def noting(models: Any, photos: Sequence[Photo], *rest: Any) -> Iterator[Any]:
        for indices, rows in vectors(models, photos, *rest):
            seen.extend((len(models), photos[i].path) for i in indices)
            yield indices, rows

    monkeypatch.setattr(extraction, "vectors", noting)
    return seen


def same(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in OWN}


def test_the_jobs_of_a_sweep_read_each_photo_once_a_resolution(
    photos: Path, tmp_path: Path, passed: list[tuple[int, str]]
) -> None:
    weights = weighted(photos, tmp_path)
    jobs = [judging(photos, tmp_path / f"sweep/{i}", weights, *words) for i, words in enumerate(POOLINGS[:3])]
    sweep(tmp_path / "sweep", jobs)
    passed.clear()
    for job in jobs:
        evaluation.from_config(job, set())
    assert [count for count, _ in passed] == [3] * 20 * 2 and len(set(passed)) == 20


def test_rows_of_a_sweep_are_those_of_jobs_on_their_own(photos: Path, tmp_path: Path) -> None:
    weights = weighted(photos, tmp_path)
    jobs = [judging(photos, tmp_path / f"sweep/{i}", weights, *words) for i, words in enumerate(POOLINGS[:3])]
    sweep(tmp_path / "sweep", jobs)
    for i, (job, words) in enumerate(zip(jobs, POOLINGS[:3], strict=True)):
        shared = evaluation.from_config(job, set())
        alone = evaluation.from_config(
            judging(photos, tmp_path / f"alone/{i}", weights, *words, f"cache={tmp_path / str(i)}"), set()
        )
        assert [same(row) for row in shared] == [same(row) for row in alone]
