"""Several poolings in one pass: the numbers of separate runs, at the cost of one."""

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from retrieval import candidates, config, embedder, evaluation
from retrieval.data import images
from retrieval.data.folder import read
from retrieval.errors import InputError
from retrieval.extraction import Extract, describe, describe_each
from retrieval.report import runs, tables, writing
from retrieval.results import Row, printed
from retrieval.subjects import subject

LISTED = "evaluate.poolings=[gap,{gem:{p:5}},{attention:{seeds:2,concatenate:false}}]"
ALONE = [
    ["pooling=gap"],
    ["pooling=gem", "pooling.p=5"],
    ["pooling=attention", "pooling.seeds=2", "pooling.concatenate=false"],
]


def judged(photos: Path, out: Path, *words: str, model: tuple[str, ...] = ("timm", "test_resnet")) -> list[Row]:
    chosen = [f"backbone={model[0]}", f"backbone.name={model[1]}"] if model else []
    given = ["benchmark=folder", f"benchmark.folder.root={photos}", "extract.resolutions=[48]", "extract.workers=0"]
    return evaluation.from_config(config.compose("eval", [*chosen, *given, *words], out), set())


def shared_models() -> list[embedder.Embedder]:
    cfg = config.compose("eval", ["backbone=timm", "backbone.name=test_resnet"], "unused")
    return embedder.sharing(cfg, [pooling.cfg for pooling in candidates.poolings(["gap", "gem", "max"])])


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder as training leaves it, its p moved to 2."""
    folder = tmp_path_factory.mktemp("trained")
    judged(photos, folder, "pooling=gem")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "pooling.p": weights["pooling.p"] * 0 + 2}, folder / "model.safetensors")
    cfg = config.load_yaml(folder / "config.yaml")
    cfg.selected_by = "the last step"
    OmegaConf.save(cfg, folder / "config.yaml")
    for name in ("results.json", "rankings.json"):
        (folder / name).unlink()
    return folder


@pytest.mark.parametrize("head", ["none", "linear"])
@pytest.mark.parametrize("scales", ["[1.0]", "[1.0,0.7]"])
def test_rows_are_those_of_separate_runs(photos: Path, tmp_path: Path, head: str, scales: str) -> None:
    words = [f"head={head}", f"extract.scales={scales}", "seed=3"]
    together = judged(photos, tmp_path / "all", LISTED, *words)
    for i, (row, pooling) in enumerate(zip(together, ALONE, strict=True)):
        (alone,) = judged(photos, tmp_path / f"{i}", *pooling, *words)
        assert row["metrics"] == pytest.approx(alone["metrics"], abs=1e-6)
        aside = {"metrics": 0, "seconds": 0, "described": 0}
        assert {**alone, "poolings_in_pass": 3, **aside} == {**row, **aside}


def test_saved_models_describe_as_separate_runs(photos: Path, tmp_path: Path) -> None:
    judged(photos, tmp_path / "all", LISTED)
    paths = sorted(photos.rglob("*.jpg"))
    for name, pooling in zip(["gap", "gem_p_5", "attention_seeds_2_concatenate_False"], ALONE, strict=True):
        judged(photos, tmp_path / name, *pooling)
        one, other = (describe(embedder.load(tmp_path / place), paths, 48) for place in (f"all/{name}", name))
        assert np.allclose(one, other, atol=1e-6)


def test_a_folder_of_several_models_names_them_when_one_is_asked_for(photos: Path, tmp_path: Path) -> None:
    judged(photos, tmp_path, "evaluate.poolings=[gap,{gem:{p:5}}]")
    with pytest.raises(InputError, match=r"lacks pooling; a model each is in its folders gap, gem_p_5"):
        embedder.load(tmp_path)


def test_a_photo_is_decoded_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, decoded, decode = read(str(photos)).photos, [], images.decode
    monkeypatch.setattr(images, "decode", lambda photo, *_: decoded.append(photo.path) or decode(photo))
    describe_each(shared_models(), listed, 48, Extract([48], workers=0))
    assert sorted(decoded) == sorted(photo.path for photo in listed)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5)])
def test_the_backbone_sees_a_photo_once_a_scale(photos: Path, scales: tuple[float, ...]) -> None:
    models, seen = shared_models(), []
    models[0].backbone.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    describe_each(models, read(str(photos)).photos, 48, Extract([48], scales, workers=0))
    assert sum(seen) == 20 * len(scales)


def test_a_row_of_a_shared_pass_says_how_many_poolings_its_seconds_bought(photos: Path, tmp_path: Path) -> None:
    rows = judged(photos, tmp_path, "evaluate.poolings=[gap,max]")
    assert [row["poolings_in_pass"] for row in rows] == [2, 2] and rows[0]["seconds"] == rows[1]["seconds"]


def test_rankings_are_kept_for_each_pooling(photos: Path, tmp_path: Path) -> None:
    rows = judged(photos, tmp_path, "evaluate.poolings=[gap,{gem:{p:5}}]")
    entries = json.loads((tmp_path / "rankings.json").read_text())
    assert {entry["settings"] for entry in entries} == {row["settings"] for row in rows}


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("[]", r"must be a list such as .*, got \[\]"),
        ("gap", "must be a list such as .*, got 'gap'"),
        ("[gap,gemm]", "unknown pooling 'gemm': did you mean gem"),
        (
            "[gap,{gem:{pp:5}}]",
            "has no key 'pp': did you mean p.* accepted: dim, eps, learned, negative, p, ",
        ),
        ("[{gem:{p:-1}}]", "GeM needs a finite p > 0"),
        ("[gap,gap]", "must name each pooling once, got gap twice"),
        ("[gem,{gem:{p:3}}]", "must name each pooling once, got gem twice"),
        ("[{gem:{p:5}},{gem:{p:5.0}}]", "must name each pooling once, got gem p=5 twice"),
        ("[{gem:5}]", "an entry of evaluate.poolings must be a name"),
        ("[{gem:{p:5},gap:{}}]", "an entry of evaluate.poolings must be a name"),
        ("[[gap]]", "an entry of evaluate.poolings must be a name"),
        ("[gap,cls]", "pooling=cls needs a backbone with a class token"),
    ],
)
def test_a_list_that_cannot_be_is_refused_before_anything_is_written(
    photos: Path, tmp_path: Path, listed: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        judged(photos, tmp_path / "out", f"evaluate.poolings={listed}")
    assert not (tmp_path / "out").exists()


def test_a_list_beside_a_pooling_is_refused(photos: Path, tmp_path: Path) -> None:
    words = ["evaluate.poolings=[gap]", "pooling=max", "benchmark=folder", f"benchmark.folder.root={photos}"]
    with pytest.raises(InputError, match="evaluate.poolings and pooling both say what is judged"):
        evaluation.from_config(config.compose("eval", words, tmp_path), {"pooling", "evaluate", "benchmark"})


@pytest.mark.parametrize(
    ("word", "said"), [("+evaluate.polings=[gap]", "did you mean poolings"), ("evaluate=gap", "must hold keys")]
)
def test_a_misspelt_key_is_refused(word: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        config.compose("eval", [word], "unused")


def test_a_trained_backbone_is_judged_under_other_poolings(trained: Path, photos: Path, tmp_path: Path) -> None:
    gap, gem = judged(photos, tmp_path, f"run={trained}", "evaluate.poolings=[gap,gem]", model=())
    (own,) = judged(photos, tmp_path, f"run={trained}", model=())
    assert (gap["trained_with"], gap["untrained"], gap["seed"]) == ("gem", False, own["seed"])
    assert (gem["trained_with"], gem["p"], gem["settings"]) == (None, 2.0, own["settings"]) and gem["p"] == own["p"]


def test_a_backbone_trained_with_another_pooling_has_settings_of_its_own(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    cfg = config.load_yaml(trained / "config.yaml")
    (gap,) = judged(photos, tmp_path, f"run={trained}", "evaluate.poolings=[gap]", model=())
    cfg.pooling, cfg.names.pooling = config.load_yaml(config.CONFIGS / "pooling/gap.yaml"), "gap"
    assert gap["settings"] != subject(cfg, False, "").settings


def test_an_untrained_run_under_other_poolings_is_that_of_separate_runs(photos: Path, tmp_path: Path) -> None:
    judged(photos, tmp_path / "run", "pooling=gap", "seed=4")
    together = judged(photos, tmp_path, f"run={tmp_path / 'run'}", LISTED, model=())
    for i, (row, pooling) in enumerate(zip(together, ALONE, strict=True)):
        (alone,) = judged(photos, tmp_path / f"{i}", *pooling, "seed=4")
        assert row["settings"] == alone["settings"] and row["untrained"]
        assert row["metrics"] == pytest.approx(alone["metrics"], abs=1e-6)


def test_a_run_with_a_head_is_judged_under_no_other_pooling(photos: Path, tmp_path: Path) -> None:
    judged(photos, tmp_path / "run", "head=linear")
    with pytest.raises(InputError, match=r"has head linear, .* needs a run with head none"):
        judged(photos, tmp_path, f"run={tmp_path / 'run'}", "evaluate.poolings=[gap]", model=())


def test_a_report_of_such_a_folder_has_a_line_a_pooling_and_no_unfinished_run(photos: Path, tmp_path: Path) -> None:
    judged(photos, tmp_path / "out", "evaluate.poolings=[gap,gem,{gem:{p:10}},{gem:{p:5}}]")
    writing.write([tmp_path], tmp_path)
    found = runs.collect([tmp_path])
    lines = tables.tables(found.rows)[0].lines
    assert [line[1].text for line in lines] == ["gap", "gem", "gem (p=5)", "gem (p=10)"]
    assert found.unfinished == [] and found.warnings == []


def test_a_pass_that_is_still_going_is_one_unfinished_run(photos: Path, tmp_path: Path) -> None:
    for name in ("done", "going"):
        judged(photos, tmp_path / name, "evaluate.poolings=[gap,max]")
    (tmp_path / "going/results.json").unlink()
    assert runs.collect([tmp_path]).unfinished == [tmp_path / "going"]


def test_the_printed_table_shows_the_options(photos: Path, tmp_path: Path) -> None:
    assert "gem p=5 " in printed(judged(photos, tmp_path, "evaluate.poolings=[gap,{gem:{p:5}}]"))
