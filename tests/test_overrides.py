"""Paths on a command line: what Hydra reads otherwise is refused with the word that means the path."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from retrieval import config, evaluation, strangers
from retrieval.errors import InputError
from retrieval.overrides import literal, quoted, refuse_misread, shell

SPECIAL = st.text("'\"\\${}[]()<>,;:=#~ !`@%*?&|^a\n\x1bé", min_size=1)
ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
NAMES = SPECIAL | ANY | st.binary(min_size=1).filter(lambda name: b"\0" not in name).map(os.fsdecode)
ODD = ["é", "城", "a=b", "a,b", "[a]", "a(b)", "a{b}", "a#b", "a;b", "a~b", "a&b", "it's", 'a"b', "a`b", "a\\,b", " a "]
ODD += ["${x}", "2024_01", "[31m\x1b", "a\nb", os.fsdecode(b"\xff")]


def read(word: str) -> object:
    """The value that a config has after Hydra and OmegaConf have read the word."""
    value = OverridesParser.create().parse_override(word).value()
    return OmegaConf.create({"value": value}).value


def pasted(hint: str) -> str:
    """The word that a shell makes of what a message says to type."""
    return os.fsdecode(subprocess.run(["sh", "-c", f"printf %s {hint}"], capture_output=True, check=True).stdout)


def refusal(word: str, *others: str) -> str:
    with pytest.raises(InputError) as refused:
        refuse_misread([*others, word])
    return str(refused.value)


def hint(said: str) -> str:
    return said.rpartition(" type ")[2]


@given(NAMES, st.sampled_from("'\""))
def test_a_quoted_name_is_read_as_it_is(name: str, quote: str) -> None:
    if name != "???":  # what OmegaConf calls a value that is missing
        assert read(f"data.root={quoted(literal(name), quote)}") == name


@given(NAMES)
def test_a_shell_makes_the_word_of_what_is_to_be_typed(name: str) -> None:
    typed = shell(f"data.root={quoted(name)}")
    assert typed.isprintable() and pasted(typed) == f"data.root={quoted(name)}"


@given(NAMES)
def test_a_name_is_read_as_it_is_or_the_message_says_how_to_type_it(name: str) -> None:
    try:
        refuse_misread([f"data.root={name}"])
    except InputError as error:
        if "needs -m" not in (said := str(error)) and not name.startswith(("[", "~")):
            assert read(pasted(hint(said))) == name
    else:
        OverridesParser.create().parse_override(f"data.root={name}")


@pytest.mark.parametrize("name", ODD)
def test_a_file_that_is_there_is_meant_or_the_message_says_how_to_mean_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    word = pasted(hint(refusal(f"data.root={name}")))
    assert read(word) == name
    refuse_misread([word])


@pytest.mark.parametrize("name", ["a b", "a:b", "a@b", "a%b", "a*", "$HOME", "a\\b", "a+b", "a|b", "a?", "plain.d"])
def test_a_path_that_hydra_reads_as_it_stands_is_left_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    refuse_misread([f"data.root={name}"])
    assert read(f"data.root={name}") == name


@pytest.mark.parametrize("word", ["seed=0,1", "data.root=a,b", "pooling.p=interval(1,6)", "experiment=demo,photos"])
def test_a_sweep_of_values_keeps_its_meaning(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "a,b", "0,1"):
        Path(name).touch()
    refuse_misread(["-m", word])


def test_a_sweep_of_which_a_part_is_missing_is_refused_where_the_name_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a,b").touch()
    assert read(pasted(hint(refusal("data.root=a,b", "-m")))) == "a,b"


def test_values_to_sweep_over_are_quoted_one_by_one() -> None:
    word = pasted(hint(refusal("data.root=/é,/b", "-m")))
    assert list(OverridesParser.create().parse_override(word).sweep_string_iterator()) == ["'/é'", "/b"]


def test_a_list_is_quoted_one_by_one() -> None:
    assert read(pasted(hint(refusal("data.shards=[/é/a.tar,/b.tar]")))) == ["/é/a.tar", "/b.tar"]


def test_several_values_without_m_are_no_sweep() -> None:
    said = refusal("pooling=gap,max")
    assert "is a sweep of 2 values, which needs -m, and a list of them is 'pooling=[gap,max]'" in said


def test_a_folder_below_home_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos é").mkdir()
    assert read(pasted(hint(refusal("data.root=~/photos é")))) == str(tmp_path / "photos é")


@pytest.mark.parametrize("value", ["3", "0", "true", "[1,2]", "1e3"])
def test_a_file_is_no_value_of_a_key_that_takes_no_path(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(value).touch()
    refuse_misread([f"seed={value}"])


def test_a_folder_to_write_into_has_no_interpolation_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "${x}").mkdir()
    assert re.search(r"must have no \$\{", refusal(f"output_dir={tmp_path}/${{x}}"))


def test_a_folder_of_weights_is_named_in_utf8() -> None:
    assert "must be UTF-8" in refusal("run=" + os.fsdecode(b"runs/\xff"))


def test_notebooks_are_told_the_word_as_python_writes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(repr("data.root='é'"))):
        config.compose("train", ["data=folder", "data.root=é"], tmp_path)


@pytest.mark.parametrize("name", [name for name in ODD if name != "${x}" and name.isprintable()])
def test_hydra_takes_the_output_folder_of_a_notebook_as_it_is(name: str, tmp_path: Path) -> None:
    assert config.compose("train", [], tmp_path / name).output_dir == str(tmp_path / name)


@pytest.mark.parametrize("name", ["a=b", "[é]", "${x}", os.fsdecode(b"\xff")], ids=ascii)
def test_photos_of_any_folder_are_judged_and_what_is_written_opens_again(
    name: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / name).symlink_to(photos)
    words = ["backbone=timm", "backbone.name=test_resnet", "benchmark=folder", "extract.resolutions=[48]"]
    words += ["extract.workers=0", f"benchmark.folder.root={quoted(literal(str(tmp_path / name)))}"]
    evaluation.from_config(config.compose("eval", words, tmp_path / "run"), set())
    opened = strangers.config(tmp_path / "run" / "config.yaml")
    assert isinstance(opened.benchmark, DictConfig) and opened.benchmark.folder.root == str(tmp_path / name)
