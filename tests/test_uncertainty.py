"""Intervals, means over landmarks and differences between lines, from values per query on disk."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from test_report import result

from retrieval import metrics, statistics
from retrieval.report import runs, summary, uncertainty, writing
from retrieval.report.__main__ import main
from retrieval.report.differences import p_value
from retrieval.report.table import Table

Write = Callable[..., Path]
QUERIES, LANDMARKS = 30, np.repeat([f"landmark{i}" for i in range(10)], 3)
IN_ORDER = np.arange(QUERIES)
PCA = "pca 256 on folder train"


def scored(seed: int, shift: float = 0.0) -> NDArray[np.float64]:
    """An AP for each query."""
    return np.random.default_rng(seed).uniform(0.2, 0.6, QUERIES) + shift


@pytest.fixture
def judged(tmp_path: Path, write: Write) -> Callable[..., Path]:
    """Writes a run of one row, with its values per query."""

    def judged(
        name: str,
        values: ArrayLike,
        landmarks: Sequence[str] | NDArray = LANDMARKS,
        order: ArrayLike = IN_ORDER,
        metric: str = "AP",
        **other: Any,
    ) -> Path:
        values, order = np.asarray(values, dtype=float), np.asarray(order)
        mean = metrics.mean_name(metric)
        low, high = statistics.interval(values, landmarks)
        found = {"metrics": {mean: np.nanmean(values)}, "intervals": {mean: [low, high]}, "per_query": "queries.npz"}
        found["macro"] = {mean: statistics.macro_mean(values, landmarks)}
        folder = write(name, result(**{**found, **other}))
        queries = np.array([f"query{i}.jpg" for i in range(QUERIES)])
        arrays: dict[str, Any] = {metric: values[order]}
        np.savez(folder / "queries.npz", queries=queries[order], landmarks=np.asarray(landmarks)[order], **arrays)
        return folder

    return judged


def texts(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.header, (cell.text for cell in line), strict=True)) for line in table.lines]


def report_of(folder: Path, **asked: Any) -> writing.Report:
    return writing.report_of(runs.collect([folder]), **asked)


def intervals_of(folder: Path) -> dict[str, str]:
    """The first line of the first table of intervals."""
    tables, _ = uncertainty.interval_tables(runs.collect([folder]).rows)
    return texts(tables[0])[0]


def differences(folder: Path, *pair: str) -> list[dict[str, str]]:
    return texts(report_of(folder, pair=pair).tables[-1])


def test_one_seed_shows_the_interval_of_its_row(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0), intervals={"mAP": [0.111, 0.999]})
    assert re.fullmatch(r"\d\d\.\d \[11\.1, 99\.9\]", intervals_of(tmp_path)["landmarks, 224 px"])


def test_seeds_are_averaged_per_query_before_the_interval(judged: Write, tmp_path: Path) -> None:
    for seed in range(3):
        judged(f"seed{seed}", scored(seed), seed=seed)
    low, high = statistics.interval(np.mean([scored(seed) for seed in range(3)], axis=0), LANDMARKS)
    assert intervals_of(tmp_path)["landmarks, 224 px"].endswith(f" [{100 * low:.1f}, {100 * high:.1f}]")


def test_seeds_on_other_queries_have_no_interval_and_a_note(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0))
    judged("b", scored(1), order=[*range(28), 29], seed=1)
    tables, said = uncertainty.interval_tables(runs.collect([tmp_path]).rows)
    assert "[" not in texts(tables[0])[0]["landmarks, 224 px"] and "query28.jpg is not in both" in said[-1]


def test_the_mean_over_landmarks_stands_beside_that_over_queries(judged: Write, tmp_path: Path) -> None:
    landmarks = ["big"] * 28 + ["small"] * 2
    judged("a", [1.0] * 28 + [0.0] * 2, landmarks)
    line = intervals_of(tmp_path)
    assert line["landmarks, 224 px"].startswith("93.3 ") and line["landmarks, 224 px, macro"] == "50.0"


def test_a_landmark_to_each_query_needs_no_mean_over_landmarks(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0), [f"landmark{i}" for i in range(QUERIES)])
    assert not [title for title in intervals_of(tmp_path) if "macro" in title]


def test_rows_without_intervals_have_no_table_of_them(write: Write, tmp_path: Path) -> None:
    write("a", result())
    assert uncertainty.interval_tables(runs.collect([tmp_path]).rows) == ([], [])


def test_a_difference_is_that_of_the_statistics(judged: Write, tmp_path: Path) -> None:
    for seed in range(2):
        judged(f"gem{seed}", scored(seed), seed=seed)
        judged(f"gap{seed}", scored(10 + seed, 0.1), seed=seed, pooling="gap")
    a, b = (np.mean([scored(first + s, shift) for s in range(2)], axis=0) for first, shift in ((10, 0.1), (0, 0.0)))
    of = statistics.difference(a, b, LANDMARKS)
    (line,) = differences(tmp_path, "gap", "gem")
    assert line["difference"] == f"{100 * of.mean:+.2f}"
    assert line["95 % interval"] == f"[{100 * of.low:+.2f}, {100 * of.high:+.2f}]"
    assert (line["landmarks"], line["queries"]) == ("10", "30")


def test_queries_are_paired_by_name(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0))
    judged("b", scored(0, 0.1), order=np.random.default_rng(0).permutation(QUERIES), pooling="gap")
    (line,) = differences(tmp_path, "gap", "gem")
    assert (line["difference"], line["95 % interval"]) == ("+10.00", "[+10.00, +10.00]")


def test_other_queries_are_refused_and_named(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0))
    judged("b", scored(0), order=IN_ORDER[:29], pooling="gap")
    with pytest.raises(ValueError, match=r"gap and gem on landmarks at 224 px: .* query29\.jpg is not in both"):
        differences(tmp_path, "gap", "gem")


def test_another_landmark_of_a_query_is_refused(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0))
    judged("b", scored(0), LANDMARKS[::-1], pooling="gap")
    with pytest.raises(ValueError, match="the landmark of a query must be the same"):
        differences(tmp_path, "gap", "gem")


def test_queries_without_a_relevant_image_are_not_counted(judged: Write, tmp_path: Path) -> None:
    values = np.where(IN_ORDER < 6, np.nan, scored(0))
    judged("a", values, metric="hard/AP")
    judged("b", values + 0.1, metric="hard/AP", pooling="gap")
    (line,) = differences(tmp_path, "gap", "gem")
    assert (line["level"], line["landmarks"], line["queries"]) == ("Hard", "8", "24")


def test_every_other_line_stands_against_one(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0))
    judged("b", scored(0, 0.1), pooling="gap")
    judged("c", scored(0, 0.2), whitening=PCA)
    made = report_of(tmp_path, reference="gem")
    found = {line["line"]: line["landmarks, 224 px"].split(" [")[0] for line in texts(made.tables[-1])}
    assert found == {"gap": "+10.00", f"gem, {PCA}": "+20.00"}
    assert "Compared on landmarks: 30 queries of 10 landmarks." in made.notes
    assert made.notes[-1] == "mAP of each line minus that of gem: 2 P values, not corrected for their number."


def headline(folder: Path) -> str:
    """What a report says first of the two best lines."""
    found = runs.collect([folder])
    said = summary.summary(found)[-1]
    assert said in (writing.write_files(writing.report_of(found), folder).parent / "report.md").read_text()
    return said


def test_the_headline_ranks_lines_that_their_test_tells_apart(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0), metrics={"mAP": 0.4})
    judged("b", scored(0, 0.1), pooling="gap", metrics={"mAP": 0.5})
    assert headline(tmp_path) == (
        "landmarks: the highest mAP is 50.0 by gap at 224 px; next is 40.0 by gem at 224 px (P value 0.002, one seed "
        "each)."
    )


def test_the_headline_ranks_no_lines_that_their_test_does_not_tell_apart(judged: Write, tmp_path: Path) -> None:
    for seed in range(2):
        judged(f"a{seed}", scored(seed), metrics={"mAP": 0.4}, seed=seed)
        judged(f"b{seed}", scored(5 + seed), pooling="gap", metrics={"mAP": 0.41}, seed=seed)
    a, b = (np.mean([scored(first), scored(first + 1)], axis=0) for first in (0, 5))
    p = statistics.difference(b, a, LANDMARKS).p_value
    assert p >= 0.05 and headline(tmp_path) == (
        f"landmarks: the highest values of mAP are not told apart (P value {p:.3f}): 41.0 ± 0.0 by gap at 224 px, "
        "40.0 ± 0.0 by gem at 224 px."
    )


def test_the_headline_says_where_landmarks_are_too_few_to_tell_lines_apart(judged: Write, tmp_path: Path) -> None:
    few = np.repeat(["a", "b", "c"], 10)
    judged("a", scored(0), few, metrics={"mAP": 0.4})
    judged("b", scored(0, 0.1), few, pooling="gap", metrics={"mAP": 0.5})
    assert "not told apart (P value 0.250, and 3 landmarks can give none below 0.25, one seed each)" in headline(
        tmp_path
    )


def test_the_headline_says_why_two_lines_were_not_tested(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0), metrics={"mAP": 0.4})
    judged("b", scored(0), order=IN_ORDER[:29], pooling="gap", metrics={"mAP": 0.5})
    assert "(not tested: the same queries must be compared, query29.jpg is not in both)." in headline(tmp_path)


def test_one_comparison_needs_no_word_on_correction(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0))
    judged("b", scored(0, 0.1), pooling="gap")
    assert "corrected" not in report_of(tmp_path, pair=("gap", "gem")).notes[-1]


def test_a_line_without_values_per_query_is_left_out_by_name(judged: Write, write: Write, tmp_path: Path) -> None:
    judged("a", scored(0))
    judged("b", scored(0, 0.1), pooling="gap")
    write("old", result(pooling="max"))
    made = report_of(tmp_path, reference="gem")
    assert [line["line"] for line in texts(made.tables[-1])] == ["gap"]
    assert made.notes[-1].startswith("Not compared: max and gem on landmarks at 224 px") and "old" in made.notes[-1]


def test_two_lines_without_values_per_query_cannot_be_compared(write: Write, tmp_path: Path) -> None:
    write("a", result(), result(pooling="gap"))
    with pytest.raises(ValueError, match="name no values per query: judge that run again"):
        differences(tmp_path, "gap", "gem")


def test_benchmarks_are_compared_by_their_own_metric(judged: Write, tmp_path: Path) -> None:
    for pooling, shift in (("gem", 0.0), ("gap", 0.1)):
        judged(f"places {pooling}", scored(0, shift), metric="recall@1", benchmark="places", pooling=pooling)
        judged(f"google {pooling}", scored(0, shift), metric="private/AP@100", benchmark="google", pooling=pooling)
    found = [(line["benchmark"], line["level"]) for line in differences(tmp_path, "gap", "gem")]
    assert found == [("google mAP@100", "Private"), ("places recall@1", "-")]


def test_a_whole_label_is_meant_before_a_part(judged: Write, tmp_path: Path) -> None:
    judged("a", scored(0))
    judged("b", scored(0, 0.1), whitening=PCA)
    assert differences(tmp_path, "pca", "gem")[0]["difference"] == "+10.00"


@pytest.mark.parametrize(("text", "fault"), [("p=", "2 lines"), ("salad", "no line of the tables fits 'salad'")])
def test_a_label_must_fit_one_line(write: Write, tmp_path: Path, text: str, fault: str) -> None:
    write("a", *(result(options=f"p={p}", settings=str(p)) for p in (2, 5)))
    with pytest.raises(ValueError, match=rf"{fault}[^;]*; choose by one of\n  gem \(p=2\)\n  gem \(p=5\)$"):
        differences(tmp_path, text, "p=5")


def test_a_line_is_not_compared_with_itself(write: Write, tmp_path: Path) -> None:
    write("a", result())
    with pytest.raises(ValueError, match="both fit 'gem'"):
        differences(tmp_path, "gem", "ge")


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"PK\3\4 cut off")])
def test_values_that_cannot_be_read_are_named(judged: Write, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    judged("a", scored(0))
    damage(judged("b", scored(0), pooling="gap") / "queries.npz")
    with pytest.raises(ValueError, match=r"b/queries\.npz cannot be read"):
        differences(tmp_path, "gap", "gem")


def test_values_that_are_gone_are_warned_of(judged: Write, tmp_path: Path) -> None:
    (judged("a", scored(0)) / "queries.npz").unlink()
    assert "values per query that are gone" in runs.collect([tmp_path]).warnings[0]


@pytest.mark.parametrize(("p", "text"), [(0.00012, "<0.001"), (0.001, "0.001"), (0.0486, "0.049"), (1.0, "1.000")])
def test_p_values_are_printed_to_three_digits(p: float, text: str) -> None:
    assert p_value(p) == text


@pytest.mark.parametrize("asked", [["--compare", "gap", "gem"], ["--against", "gem"]])
def test_comparisons_are_in_every_output(judged: Write, tmp_path: Path, asked: list[str]) -> None:
    judged("a", scored(0))
    judged("b", scored(0, 0.1), pooling="gap")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results -->\n<!-- /results -->\n")
    assert main([str(tmp_path), *asked, "--insert", str(readme)]) == 0
    for file in (readme, tmp_path / "report.md", tmp_path / "report.html"):
        assert "[+10.00, +10.00]" in file.read_text()


@pytest.mark.parametrize("asked", [{"pair": ("gap", "gem")}, {"reference": "gem"}])
def test_the_value_of_a_test_has_another_name_than_the_exponent(
    judged: Write, tmp_path: Path, asked: dict[str, Any]
) -> None:
    judged("a", scored(0))
    judged("b", scored(0, 0.1), pooling="gap", p=None)
    made = report_of(tmp_path, **asked)
    header, cells = made.tables[-1].records()
    assert [name for name in header if str(name).endswith("P value")] and "p" not in header
    assert made.tables[0].header[-1] == "p" and any("P value: two-sided test" in note for note in made.notes)
    assert not [text for text in (*map(str, cells), *made.notes) if re.search(r"\bp( values?|:| [=<])", text)]


def test_a_label_that_fits_nothing_ends_the_command(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a", result())
    assert main([str(tmp_path), "--against", "salad"]) == 2 and "choose by one of" in capsys.readouterr().err
