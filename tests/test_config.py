"""From YAML and command line to objects; wrong words are named with what is accepted."""

import os
import pwd
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf.errors import OmegaConfBaseException

from retrieval import config
from retrieval.config import CONFIGS, build, chosen, compose, explain, load_yaml, prepared, refuse_shared
from retrieval.endings import refuse_no_folder
from retrieval.errors import InputError, flag, near
from retrieval.poolings import GeM

ROOT = CONFIGS.parent


def refusal(*words: str) -> str:
    """What train.py says of a command line that it refuses."""
    done = subprocess.run(
        [sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_build_hands_over_what_only_the_program_knows() -> None:
    pooling = build(load_yaml(CONFIGS / "pooling" / "gem.yaml"), dim=2048)
    assert isinstance(pooling, GeM) and pooling.out_dim == 2048


def test_build_keeps_to_itself_what_a_class_has_no_argument_for() -> None:
    assert build({"_target_": "torch.nn.Identity"}, dim=3)(5) == 5


def test_build_passes_parameters_themselves_not_copies() -> None:
    weight = GeM(2).p
    optimizer = build({"_target_": "torch.optim.SGD", "lr": 0.1}, params=[{"params": [weight], "lr": 0.2}])
    assert optimizer.param_groups[0]["params"][0] is weight


def test_build_knows_the_arguments_of_parent_classes() -> None:
    target = "pytorch_metric_learning.losses.ArcFaceLoss"
    assert build({"_target_": target, "margin": 20}, num_classes=3, embedding_size=4).W.shape == (4, 3)


def test_an_unknown_key_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"no key 'power'.*dim, eps, learned, negative, p, p_min, per_channel"):
        build({"_target_": "retrieval.poolings.GeM", "power": 3}, dim=4)


@pytest.mark.parametrize("target", ["os.system", "subprocess.Popen", "builtins.eval", "torch.load", ""])
def test_classes_outside_the_allow_list_are_refused(target: str) -> None:
    with pytest.raises(InputError, match="_target_ must be a class"):
        build({"_target_": target})


def test_a_value_that_a_class_refuses_is_named() -> None:
    with pytest.raises(InputError, match=r"torch\.optim\.SGD cannot be made of .*'lr': -1.*Invalid learning rate"):
        build({"_target_": "torch.optim.SGD", "lr": -1}, params=[GeM(2).p])


def test_a_function_is_no_component() -> None:
    with pytest.raises(InputError, match="must be a class"):
        build({"_target_": "retrieval.metrics.revisited"})


HYDRA = CONFIGS / "hydra"  # Hydra's own groups
CHOICES = sorted(path for path in CONFIGS.rglob("*/*.yaml") if HYDRA not in path.parents)


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.relative_to(CONFIGS).with_suffix("").as_posix())
def test_every_yaml_composes_by_its_name(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTOS", "x")
    monkeypatch.setenv("WEIGHTS", "y")
    group, several = path.relative_to(CONFIGS).parts[0], ("benchmark", "logger", "callbacks", "rerank")
    asked = f"{group}=[{path.stem}]" if group in several else f"{group}={path.stem}"
    given = {
        "data/folder": ["data.root=x"],
        "data/csv": ["data.file=x"],
        "benchmark/folder": ["benchmark.folder.root=x"],
    }
    words = given.get(f"{group}/{path.stem}", []) + (["backbone.name=resnet18"] if path.stem == "timm" else [])
    judged = group in ("whitening", "whitening_set", "search", "rerank") or path.parent.name == "eval"
    cfg = compose("eval" if judged else "train", [asked, *words], tmp_path)
    if group == "experiment":
        assert cfg.names.pooling == "gem"
    else:
        described = load_yaml(path)
        for name in described.get("defaults", [path.stem]):  # one that only lists others stands for them
            chosen = cfg[group][name] if group in several else cfg[group]
            assert chosen._target_ == load_yaml(path.with_stem(name))._target_


def test_two_benchmarks_keep_their_own_names(tmp_path: Path) -> None:
    cfg = compose("train", ["benchmark=[folder,landmarks]", "benchmark.folder.root=x"], tmp_path)
    assert set(chosen(cfg.benchmark)) == {"folder", "landmarks"}


def test_arguments_for_timm_are_free_form(tmp_path: Path) -> None:
    assert compose("train", ["backbone.kwargs.pad_type=same"], tmp_path).backbone.kwargs == {"pad_type": "same"}


@pytest.mark.parametrize("word", ["+seeed=3", "+lr_multipliers.pp=3", "+names.pool=x"])
def test_keys_that_nothing_reads_are_refused_even_when_added(tmp_path: Path, word: str) -> None:
    with pytest.raises(InputError, match="unknown config key '(seeed|pp|pool)'.*accepted"):
        compose("train", [word], tmp_path)


def test_jobs_of_a_sweep_do_not_share_an_output_folder() -> None:
    with pytest.raises(InputError, match=r"give hydra\.sweep\.dir=DIR"):
        refuse_shared(["pooling=gap", "output_dir=x"])


def test_a_class_reached_through_an_allowed_module_is_refused() -> None:
    with pytest.raises(InputError, match="must be a class of"):
        build({"_target_": "retrieval.data.images.ThreadPoolExecutor"})


def test_hydra_writes_into_the_output_folder() -> None:
    assert prepared(["output_dir=x"], "train") == ["output_dir=x", "hydra.run.dir=x"]
    assert prepared(["++output_dir='a=b'"], "train")[-1] == "hydra.run.dir='a=b'"


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("demo", "eval/demo"),
        ("eval/demo", "eval/demo"),
        ("null", "null"),
        ("demo,eval/photos,null", "eval/demo,eval/photos,null"),
        ("[demo,photos]", "[eval/demo,eval/photos]"),
    ],
)
def test_a_recipe_is_looked_for_among_those_of_the_script(typed: str, taken: str) -> None:
    assert prepared([f"experiment={typed}"], "eval") == [f"experiment={taken}"]


@pytest.mark.parametrize("typed", ["foto", "eval/foto"])
def test_an_unknown_recipe_is_named_with_those_of_the_script(typed: str) -> None:
    known = [path.stem for path in (CONFIGS / "experiment" / "train").glob("*.yaml")]
    assert f"unknown experiment/train '{typed}': {near(typed, known)}" in refusal(f"experiment={typed}")


def test_near_matches_come_first() -> None:
    assert near("gme", ["gap", "gem", "max"]) == "did you mean gem? accepted: gap, gem, max"


def test_a_misspelt_key_on_the_command_line_is_named() -> None:
    assert "unknown config key 'power' under 'pooling': accepted: " in (said := refusal("pooling.power=4"))
    assert "per_channel" in said


def test_an_unknown_pooling_on_the_command_line_is_named_with_near_matches() -> None:
    assert "unknown pooling 'gemm': did you mean gem or cls_gem?" in refusal("pooling=gemm")


def test_an_unknown_benchmark_in_a_list_is_named_with_near_matches() -> None:
    assert "unknown benchmark 'foldr': did you mean folder?" in refusal("benchmark=[foldr]")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.root=PHOTOS", "sampler.landmarks=9"], "sampler.landmarks = 9 is more than the 4 landmarks"),
        (["data.root=PHOTOS", "seed=abc"], "seed must be a whole number, got 'abc'"),
        (["data.root=PHOTOS", "optimizer.lr=-1"], "torch.optim.AdamW cannot be made of"),
        (["data.root=PHOTOS", "schedule.warmup=1.5"], "schedule.warmup is a share of the steps"),
        (["data.root=PHOTOS", "backbone.name=resnet5"], "timm 1.* has no backbone 'resnet5'.*resnet50"),
        (["data.root=/nowhere"], "no folder of photos at /nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    photos: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    given = [
        "data=folder",
        "backbone=timm",
        "backbone.name=test_resnet",
        f"output_dir={tmp_path / 'run'}",
        "logger=csv",
    ]
    assert re.search(said, refusal(*given, *[word.replace("PHOTOS", str(photos)) for word in words]))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_missing_folder_of_photos_is_named_by_its_key() -> None:
    assert "data.root" in refusal("data=folder")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("RETRIEVAL_CACHE", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    return monkeypatch


def test_without_home_the_cache_lies_where_the_system_says(homeless: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert compose("train", [], tmp_path).cache == f"{home}/.cache/retrieval"


def test_where_no_home_is_known_the_message_names_what_to_set(homeless: pytest.MonkeyPatch, tmp_path: Path) -> None:
    homeless.setattr(pwd, "getpwuid", {}.__getitem__)  # as of a user whom the system does not know
    with pytest.raises(OmegaConfBaseException) as refused:
        compose("train", [], tmp_path)
    assert explain(refused.value).endswith("set RETRIEVAL_CACHE=DIR, or cache=DIR")


@pytest.mark.parametrize("name", ["train", "eval"])
def test_two_calls_in_one_second_write_into_two_folders(name: str, homeless: pytest.MonkeyPatch) -> None:
    homeless.setattr(config, "datetime", OneMoment)
    folders = [folder(name, kind) for kind in ("run", "run", "sweep", "sweep")]
    assert len(set(folders)) == 4 and all(one.startswith("runs/2026-01-02_03-04-05-") for one in folders)


class OneMoment(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # pyright: ignore[reportIncompatibleMethodOverride]
        return cls(2026, 1, 2, 3, 4, 5)


def folder(name: str, kind: str) -> str:
    """Where a call of train.py or eval.py writes, or a sweep, if nothing is said of it."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose(name, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg.hydra[kind].dir


@pytest.mark.parametrize("value", ["false", "no", 0, None])
def test_what_is_neither_true_nor_false_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="crop must be true or false"):
        flag("crop", value)


def test_flags_come_after_the_overrides_on_whichever_side_they_were_typed() -> None:
    assert prepared(["pooling=gap,max", "-m", "output_dir=a", "seed=0,1"], "train") == [
        "pooling=gap,max", "output_dir=a", "seed=0,1", "hydra.run.dir=a", "-m",
    ]  # fmt: skip


def test_an_output_dir_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="output_dir must name a folder"):
        prepared(["output_dir="], "train")


def test_a_cache_that_is_a_file_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cache must be a folder .*file is no folder"):
        refuse_no_folder(tmp_path / "file" / "below", "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
