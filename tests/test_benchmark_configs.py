"""Every benchmark's YAML describes its class, under its own name."""

from pathlib import Path

import hydra
import pytest

from retrieval.benchmarks import google, holidays, oxford, revisited
from retrieval.config import CONFIGS, arguments, build, chosen, compose, load_yaml
from retrieval.errors import InputError

YAMLS = sorted((CONFIGS / "benchmark").glob("*.yaml"))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_a_benchmark_stands_under_its_own_name(path: Path) -> None:
    assert path.read_text().startswith(f"# @package benchmark.{path.stem}\n")


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_a_benchmarks_keys_are_its_classs_arguments(path: Path) -> None:
    cfg = load_yaml(path)
    given_by_the_program = {"cache"}
    assert {*map(str, cfg)} - {"_target_"} == arguments(hydra.utils.get_object(cfg["_target_"])) - given_by_the_program


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_turning_by_exif_is_a_key_of_every_benchmark_and_off_where_the_published_protocol_does_not_turn(
    path: Path,
) -> None:
    assert load_yaml(path).upright is (path.stem in ("csv", "folder", "holidays", "places"))


def test_all_benchmarks_can_be_chosen_at_once(tmp_path: Path) -> None:
    names = [path.stem for path in YAMLS if "???" not in path.read_text()]
    cfg = compose("eval", [f"benchmark=[{','.join(names)}]", "benchmark.roxford5k.distractors=DIR"], tmp_path)
    assert list(chosen(cfg.benchmark)) == names and cfg.benchmark.roxford5k.distractors == "DIR"


def test_the_data_folder_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_DATA", "/elsewhere")
    cfg = compose("eval", ["benchmark=[roxford5k_1m]"], tmp_path)
    assert cfg.benchmark.roxford5k_1m.distractors == "/elsewhere/revisitop1m"


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("roxford5k", ["roxford5k"]),
        ("rparis6k_1m", ["rparis6k", "revisitop1m"]),
        ("oxford5k", ["oxford5k"]),
        ("paris6k", ["paris6k"]),
        ("holidays", ["holidays"]),
        ("gldv2", ["gldv2"]),
        ("gldv2_recognition", ["gldv2", "gldv2_train"]),
    ],
)
def test_what_a_benchmark_needs_is_fetched_where_that_is_asked_for(
    name: str, sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []
    for family in (google, holidays, oxford, revisited):
        monkeypatch.setattr(family, "prepare", lambda *what: asked.append(what))
    monkeypatch.setenv("RETRIEVAL_DATA", str(tmp_path))
    cfg = compose("eval", [f"benchmark=[{name}]"], tmp_path / "run").benchmark[name]
    for download in (False, True):
        with pytest.raises(InputError, match="is not there"):
            build({**cfg, "download": download})
        assert asked == [(one, tmp_path) for one in sets if download]
