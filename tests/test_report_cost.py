"""The table of cost: what is a mean over runs, and what is no cost at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_report import result

from retrieval.report import cost, runs
from retrieval.report.__main__ import main

Write = Callable[..., Path]


def lines_of(folder: Path) -> list[dict[str, str]]:
    """The lines of the table, by the titles of its columns."""
    tables, _ = cost.cost(runs.collect([folder]).rows)
    return [dict(zip(t.header, (cell.text for cell in line), strict=True)) for t in tables for line in t.lines]


def said(folder: Path) -> str:
    return "\n".join(cost.cost(runs.collect([folder]).rows)[1])


def test_training_is_a_mean_over_runs_however_many_rows_they_have(write: Write, tmp_path: Path) -> None:
    for seed, seconds in enumerate((100, 200)):
        spent = {"trained_seconds": seconds, "steps": 50, "peak_memory": 2**31, "parameters": 2_500_000, "seed": seed}
        write(f"{seed}", *(result(resolution=r, **spent) for r in (224, 320)))
    (line,) = lines_of(tmp_path)
    shown = ("parameters (M)", "training (s)", "steps", "peak memory (GiB)")
    assert [line[title] for title in shown] == ["2.50", "150 ± 71", "50", "2.00"]


def test_a_row_without_a_cost_has_none_shown(write: Write, tmp_path: Path) -> None:
    write("a", result(steps=50), result(pooling="gap"))
    assert [line["steps"] for line in lines_of(tmp_path)] == ["-", "50"]


def test_what_no_row_says_is_no_column(write: Write, tmp_path: Path) -> None:
    write("a", result())
    assert [*lines_of(tmp_path)[0]][3:] == ["p at the end", "landmarks, 224 px (s)"]


def test_rows_that_say_nothing_have_no_table(write: Write, tmp_path: Path) -> None:
    write("a", result(p=None, seconds=None))
    assert lines_of(tmp_path) == [] and said(tmp_path) == ""


def test_a_row_says_itself_that_its_descriptors_were_read(write: Write, tmp_path: Path) -> None:
    write("a", result(seconds=9.0, described=480), result(seed=1, seconds=3.0, described=0))
    assert lines_of(tmp_path)[0]["landmarks, 224 px (s)"] == "9.0"


@pytest.mark.parametrize(
    ("each", "shown"),
    [
        ([2.5, 3.0], "2.75 (2.50 to 3.00)"),
        ([3.0, 3.0], "3.00"),
        ([{"mean": 3, "min": 1, "max": 6}], "3.00 (1.00 to 6.00)"),
    ],
)
def test_p_is_a_mean_over_seeds_with_its_range(write: Write, tmp_path: Path, each: list[Any], shown: str) -> None:
    for seed, p in enumerate(each):
        write(f"{seed}", result(seed=seed, p=p))
    assert lines_of(tmp_path)[0]["p at the end"] == shown


def test_benchmarks_described_in_one_pass_have_its_time_once(write: Write, tmp_path: Path) -> None:
    for seed, seconds in enumerate((10.0, 20.0)):
        write(f"{seed}", *(result(benchmark=name, seed=seed, seconds=seconds) for name in ("b", "a")))
    assert lines_of(tmp_path)[0]["a + b, 224 px (s)"] == "15.0 ± 7.1"


def test_descriptors_that_were_kept_are_no_cost(write: Write, tmp_path: Path) -> None:
    for seed, seconds in enumerate((10.0, 0.03)):
        write(f"{seed}", result(seed=seed, seconds=seconds))
    assert lines_of(tmp_path)[0]["landmarks, 224 px (s)"] == "10.0"
    assert "1 passes that read descriptors which were kept are left out" in said(tmp_path)


def test_a_pass_that_was_shared_says_by_how_many(write: Write, tmp_path: Path) -> None:
    write("a", *(result(pooling=pooling, poolings_in_pass=2, seconds=8.0) for pooling in ("gem", "gap")))
    write("b", result(seed=1, poolings_in_pass=1, seconds=7.0))
    assert [line["landmarks, 224 px (s)"] for line in lines_of(tmp_path)] == ["8.0 of 2", "7.0, 8.0 of 2"]


def test_times_of_two_devices_share_no_mean(write: Write, tmp_path: Path) -> None:
    write("a", result(seconds=9.0))
    write("b", result(seconds=1.0, seed=1, device="cuda"))
    (line,) = lines_of(tmp_path)
    assert (line["landmarks, 224 px (s) on cpu"], line["landmarks, 224 px (s) on cuda"]) == ("9.0", "1.0")


def test_what_memory_is_meant_is_said_where_there_is_any(write: Write, tmp_path: Path) -> None:
    write("a", result())
    assert "peak memory" not in said(tmp_path)
    write("b", result(peak_memory=2**30, seed=1))
    assert "of the GPU or, without one, of the process" in said(tmp_path)


@pytest.mark.parametrize("rate", [0, 1])
def test_seconds_on_a_frozen_backbone_are_said_to_compare_no_poolings(write: Write, tmp_path: Path, rate: int) -> None:
    write("a", result(training={"lr_multipliers": {"backbone": rate}}))
    assert ("a frozen backbone may have read" in said(tmp_path)) == (rate == 0)


def test_notes_on_cost_are_left_out_of_a_file_without_its_table(write: Write, tmp_path: Path) -> None:
    write("a", result())
    readme = tmp_path / "README.md"
    for only, there in (("Cost", True), ("mAP", False)):
        readme.write_text("<!-- x -->\n<!-- /x -->\n")
        assert main([str(tmp_path), "--insert", str(readme), "--marker", "x", "--only", only]) == 0
        assert ("- Cost: " in readme.read_text()) == there
