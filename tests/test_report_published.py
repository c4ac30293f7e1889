"""Published numbers beside ours: whose they are is said, and ours alone are bold."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from test_report import result

from retrieval.report import published, runs
from retrieval.report.__main__ import main
from retrieval.report.table import Table

Write = Callable[..., Path]
LEVELS = {"medium/mAP": 0.301, "hard/mAP": 0.1, "easy/mAP": 0.5}
KNOWN = published._read()


def beside(folder: Path) -> tuple[dict[str, Table], str]:
    """The tables by benchmark, and the notes."""
    tables, notes = published.published(runs.collect([folder]).rows)
    return {table.title.split()[2].strip(","): table for table in tables}, "\n".join(notes)


def ours(table: Table) -> list[list[str]]:
    return [[cell.text for cell in line] for line in table.lines if line[0].text == "ours"]


def test_ours_stand_first_with_mean_and_sd(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        more = {"trained_on": "SfM-120k", "dim": 512}
        write(f"{seed}", result(benchmark="roxford5k", metrics=LEVELS, seed=seed, **more))
    tables, _ = beside(tmp_path)
    assert tables["roxford5k"].lines[0][0].text == "ours"
    words, numbers = ours(tables["roxford5k"])[0][:4], ours(tables["roxford5k"])[0][4:]
    assert words == ["ours", "resnet10t · gem", "SfM-120k", "224 px, 512-d, 1 scale"]
    assert numbers == ["30.1 ± 0.0", "10.0 ± 0.0", "50.0 ± 0.0"]


def test_the_best_of_ours_alone_is_bold_trained_or_not(write: Write, tmp_path: Path) -> None:
    lower = dict.fromkeys(LEVELS, 0.11)
    write("a", *(result(benchmark="rparis6k", metrics=of, untrained=of is lower) for of in (LEVELS, lower)))
    table = beside(tmp_path)[0]["rparis6k"]
    assert [cell.text for line in table.lines for cell in line if cell.best] == ["30.1", "50.0", "11.0"]


def test_a_million_distractors_make_another_benchmark(write: Write, tmp_path: Path) -> None:
    numbers = (0, published.MILLION, 500)
    write("a", *(result(benchmark="roxford5k", metrics=LEVELS, convention={"distractors": n}) for n in numbers))
    tables, _ = beside(tmp_path)
    assert [len(ours(tables[name])) for name in ("roxford5k", "roxford5k_1m")] == [1, 1]


def test_without_ours_it_is_said_that_published_numbers_stand_alone(write: Write, tmp_path: Path) -> None:
    write("a", result(benchmark="roxford5k", metrics=LEVELS))
    said = beside(tmp_path)[1]
    assert "No run here was judged on rparis6k, roxford5k_1m, rparis6k_1m: there the published numbers stand" in said


def test_what_is_not_ours_is_marked_in_every_form(write: Write, tmp_path: Path) -> None:
    write("a", result())
    assert main([str(tmp_path), "--published"]) == 0
    name, address = "DINOv2 MODEL_CARD †", KNOWN["sources"]["dinov2"]["address"]
    page, markdown, latex = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md", "tex"))
    assert f'<em><a href="{address}">{name}</a></em>' in page
    assert f"| *[{name}]({address})* |" in markdown
    assert r"\emph{DINOv2 MODEL\_CARD \textdagger{}}" in latex


def test_published_numbers_are_there_only_when_they_are_asked_for(write: Write, tmp_path: Path) -> None:
    write("a", result(benchmark="roxford5k", metrics=LEVELS))
    assert main([str(tmp_path)]) == 0 and "published" not in (tmp_path / "report.md").read_text()


def test_every_result_has_a_source_a_benchmark_and_values_in_percent() -> None:
    for one in KNOWN["results"]:
        scores = [score for name in published.BENCHMARKS for score in one.get(name, {}).values()]
        assert one["source"] in KNOWN["sources"] and {"network", "training", "test"} <= one.keys()
        assert {*one} <= {"source", "network", "training", "test", *published.BENCHMARKS}
        assert scores and all(1 < score < 100 for score in scores)


def test_every_number_is_one_of_the_protocol(shared: Path) -> None:
    file = shared / "PROTOCOL.md"
    if not file.is_file():
        pytest.skip("the protocol's page is not there")
    section = file.read_text().partition("## Published numbers")[2].partition("\n## ")[0]
    stated = {float(number) for number in re.findall(r"\d+\.\d+", section)}
    ours = {score for one in KNOWN["results"] for name in published.BENCHMARKS for score in one.get(name, {}).values()}
    assert ours == stated - {2.99}  # a p
