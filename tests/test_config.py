"""From YAML and command line to objects; wrong words are named with what is accepted."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from retrieval.config import CONFIGS, InputError, build, compose, load_yaml, near, prepared
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
    with pytest.raises(InputError, match=r"no key 'power'.*dim, eps, p, per_channel"):
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


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_yaml_composes_by_its_name(path: Path, tmp_path: Path) -> None:
    group = path.parent.name
    asked = f"{group}=[{path.stem}]" if group in ("benchmark", "logger", "callbacks") else f"{group}={path.stem}"
    given = {"data/folder": ["data.root=x"], "benchmark/folder": ["benchmark.folder.root=x"]}
    words = given.get(f"{group}/{path.stem}", []) + (["backbone.name=resnet18"] if path.stem == "timm" else [])
    cfg = compose("train", [asked, *words], tmp_path)
    assert group == "experiment" or OmegaConf.to_container(cfg)[group]  # pyright: ignore


def test_two_benchmarks_keep_their_own_names(tmp_path: Path) -> None:
    cfg = compose("train", ["benchmark=[folder,landmarks]", "benchmark.folder.root=x"], tmp_path)
    assert set(cfg.benchmark) == {"folder", "landmarks"}


def test_arguments_for_timm_are_free_form(tmp_path: Path) -> None:
    assert compose("train", ["backbone.kwargs.pad_type=same"], tmp_path).backbone.kwargs == {"pad_type": "same"}


def test_hydra_writes_into_the_output_folder() -> None:
    assert prepared(["output_dir=x"]) == ["output_dir=x", "hydra.run.dir=x"]


def test_near_matches_come_first() -> None:
    assert near("gme", ["gap", "gem", "max"]) == "did you mean gem? accepted: gap, gem, max"


def test_a_misspelt_key_on_the_command_line_is_named() -> None:
    assert "unknown config key 'power' under 'pooling': accepted: " in (said := refusal("pooling.power=4"))
    assert "per_channel" in said


def test_an_unknown_pooling_on_the_command_line_is_named_with_near_matches() -> None:
    assert "unknown pooling 'gemm': did you mean gem?" in refusal("pooling=gemm")


def test_a_missing_folder_of_photos_is_named_by_its_key() -> None:
    assert "data.root" in refusal("data=folder")
