"""What messages say to type is there to be typed: the keys exist, and the command line takes the words."""

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from retrieval import backbones, parts, processes, timm_names
from retrieval.config import CONFIGS, build, chosen, compose, explain, load_yaml
from retrieval.data.batching import LandmarkBatches, TupleBatches
from retrieval.data.pairs import SfM120kWhitening
from retrieval.errors import InputError
from tests.small_runs import tiny

PACKAGE = CONFIGS.parent / "retrieval"
WORD = re.compile(r"(?<![\w.])([a-z_]+(?:\.[a-z0-9_]+)*)=([\w.\[\],]*\w\]?)")
BENCHMARKS = ["roxford5k", "rparis6k", "oxford5k", "paris6k", "holidays", "gldv2", "gldv2_recognition"]
IN_PYTHON = {"revision", "junk"}  # arguments of functions, not keys of a config
FREE = ("hydra.", "backbone.kwargs.")  # keys of Hydra, and what timm takes


def hinted(said: str) -> list[str]:
    """The words KEY=VALUE of a message that can be typed as they are."""
    return [word[0] for word in re.finditer(WORD, said) if not word[2].isupper()]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_published_benchmark_that_is_missing_says_what_fetches_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVAL_DATA", str(tmp_path))
    cfg = compose("eval", [f"benchmark={name}"], tmp_path / "run")
    with pytest.raises(InputError, match=rf"below another folder than {tmp_path}, .*RETRIEVAL_DATA=DIR") as refused:
        build(chosen(cfg.benchmark)[name])
    assert hinted(str(refused.value)) == ["benchmark.download=true"]
    for script in ("train", "eval"):
        assert compose(script, [f"benchmark={name}", "benchmark.download=true"], tmp_path / "run").benchmark.download


@pytest.mark.parametrize("name", ["sfm120k", "gldv2"])
def test_a_published_training_set_that_is_missing_says_what_fetches_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVAL_DATA", str(tmp_path))
    cfg = compose("train", [f"data={name}"], tmp_path / "run")
    sampler = {"_target_": "retrieval.data.batching.LandmarkBatches"}
    with pytest.raises(InputError, match="RETRIEVAL_DATA=DIR") as refused:
        build(cfg.data, sampler=sampler, seed=0)
    assert hinted(str(refused.value)) == ["data.download=true"]
    assert compose("train", [f"data={name}", "data.download=true"], tmp_path / "run").data.download


def test_photos_that_a_whitening_needs_are_fetched_by_words_of_train(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        SfM120kWhitening(str(tmp_path))
    assert compose("train", hinted(str(refused.value)), tmp_path / "run").data.download


def test_a_benchmark_takes_any_number_of_photos_by_the_key_that_is_named(tmp_path: Path) -> None:
    for name in ("jpg/all_souls_000013.jpg", "gt/all_souls_1_query.txt"):
        (tmp_path / "oxford5k" / name).parent.mkdir(parents=True)
        (tmp_path / "oxford5k" / name).touch()
    cfg = compose("eval", ["benchmark=oxford5k", f"benchmark.oxford5k.root={tmp_path}"], tmp_path / "run")
    with pytest.raises(InputError) as refused:
        build(cfg.benchmark.oxford5k)
    again = compose("eval", ["benchmark=oxford5k", *hinted(str(refused.value))], tmp_path / "run")
    assert again.benchmark.oxford5k.size is None


def backbone_refused(name: str) -> str:
    with pytest.raises(HydraException) as refused:
        compose("train", [f"backbone={name}"])
    return explain(refused.value)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet50d", "vit_small_patch16_224.augreg_in21k"])
def test_a_model_of_timm_is_answered_with_the_words_that_make_it(name: str, tmp_path: Path) -> None:
    words = hinted(backbone_refused(name))
    assert words == ["backbone=timm", f"backbone.name={name}"]
    backbones.refuse_unknown(compose("train", words, tmp_path).backbone.name)


def test_a_misspelt_model_of_timm_is_answered_with_a_near_one(tmp_path: Path) -> None:
    words = hinted(backbone_refused("tf_eficientnet_lite0"))
    assert compose("train", words, tmp_path).backbone.name == "tf_efficientnet_lite0"


def test_names_of_timm_are_those_that_it_has() -> None:
    import timm

    assert timm_names.names() == sorted(timm.list_models())


@pytest.mark.parametrize(("processes_there", "largest"), [(1, 5), (2, 4)])
def test_the_largest_number_of_landmarks_is_named_and_accepted(
    processes_there: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "world_size", lambda: processes_there)
    labels = np.repeat(np.arange(5), 3).tolist()
    with pytest.raises(InputError, match=f"the largest accepted is sampler.landmarks={largest}$"):
        LandmarkBatches(labels, 0, landmarks=6)
    LandmarkBatches(labels, 0, landmarks=largest)


def test_the_largest_number_of_negatives_is_named_and_accepted() -> None:
    labels = np.repeat(np.arange(3), 4).tolist()
    with pytest.raises(InputError, match=r"the largest accepted is sampler.negatives=2$"):
        TupleBatches(labels, 0, negatives=3, tuples=1)
    TupleBatches(labels, 0, negatives=2, tuples=1)


def test_too_many_landmarks_are_refused_before_a_model_is_made(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    create = backbones.create
    monkeypatch.setattr(backbones, "create", lambda *given: made.append(given[0]) or create(*given))
    with pytest.raises(InputError, match=r"the largest accepted is sampler\.landmarks=4"):
        parts.Parts.of(tiny(photos, tmp_path, "sampler.landmarks=9"))
    assert made == []


def messages() -> list[tuple[str, str]]:
    """File and text of what is raised as InputError, `{...}` for what is known when it is raised."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                text = "".join(
                    part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ""
                    for argument in node.exc.args
                    for part in ast.walk(argument)
                )
                found.append((path.name, text))
    return found


def keys() -> set[str]:
    """All keys that the YAMLs of a config have, `group.key` for those of a group's file."""
    known: set[str] = set()
    for path in CONFIGS.rglob("*.yaml"):
        group, cfg = path.relative_to(CONFIGS).parts[:-1], load_yaml(path)
        if group and group[0] in ("experiment", "hydra"):
            continue
        several = group and group[0] in ("benchmark", "logger", "callbacks", "rerank")
        place = ".".join([*group, path.stem] if several else group)
        known |= {place, *group}
        plain: Any = OmegaConf.to_container(cfg)
        for key, value in plain.items():
            name = f"{place}.{key}" if place else str(key)
            known |= {name, *(f"{name}.{one}" for one in (value if isinstance(value, dict) else ()))}
    return known


def test_every_key_that_a_message_tells_to_set_exists() -> None:
    known, told = keys(), {(file, word[1]) for file, said in messages() for word in re.finditer(WORD, said)}
    assert len(told) > 30
    assert {one for one in told if one[1] not in known | IN_PYTHON and not one[1].startswith(FREE)} == set()


def test_only_words_that_can_be_typed_as_they_are_count_as_hints() -> None:
    assert hinted("give it data.aspect=square, trainer.max_steps=N or {height = 3}") == ["data.aspect=square"]
