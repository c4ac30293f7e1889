"""What the jobs of a sweep have in common is computed once, and their rows are those of jobs on their own."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retrieval import companions, config, evaluation, extraction, frozen, training, whitening
from retrieval.backbones import TimmBackbone
from retrieval.data.images import Photo
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.features import Features
from retrieval.heads import Whitening
from retrieval.parts import Parts
from retrieval.poolings import GeM, GlobalMax
from retrieval.results import Row
from retrieval.subjects import plain
from retrieval.sweep.sharing import saved
from retrieval.together import describe_together
from tests.small_runs import tiny

ROOT = Path(__file__).parent.parent
POOLINGS = [["pooling=gap"], ["pooling=gem", "pooling.p=5"], ["pooling=strided_conv", "seed=3"], ["pooling=cls"]]
OWN = (
    "seconds",
    "poolings_in_pass",
    "described",
    "config",
    "per_query",
)  # how a row was come by


def judging(photos: Path, folder: Path, *words: str) -> DictConfig:
    given = ["backbone=timm", "backbone.name=test_resnet", "benchmark=folder", f"benchmark.folder.root={photos}"]
    given += ["extract.resolutions=[48,64]", "extract.workers=0", f"cache={folder.parent / 'cache'}"]
    return config.compose("eval", [*given, *words], folder)


def sweep(folder: Path, jobs: Sequence[DictConfig]) -> None:
    """The plan of a sweep whose jobs are still to be done."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [Path(cfg.output_dir).relative_to(folder).as_posix() for cfg in jobs]
    told = [{"job": i, "folder": name, "overrides": [], "state": "waiting"} for i, name in enumerate(names)]
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


def test_one_pass_serves_seeds_and_skips_a_job_that_cannot_be_built(photos: Path, tmp_path: Path) -> None:
    weights = weighted(photos, tmp_path)
    jobs = [judging(photos, tmp_path / f"sweep/{i}", weights, *words) for i, words in enumerate(POOLINGS)]
    sweep(tmp_path / "sweep", jobs)
    rows = evaluation.from_config(jobs[0], set())
    assert [row["poolings_in_pass"] for row in rows] == [3, 3]


def test_a_model_of_another_job_that_fails_leaves_this_one_its_rows(photos: Path, tmp_path: Path) -> None:
    whitening.save(Whitening.of(np.full((4, 96), np.nan), np.zeros(4)), tmp_path / "nan.safetensors")
    words = [[], ["head=whitening", f"head.weights={tmp_path / 'nan.safetensors'}"]]
    jobs = [judging(photos, tmp_path / f"sweep/{i}", *one) for i, one in enumerate(words)]
    sweep(tmp_path / "sweep", jobs)
    with pytest.raises(extraction.NotFinite):
        evaluation.from_config(jobs[1], set())
    assert len(evaluation.from_config(jobs[0], set())) == 2


def test_a_model_of_another_job_that_torch_cannot_make_leaves_this_one_its_rows(photos: Path, tmp_path: Path) -> None:
    words = [["pooling=gap"], ["head=linear", "head.out_dim=-3"]]
    jobs = [judging(photos, tmp_path / f"sweep/{i}", *one) for i, one in enumerate(words)]
    sweep(tmp_path / "sweep", jobs)
    assert len(evaluation.from_config(jobs[0], set())) == 2


def test_backbones_of_random_weights_are_shared_within_a_seed(photos: Path, tmp_path: Path) -> None:
    words = [["pooling=gap", "seed=0"], ["pooling=gem", "seed=0"], ["pooling=gem", "seed=1"]]
    jobs = [judging(photos, tmp_path / f"sweep/{i}", *one) for i, one in enumerate(words)]
    sweep(tmp_path / "sweep", jobs)
    assert [cfg["names"]["pooling"] for cfg in companions.sharing(tmp_path / "sweep/0")] == ["gem"]


def test_jobs_that_are_done_or_pass_other_photos_are_no_companions(photos: Path, tmp_path: Path) -> None:
    words = [["pooling=gap"], ["pooling=gem"], ["pooling=max", "extract.resolutions=[48]"]]
    jobs = [judging(photos, tmp_path / f"sweep/{i}", *one) for i, one in enumerate(words)]
    sweep(tmp_path / "sweep", jobs)
    assert len(companions.sharing(tmp_path / "sweep/0")) == 1
    plan = json.loads((tmp_path / "sweep/sweep.json").read_text())
    plan["jobs"][1]["state"] = "done"
    (tmp_path / "sweep/sweep.json").write_text(json.dumps(plan))
    assert companions.sharing(tmp_path / "sweep/0") == []


def test_jobs_some_folders_deep_share_a_pass_and_say_what_that_saved(photos: Path, tmp_path: Path) -> None:
    words = {"gap/0": "pooling=gap", "gem/0": "pooling=gem"}
    jobs = [judging(photos, tmp_path / f"sweep/{folder}", word) for folder, word in words.items()]
    sweep(tmp_path / "sweep", jobs)
    assert [row["poolings_in_pass"] for row in evaluation.from_config(jobs[0], set())] == [2, 2]
    assert saved(tmp_path / "sweep")


def test_a_job_without_a_sweep_has_no_companions(tmp_path: Path) -> None:
    assert companions.sharing(tmp_path / "run") == []


def test_untrained_rows_of_a_training_sweep_are_made_in_one_pass(photos: Path, tmp_path: Path) -> None:
    words = ["evaluate_untrained=true", "trainer.max_epochs=1"]
    jobs = [tiny(photos, tmp_path / f"sweep/{i}", f"pooling={name}", *words) for i, name in enumerate(["gap", "gem"])]
    sweep(tmp_path / "sweep", jobs)
    first, second = (training.fit(job)[0] for job in jobs)
    assert (first["poolings_in_pass"], second["poolings_in_pass"]) == (2, 1)
    assert first["described"] > 0 == second["described"]
    assert not (tmp_path / "sweep/1/saved.json").exists()


def test_two_jobs_at_once_read_each_photo_once_between_them(photos: Path, tmp_path: Path) -> None:
    weights = weighted(photos, tmp_path)
    jobs = [judging(photos, tmp_path / f"sweep/{i}", weights, *words) for i, words in enumerate(POOLINGS[:2])]
    sweep(tmp_path / "sweep", jobs)
    code = "import sys, json; from omegaconf import OmegaConf; from retrieval import evaluation; "
    code += "evaluation.from_config(OmegaConf.create(json.loads(sys.argv[1])), set())"
    started = [subprocess.Popen([sys.executable, "-c", code, json.dumps(plain(job))], cwd=ROOT) for job in jobs]
    assert [process.wait() for process in started] == [0, 0]
    notes = [
        row
        for job in jobs
        if (file := Path(job.output_dir) / "saved.json").exists()
        for row in json.loads(file.read_text())
    ]
    assert sum(row["passes"] for row in notes) == pytest.approx(2)


def test_the_sweep_says_what_it_saved(photos: Path, tmp_path: Path) -> None:
    weights = weighted(photos, tmp_path)
    jobs = [judging(photos, tmp_path / f"sweep/{i}", weights, *words) for i, words in enumerate(POOLINGS[:3])]
    sweep(tmp_path / "sweep", jobs)
    assert saved(tmp_path / "sweep") == ""
    for job in jobs:
        evaluation.from_config(job, set())
    said = saved(tmp_path / "sweep")
    assert said.startswith("descriptors of 20 photos at 2 resolutions were made once for 3 poolings: 4 passes over")


FROZEN = ["lr_multipliers.backbone=0", "data.aspect=native", "data.crop=1", "data.flip=false", "data.jitter=0"]
FROZEN += ["evaluate_untrained=true"]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many photos each forward pass of a backbone has while a test runs, those that measure it left out."""
    seen: list[int] = []
    forward = TimmBackbone.forward

    def noting(backbone: TimmBackbone, images: Tensor, sizes: Tensor | None = None) -> Features:
        if images.any():
            seen.append(len(images))
        return forward(backbone, images, sizes)

    monkeypatch.setattr(TimmBackbone, "forward", noting)
    return seen


def looked_at(run: Path) -> int:
    """How many photos passed for the pictures of where a model looked, one at a time."""
    entries = json.loads((run / "rankings.json").read_text())
    return sum(1 + sum("looked" in item for item in entry["top"]) for entry in entries)


def test_photos_pass_a_frozen_backbone_once_for_all_epochs_jobs_and_rows(
    photos: Path, tmp_path: Path, computed: list[int]
) -> None:
    for i, name in enumerate(["gem", "strided_conv"]):
        training.fit(tiny(photos, tmp_path / f"sweep/{i}", f"pooling={name}", *FROZEN, "seed=0"))
    looked = sum(looked_at(tmp_path / f"sweep/{i}") for i in range(2))
    assert sum(computed) == 20 + 20 + looked  # to train on, and to judge by


def test_a_frozen_run_has_the_rows_that_it_has_without_kept_features(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: list[int]
) -> None:
    kept = training.fit(tiny(photos, tmp_path / "kept/run", "pooling=gem", *FROZEN))
    monkeypatch.setattr(frozen, "LIMIT", 0)
    computed.clear()
    with pytest.warns(UserWarning, match="features of 20 photos at 48 px would take .* has room for 0 GB"):
        usual = training.fit(tiny(photos, tmp_path / "usual/run", "pooling=gem", *FROZEN))
    assert sum(computed) > 40
    assert [same(row) for row in kept[:1]] == [same(row) for row in usual[:1]]
    assert kept[1]["metrics"] == pytest.approx(usual[1]["metrics"], abs=1e-4)
    assert kept[1]["p"] == pytest.approx(usual[1]["p"], abs=1e-4) and kept[1]["p"] != kept[0]["p"]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("how", [{}, {"scales": [1.0, 0.5]}, {"dtype": "bfloat16"}, {"aspect": "padded"}])
def test_descriptors_from_kept_features_are_the_same_to_the_bit(
    photos: Path, tmp_path: Path, name: str, how: dict[str, Any]
) -> None:
    listed = [Photo(str(path)) for path in sorted(photos.rglob("*.jpg"))]
    backbone, extract = TimmBackbone(name), extraction.Extract([64], workers=0, batch_size=4, **how)
    models = [Embedder(backbone, pooling, nn.Identity()) for pooling in (GeM(backbone.dim), GlobalMax(backbone.dim))]
    usual = extraction.describe_each(models, listed, 64, extract)
    frozen.freeze(backbone, tmp_path)
    for _ in range(2):
        for one, other in zip(extraction.describe_each(models, listed, 64, extract), usual, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("other", [{"mean": [0.0, 0.0, 0.0]}, {"kwargs": {"output_stride": 8}}])
def test_features_are_kept_apart_where_weights_are_alike_and_the_backbone_is_not(
    photos: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    listed, extract = [Photo(str(next(photos.rglob("*.jpg"))))], extraction.Extract([64], workers=0)
    usual = TimmBackbone("test_resnet")
    changed = TimmBackbone("test_resnet", **other)
    changed.load_state_dict(usual.state_dict())
    models = [Embedder(backbone, GlobalMax(usual.dim), nn.Identity()) for backbone in (usual, changed)]
    alone = extraction.describe(models[1], [photo.path for photo in listed], 64)
    for model in models:
        frozen.freeze(model.backbone, tmp_path)
    kept = [extraction.describe_each([model], listed, 64, extract)[0] for model in models]
    assert np.array_equal(kept[1], alone) and not np.array_equal(kept[0], kept[1])


def test_features_of_photos_that_come_together_once_are_not_kept(photos: Path, tmp_path: Path) -> None:
    backbone, listed = TimmBackbone("test_resnet"), [Photo(str(path)) for path in sorted(photos.rglob("*.jpg"))]
    model, extract = Embedder(backbone, GlobalMax(backbone.dim), nn.Identity()), extraction.Extract([48], workers=0)
    frozen.freeze(backbone, tmp_path)
    describe_together(model, listed, 48, extract, "cpu", once=True)
    assert not list(tmp_path.iterdir())


def test_a_frozen_backbone_keeps_its_weights_and_has_no_gradients(photos: Path, tmp_path: Path) -> None:
    parts = Parts.of(tiny(photos, tmp_path, "pooling=gem", "lr_multipliers.backbone=0"))
    model = parts.module.embedder
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    training.train(parts, None, 0, tmp_path)
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {"pooling.p"} and all(weight.grad is None for weight in model.backbone.parameters())


def test_random_crops_pass_a_frozen_backbone_each_time(photos: Path, tmp_path: Path, computed: list[int]) -> None:
    training.fit(tiny(photos, tmp_path / "run", "lr_multipliers.backbone=0"))
    assert sum(computed) == 2 * 20 + 20 + looked_at(tmp_path / "run")


def test_a_frozen_backbone_with_statistics_that_learn_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="freeze_batchnorm=false would change its statistics"):
        training.fit(tiny(photos, tmp_path, "lr_multipliers.backbone=0", "freeze_batchnorm=false"))


def test_a_run_with_nothing_to_train_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is left to train"):
        training.fit(tiny(photos, tmp_path, "lr_multipliers.backbone=0", "pooling=gap", "loss=contrastive"))


def test_a_sweep_on_a_frozen_backbone_says_what_it_saved(photos: Path, tmp_path: Path) -> None:
    for i, name in enumerate(["gem", "strided_conv"]):
        training.fit(tiny(photos, tmp_path / f"sweep/{i}", f"pooling={name}", *FROZEN))
    said = saved(tmp_path / "sweep")
    assert said.startswith("features of the frozen backbone were made once for all jobs and epochs: 6 passes over")
