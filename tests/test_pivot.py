"""Tables by any keys: which row lands in which cell, and what a cell never averages."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import result

from retrieval.report import lines, pivot, points, runs
from retrieval.report.__main__ import main
from retrieval.report.pivot import Asked
from retrieval.report.table import Table

Write = Callable[..., Path]
CONFIG = "names: {{pooling: gem}}\npooling: {{p: {p}}}\noptimizer: {{lr: {lr}}}\nextract: {{dtype: float32}}\n"
TRAINING = {"loss": "arcface", "sampler": "landmarks"}


def by(folder: Path, rows: str = "", columns: str = "", values: str = "") -> Table:
    """The table by keys that are separated by spaces."""
    asked = Asked(rows.split(), columns.split(), values.split())
    return pivot.pivot(runs.collect([folder]).rows, asked)[0]


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in line] for line in table.lines]


def notes(folder: Path, rows: str, columns: str = "") -> str:
    return "\n".join(pivot.pivot(runs.collect([folder]).rows, Asked(rows.split(), columns.split(), []))[1])


def test_a_cell_is_the_mean_and_sd_over_seeds(write: Write, tmp_path: Path) -> None:
    for seed, value in enumerate((0.40, 0.42, 0.47)):
        write(f"{seed}", result(value, seed=seed))
    table = by(tmp_path, "pooling")
    assert table.header == ["pooling", "seeds", "landmarks, 224 px"] and texts(table) == [["gem", "3", "43.0 ± 3.6"]]


def test_keys_of_a_training_name_rows(write: Write, tmp_path: Path) -> None:
    for loss, settings in (("arcface", "aaaa"), ("smooth_ap", "bbbb")):
        write(loss, result(settings=settings, training=TRAINING | {"loss": loss}))
    assert [line[:2] for line in texts(by(tmp_path, "pooling loss"))] == [["gem", "arcface"], ["gem", "smooth_ap"]]


def test_keys_of_a_config_name_columns_in_the_order_of_their_numbers(write: Write, tmp_path: Path) -> None:
    for settings, lr in (("aaaa", "0.01"), ("bbbb", "5.0e-05")):
        write(settings, result(settings=settings), config=CONFIG.format(p=3.0, lr=lr))
    assert by(tmp_path, "pooling", "optimizer.lr").header == [
        "pooling",
        "seeds",
        "optimizer.lr=5e-05",
        "optimizer.lr=0.01",
    ]


def test_an_untrained_row_has_no_key_of_a_training(write: Write, tmp_path: Path) -> None:
    write("a", result(), result(untrained=True, settings="bbbb"), config=CONFIG.format(p=3.0, lr=0.1))
    assert [line[:2] for line in texts(by(tmp_path, "optimizer.lr"))] == [["0.1", "trained"], ["-", "untrained"]]


def test_each_of_several_poolings_has_the_config_in_its_own_folder(write: Write, tmp_path: Path) -> None:
    rows = [result(options=options, settings=options, untrained=True) for options in ("p=5", "p=7")]
    folder = write("a", *rows, config="seed: 0\n")
    for p in (5, 7):
        (folder / f"gem_p_{p}").mkdir()
        usual = "per_channel: false, learned: true, p_min: null, eps: 1.0e-06, negative: clamp"
        pooling = f"{{_target_: retrieval.poolings.GeM, p: {p}, {usual}}}"
        (folder / f"gem_p_{p}/config.yaml").write_text(f"names: {{pooling: gem}}\npooling: {pooling}\n")
    assert [line[0] for line in texts(by(tmp_path, "pooling.p"))] == ["5", "7"]


def test_a_pooling_on_the_backbone_of_another_has_no_key_of_that_ones_pooling(write: Write, tmp_path: Path) -> None:
    write("a", result(pooling="max", trained_with="gem"), config=CONFIG.format(p=3.0, lr=0.1))
    write("b", result(), config=CONFIG.format(p=4.0, lr=0.2))
    with pytest.raises(ValueError, match="no row has the key 'pooling.p'"):
        by(tmp_path / "runs/a", "pooling.p")
    assert texts(by(tmp_path / "runs/a", "optimizer.lr"))[0][0] == "0.1"


def test_a_key_that_no_row_has_is_refused_with_the_near_ones(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a", result(training=TRAINING))
    assert main([str(tmp_path), "--rows", "samplr"]) == 2
    assert "no row has the key 'samplr': did you mean sampler or" in capsys.readouterr().err


def test_how_a_run_was_to_be_judged_is_no_key(write: Write, tmp_path: Path) -> None:
    write("a", result(), config=CONFIG.format(p=3.0, lr=0.1))
    with pytest.raises(ValueError, match="no row has the key 'extract.dtype': did you mean store_dtype or dtype"):
        by(tmp_path, "extract.dtype")


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [("seed", "", "cannot be by seed"), ("pooling", "pooling", "once: pooling is there 2 times")],
)
def test_keys_that_cannot_be_are_refused(write: Write, tmp_path: Path, rows: str, columns: str, message: str) -> None:
    write("a", result())
    with pytest.raises(ValueError, match=message):
        by(tmp_path, rows, columns)


def test_a_metric_that_no_row_has_is_refused_with_those_there_are(write: Write, tmp_path: Path) -> None:
    write("a", result())
    with pytest.raises(ValueError, match="no row has the metric 'recall@1': accepted: mAP, mP@1"):
        by(tmp_path, "pooling", values="recall@1")


def test_a_run_without_a_config_is_said_where_a_key_of_it_is_asked_for(write: Write, tmp_path: Path) -> None:
    write("a", result(), config=CONFIG.format(p=3.0, lr=0.1))
    write("b", result(pooling="gap", settings="bbbb"), config="a: [")
    assert f"{tmp_path / 'runs/b'} has no config.yaml that can be read: optimizer.lr is not known" in notes(
        tmp_path, "pooling", "optimizer.lr"
    )


def test_trained_and_untrained_never_share_a_cell(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4), result(0.2, untrained=True, seed=1))
    assert texts(by(tmp_path, "pooling")) == [["gem", "trained", "1", "40.0"], ["gem", "untrained", "1", "20.0"]]


def test_a_row_is_split_by_what_differs_beside_the_seed(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        for sampler in ("landmarks", "balanced"):
            row = result(seed=seed, settings=sampler, training=TRAINING | {"sampler": sampler})
            write(f"{sampler}{seed}", row)
    write("gap", result(pooling="gap", settings="cccc", training=TRAINING))
    assert [line[:3] for line in texts(by(tmp_path, "pooling"))] == [
        ["gap", "-", "1"],
        ["gem", "sampler=balanced", "2"],
        ["gem", "sampler=landmarks", "2"],
    ]
    assert "Split by sampler, as a mean is over seeds alone: gem." in notes(tmp_path, "pooling")


def test_settings_that_only_configs_tell_apart_split_a_row(write: Write, tmp_path: Path) -> None:
    for settings, lr in (("aaaa", 0.1), ("bbbb", 0.2)):
        write(settings, result(settings=settings), config=CONFIG.format(p=3.0, lr=lr))
    assert [line[1] for line in texts(by(tmp_path, "pooling"))] == ["optimizer.lr=0.1", "optimizer.lr=0.2"]


def test_settings_that_nothing_tells_apart_are_split_by_their_hash(write: Write, tmp_path: Path) -> None:
    for settings in ("aaaa", "bbbb"):
        write(settings, result(settings=settings))
    assert [line[1] for line in texts(by(tmp_path, "pooling"))] == ["settings=aaaa", "settings=bbbb"]


def test_levels_and_resolutions_that_are_no_key_split_rows(write: Write, tmp_path: Path) -> None:
    levels = {"hard/mAP": 0.2, "medium/mAP": 0.4}
    write("a", *(result(metrics=levels, resolution=r) for r in (224, 1024)))
    assert [line[1] for line in texts(by(tmp_path, "pooling", "benchmark"))] == [
        "Medium, 224 px",
        "Medium, 1024 px",
        "Hard, 224 px",
        "Hard, 1024 px",
    ]


def test_several_metrics_are_columns(write: Write, tmp_path: Path) -> None:
    write("a", result(metrics={"mAP": 0.4, "mP@1": 0.5}))
    header = by(tmp_path, "pooling", "benchmark", "mP@1 mAP").header
    assert header == ["pooling", "seeds", "landmarks, mAP", "landmarks, mP@1"]


def test_the_best_is_that_of_its_benchmark_and_resolution_wherever_it_stands(write: Write, tmp_path: Path) -> None:
    where = [("a", 0.3, "gem"), ("b", 0.4, "gem"), ("a", 0.5, "gap"), ("b", 0.2, "gap")]
    write("a", *(result(value, benchmark=benchmark, pooling=pooling) for benchmark, value, pooling in where))
    best = [cell.text for line in by(tmp_path, "benchmark", "pooling").lines for cell in line if cell.best]
    assert best == ["50.0", "40.0"]


def test_an_untrained_value_is_the_best_where_it_is_the_highest(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4), result(0.9, untrained=True))
    assert [cell.text for line in by(tmp_path, "pooling").lines for cell in line if cell.best] == ["90.0"]


def test_the_table_comes_first_and_only_when_it_is_asked_for(write: Write, tmp_path: Path) -> None:
    write("a", result())
    assert main([str(tmp_path)]) == 0 and "by pooling" not in (tmp_path / "report.md").read_text()
    assert main([str(tmp_path), "--rows", "pooling", "--columns", "benchmark", "--values", "mP@1"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Results\n\n1 run of gem") and re.findall(r"\*\*(.*?)\*\*", text)[0] == "mP@1 by pooling"


some_rows = st.lists(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2),
            "pooling": st.sampled_from(["gem", "gap"]),
            "benchmark": st.sampled_from(["a", "b"]),
            "resolution": st.sampled_from([224, 320]),
            "untrained": st.booleans(),
            "settings": st.sampled_from(["aaaa", "bbbb"]),
            "whitening": st.sampled_from([None, "pca 64"]),
            "skipped": st.sampled_from([0, 3]),
            "training": st.sampled_from([None, TRAINING, TRAINING | {"loss": "smooth_ap"}]),
        }
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: repr(sorted(row.items(), key=str)),
)
some_keys = st.lists(
    st.sampled_from(["pooling", "benchmark", "resolution", "whitening", "level", "untrained", "skipped"]),
    unique=True,
    max_size=4,
)


@given(some_rows, some_keys, st.integers(0, 4), st.integers(0, 1000))
def test_every_value_lands_in_one_cell_with_those_that_differ_in_seed_alone(
    many: list[dict[str, Any]], keys: list[str], first: int, random: int
) -> None:
    values = np.random.default_rng(random).uniform(size=len(many))
    rows = [
        result(float(value), folder="", trained_with=None, options="", convention={}, **row)
        for row, value in zip(many, values, strict=True)
    ]
    lines.describe(rows)
    table, _ = pivot.pivot(rows, Asked(keys[:first], keys[first:], ["mAP"]))
    cells = [cell.numbers for line in table.lines for cell in line if cell.numbers]
    alike: dict[tuple[Any, ...], list[float]] = {}
    for point in points.points(rows, ["mAP"]):
        alike.setdefault(point.is_of, []).append(point.value)
    expected = sorted((100 * float(np.mean(of)), len(of)) for of in alike.values())
    found = sorted((cell["mean"], cell["n"]) for cell in cells)
    assert np.allclose(found, expected)
