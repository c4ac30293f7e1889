"""Which rows stand on one line, what a line says of how it was evaluated, which table a metric stands in."""

import csv
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import ranking, result

from retrieval.report import lines, notes, pictures, pivot, runs, tables, writing

Write = Callable[..., Path]
THREE = [1.0, 2**-0.5, 0.5]
PCA, AQE = "pca 256 on folder train", "alpha_qe k=10 alpha=3"


def described(folder: Path) -> list[str]:
    """The descriptor of each line of the tables."""
    return [line.descriptor for line in tables.line_labels(runs.collect([folder]).rows)]


def titles(folder: Path) -> list[str]:
    return [table.title for table in tables.tables(runs.collect([folder]).rows)]


def said(folder: Path) -> str:
    return "\n".join(notes.notes(runs.collect([folder]).rows))


def test_lines_say_what_differs_in_words(write: Write, tmp_path: Path) -> None:
    many = [{}, {"scales": THREE}, {"scales": THREE, "whitening": PCA}]
    write("a", *(result(**how) for how in [*many, {"scales": THREE, "whitening": PCA, "rerank": AQE}]))
    three = "3 scales 1 0.707 0.5"
    assert described(tmp_path) == ["1 scale", three, f"{three}, {PCA}", f"{three}, {PCA}, {AQE}"]


def test_the_descriptor_stands_between_pooling_and_weights(write: Write, tmp_path: Path) -> None:
    write("a", result(), result(whitening=PCA))
    table = tables.tables(runs.collect([tmp_path]).rows)[0]
    assert table.header[:4] == ["backbone", "pooling", "descriptor", "weights"] and table.names == 4
    assert [line[2].text for line in table.lines] == ["-", PCA]


def test_what_all_rows_share_is_a_note_and_no_column(write: Write, tmp_path: Path) -> None:
    write("a", result(whitening=PCA), result(whitening=PCA, pooling="gap"))
    assert "descriptor" not in tables.tables(runs.collect([tmp_path]).rows)[0].header
    assert f"All rows: 1 scale, aspect native, {PCA}, search exact." in said(tmp_path)


def test_settings_that_differ_are_named_in_a_note(write: Write, tmp_path: Path) -> None:
    write("a", result(), result(whitening=PCA, junk_known=True))
    assert "evaluated (whitening, junk known); no mean is taken over lines" in said(tmp_path)


OTHER: dict[str, Any] = {
    "scales": THREE, "aspect": "square", "dtype": "bfloat16", "draft": True, "compile": True, "store_dtype": "float16",
    "whitening": PCA, "search": "faiss IVF1024", "rerank": AQE, "junk_known": True, "convention": {"crop": True},
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER)
def test_seeds_share_no_mean_where_a_setting_differs(write: Write, tmp_path: Path, key: str) -> None:
    write("a", result(0.4))
    write("b", result(0.6, seed=1, **{key: OTHER[key]}))
    assert len(set(described(tmp_path))) == 2


@pytest.mark.parametrize("key", OTHER)
def test_neither_of_two_settings_counts_as_a_repetition(write: Write, tmp_path: Path, key: str) -> None:
    write("a", result(0.4), result(0.6, **{key: OTHER[key]}))
    assert len(runs.collect([tmp_path]).rows) == 2


def test_every_setting_that_tells_evaluations_apart_is_tried_above() -> None:
    assert {*lines.EVALUATED} - {*OTHER} == {"aggregate"}


def test_old_rows_stand_with_new_ones_at_the_defaults(write: Write, tmp_path: Path) -> None:
    new = {"search": "exact", "draft": False, "junk_known": False, "convention": {"crop": True, "distractors": 0}}
    write("a", result(0.4, crop=True), result(0.6, seed=1, aggregate="mean", aspect="native", rerank=None, **new))
    assert described(tmp_path) == [""]


def test_how_scales_are_joined_differs_only_where_there_are_several(write: Write, tmp_path: Path) -> None:
    write("a", result(aggregate="mean"), result(scales=THREE, aggregate="mean"))
    assert described(tmp_path) == ["1 scale", "3 scales 1 0.707 0.5"]
    write("b", result(scales=THREE, aggregate="power"))
    assert described(tmp_path)[1:] == [f"3 scales 1 0.707 0.5, aggregate {how}" for how in ("mean", "power")]


def test_scales_that_read_alike_are_given_in_full(write: Write, tmp_path: Path) -> None:
    write("a", result(scales=[1.0, 0.7071]), result(scales=[1.0, 0.70712]))
    assert described(tmp_path) == ["scales [1.0, 0.7071]", "scales [1.0, 0.70712]"]


def test_a_convention_splits_the_lines_of_its_benchmark_alone(write: Write, tmp_path: Path) -> None:
    cropped = [result(benchmark="roxford5k", convention={"crop": crop}) for crop in (True, False)]
    write("a", *cropped, result(benchmark="folder", convention={}))
    grid = tables.gather(runs.collect([tmp_path]).rows, "", {"mAP"})
    found = {(line.descriptor, column.benchmark) for line, of in grid.items() for column in of}
    assert found == {("crop on", "roxford5k"), ("crop off", "roxford5k"), ("", "folder")}


def test_benchmarks_of_other_conventions_share_a_line(write: Write, tmp_path: Path) -> None:
    write("a", result(benchmark="roxford5k", convention={"crop": True}), result(benchmark="folder", convention={}))
    assert described(tmp_path) == [""] and "roxford5k (crop on): 48 queries" in said(tmp_path)


settings = st.fixed_dictionaries(
    {"scales": st.sampled_from([[1.0], [1], THREE, [1.0, 0.5]])},
    optional={
        "whitening": st.sampled_from([None, PCA, "pca 128 on folder train"]),
        "draft": st.sampled_from([None, False, True]),
        "search": st.sampled_from([None, "exact", "faiss Flat"]),
        "convention": st.sampled_from([{}, {"crop": False}, {"crop": True}, {"distractors": 10}]),
    },
)


@given(st.lists(settings, min_size=1, max_size=8))
def test_rows_share_a_line_exactly_where_every_setting_is_the_same(many: list[dict[str, Any]]) -> None:
    rows = [result(folder="", trained_with=None, options="", **{"convention": {}, **how}) for how in many]
    lines.describe(rows)

    def plainly(row: dict[str, Any]) -> tuple[Any, ...]:
        crop, distractors = (bool(row["convention"].get(key)) for key in ("crop", "distractors"))
        search = row.get("search") or "exact"
        return tuple(row["scales"]), row.get("whitening"), bool(row.get("draft")), search, crop, distractors

    for a, b in product(rows, rows):
        assert (lines.line_of(a) == lines.line_of(b)) == (plainly(a) == plainly(b))


def test_a_hash_is_not_needed_for_evaluations_of_one_model(write: Write, tmp_path: Path) -> None:
    write("a", result(), result(whitening=PCA))
    assert [*tables.names(runs.collect([tmp_path]).rows).values()] == ["gem"]


def test_every_average_precision_has_a_table_and_ranks_share_one(write: Write, tmp_path: Path) -> None:
    names = ("recall@5", "recall@1", "mP@5", "micro-AP", "mAP@100", "mAP@R", "mAP")
    write("a", result(metrics=dict.fromkeys(names, 0.5)))
    assert titles(tmp_path) == ["mAP", "mAP@R", "mAP@100", "micro-AP", "mP@k", "recall@k"]
    header = tables.tables(runs.collect([tmp_path]).rows)[-1].header
    assert header[4:] == ["landmarks recall@1, 224 px", "landmarks recall@5, 224 px"]


def test_precision_at_1_is_shown_once_where_it_is_recall_at_1(write: Write, tmp_path: Path) -> None:
    both = {"mAP": 0.5, "mP@1": 0.625, "mP@5": 0.4, "recall@1": 0.625, "recall@5": 0.9}
    write("a", result(metrics=both), result(metrics={**both, "mP@1": None, "recall@1": None}, pooling="gap"))
    shown = [title for table in tables.tables(runs.collect([tmp_path]).rows) for title in table.header if "@1" in title]
    assert shown == ["landmarks recall@1, 224 px"] and titles(tmp_path) == ["mAP", "mP@k", "recall@k"]
    assert "mP@1 equals recall@1 here, so it is shown once" in said(tmp_path)
    writing.write([tmp_path], tmp_path)
    assert "mP@1" in (tmp_path / "report.csv").read_text().splitlines()[0].split(",")


def test_a_table_that_would_repeat_another_is_left_out(write: Write, tmp_path: Path) -> None:
    write("a", result(metrics={"mAP": 0.5, "mP@1": 0.625, "recall@1": 0.625}))
    assert titles(tmp_path) == ["mAP", "recall@k"]


@pytest.mark.parametrize("other", [{"mAP": 0.5, "mP@1": 0.6}, {"mAP": 0.5, "mP@1": 0.6, "recall@1": 0.7}])
def test_precision_at_1_stands_where_a_row_has_no_equal_recall(
    write: Write, tmp_path: Path, other: dict[str, Any]
) -> None:
    write("a", result(metrics={"mAP": 0.5, "mP@1": 0.625, "recall@1": 0.625}), result(metrics=other, pooling="gap"))
    assert "mP@k" in titles(tmp_path) and "shown once" not in said(tmp_path)


def test_queries_with_equal_scores_are_counted_in_a_note(write: Write, tmp_path: Path) -> None:
    write("a", result(tied_queries=12), result(pooling="gap", tied_queries=0), result(pooling="max", tied_queries=None))
    assert (
        "gem on landmarks: 12 of 48 queries had equal scores at a labeled image; equal scores count as the mean over "
        "random orders."
    ) in said(tmp_path)
    assert "equal scores" not in said(write("b", result(tied_queries=0)))


def test_of_many_lines_with_equal_scores_some_are_named_and_the_others_counted(write: Write, tmp_path: Path) -> None:
    write("a", *(result(pooling=f"pooling{i}", settings=str(i), tied_queries=i + 1) for i in range(7)))
    assert "pooling4 on landmarks: 5 of 48 queries, and 2 other lines had equal scores" in said(tmp_path)


COUNTED = {"tied_queries": 3, "duplicates": {"copies": 4, "named": ["a.jpg", "b.jpg"]}, "of_tomorrow": [{"a": [1]}]}


def test_what_a_row_says_beyond_the_known_keys_splits_no_line(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4, convention={}))
    write("b", result(0.6, seed=1, convention={"duplicates": "keep"}, **COUNTED))
    table = pivot.pivot(runs.collect([tmp_path]).rows, pivot.Asked(["pooling"], ["benchmark"], []))[0]
    assert described(tmp_path) == [""] and [cell.text for cell in table.lines[0]] == ["gem", "2", "50.0 ± 14.1"]
    assert writing.write([tmp_path], tmp_path).is_file()


@pytest.mark.parametrize("other", [{}, {"duplicates": "keep"}])
def test_evaluations_that_treat_duplicates_otherwise_share_no_mean(
    write: Write, tmp_path: Path, other: dict[str, Any]
) -> None:
    write("a", result(0.4, convention=other), result(0.6, convention={"duplicates": "junk"}))
    assert described(tmp_path) == ["", "duplicates junk"]


def test_the_orientation_of_photos_is_called_by_its_name(write: Write, tmp_path: Path) -> None:
    write("a", result(convention={"upright": True}))
    assert "landmarks (EXIF orientation on): 48 queries" in said(tmp_path)


def test_public_comes_before_private_and_unknown_levels_last(write: Write, tmp_path: Path) -> None:
    levels = ("winter", "private", "public", "autumn")
    write("a", result(metrics={f"{level}/mAP@100": 0.5 for level in levels}))
    assert titles(tmp_path) == [f"mAP@100, {level}" for level in ("Public", "Private", "Autumn", "Winter")]


def test_p_stands_beside_recall_where_there_is_no_average_precision(write: Write, tmp_path: Path) -> None:
    write("a", result(metrics={"recall@1": 0.5}))
    assert tables.tables(runs.collect([tmp_path]).rows)[0].header[-1] == "p"


def test_each_metric_is_defined_where_it_is_shown(write: Write, tmp_path: Path) -> None:
    write("a", result(metrics={"public/mAP@100": 0.5, "recall@1": 0.5}))
    text = said(tmp_path)
    assert "AP@k is the sum" in text and "recall@k is the share" in text and "trapezoid" not in text


def test_csv_has_intervals_macro_means_and_conventions(write: Write, tmp_path: Path) -> None:
    more = {"intervals": {"mAP": [0.3, 0.6], "mP@1": None}, "macro": {"mAP": 0.45}, "convention": {"crop": True}}
    write("a", result(**more))
    writing.write([tmp_path], tmp_path)
    with (tmp_path / "report.csv").open() as file:
        (line,) = csv.DictReader(file)
    names = ("intervals/mAP/low", "intervals/mAP/high", "intervals/mP@1/low", "macro/mAP", "convention/crop")
    assert [line[name] for name in names] == ["0.3", "0.6", "", "0.45", "True"]


@pytest.mark.parametrize("bad", [{"intervals": {"mAP": [0.1]}}, {"intervals": {"mAP": ["a", 1]}}, {"macro": 0.4}])
def test_a_malformed_interval_or_macro_mean_is_not_shown_and_its_row_is(
    write: Write, tmp_path: Path, bad: dict[str, Any]
) -> None:
    write("a", result(0.3, **bad))
    found = runs.collect([tmp_path])
    assert found.rows[0]["metrics"]["mAP"] == 0.3 and "is not shown" in found.warnings[0]


def test_curves_are_of_lines_while_these_are_few(write: Write, tmp_path: Path) -> None:
    write("a", *(result(whitening=how, resolution=r) for how in (None, PCA) for r in (224, 320)))
    (curves,) = pictures.resolution_panels(runs.collect([tmp_path]).rows).values()
    assert [curve.label for curve in curves] == ["gem", f"gem, {PCA}"]


def test_many_lines_have_a_panel_per_descriptor(write: Write, tmp_path: Path) -> None:
    many = product("abcde", (None, PCA), (224, 320))
    write("a", *(result(pooling=pooling, whitening=how, resolution=r) for pooling, how, r in many))
    panels = pictures.resolution_panels(runs.collect([tmp_path]).rows)
    assert {title: len(curves) for title, curves in panels.items()} == {"landmarks": 5, f"landmarks, {PCA}": 5}


def test_a_ranking_is_of_the_line_whose_settings_it_names(write: Write, tmp_path: Path) -> None:
    entries = [ranking("q.jpg", ["a.jpg"], whitening=how) for how in (None, PCA)]
    write("a", result(), result(whitening=PCA), rankings=entries)
    ((first, second),) = pictures.rankings(runs.collect([tmp_path]))
    assert (first["label"], second["label"]) == ("gem", f"gem, {PCA}")


def test_a_ranking_that_names_no_settings_claims_none_of_several(write: Write, tmp_path: Path) -> None:
    both = [{"untrained": untrained} for untrained in (False, True)]
    rows = [result(**{**how, **one}) for how in ({"scales": THREE}, {"whitening": PCA}) for one in both]
    write("a", *rows, rankings=[ranking("q.jpg", ["a.jpg"], **one) for one in both])
    (entries,) = pictures.rankings(runs.collect([tmp_path]))
    assert [entry["label"] for entry in entries] == ["gem", "gem, untrained"]


def test_what_contents_are_is_said_where_they_differ(write: Write, tmp_path: Path) -> None:
    write("a", result(convention={"contents": "aaaa"}))
    assert "a hash of the photos" not in said(tmp_path)
    write("b", result(convention={"contents": "bbbb"}, seed=1))
    assert "contents: a hash of the photos" in said(tmp_path)


def test_a_ranking_at_another_resolution_or_of_another_seed_says_so(write: Write, tmp_path: Path) -> None:
    for pooling, resolution, seed in (("gap", 320, 0), ("gem", 320, 1), ("max", 224, 0), ("rmac", 320, 0)):
        own: dict[str, Any] = {"pooling": pooling, "settings": pooling, "resolution": resolution, "seed": seed}
        write(pooling, result(**own), rankings=[ranking("q.jpg", ["a.jpg"], **own)])
    (entries,) = pictures.rankings(runs.collect([tmp_path]))
    assert [entry["label"] for entry in entries] == ["gap", "gem, 320 px, seed 1", "max, 224 px, seed 0", "rmac"]


@pytest.mark.parametrize("key", ["queries", "images", "skipped"])
def test_other_numbers_of_photos_share_no_mean(write: Write, tmp_path: Path, key: str) -> None:
    write("a", result(0.4))
    write("b", result(0.6, seed=1, **{key: 40}))
    assert f"{key} 40" in described(tmp_path) and len(described(tmp_path)) == 2
    assert f"evaluated ({key}); no mean" in said(tmp_path)


def test_other_numbers_of_photos_are_no_repetition(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4), result(0.6, skipped=1))
    assert len(runs.collect([tmp_path]).rows) == 2


def test_other_contents_share_no_mean(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        write(f"{seed}", result(0.4, seed=seed, convention={"contents": f"hash{seed}"}))
    assert described(tmp_path) == ["contents hash0", "contents hash1"]


def test_a_mean_over_other_versions_and_devices_is_warned_of_once(write: Write, tmp_path: Path) -> None:
    for seed, (version, device) in enumerate((("2.9.0", "cpu"), ("2.10.0", "cuda"))):
        both = (result(seed=seed, resolution=r, versions={"torch": version}, device=device) for r in (224, 320))
        write(f"{seed}", *both)
    sentence = "gem on landmarks: the mean is over seeds judged with device cpu and cuda; torch 2.10.0 and 2.9.0"
    report = writing.report_of(runs.collect([tmp_path]))
    assert report.warnings.count(sentence) == 1 and notes.mixed(report.found.rows) == [sentence]


def test_lines_of_other_versions_are_not_warned_of(write: Write, tmp_path: Path) -> None:
    write("a", result(), result(pooling="gap", versions={"torch": "2.10.0"}))
    assert notes.mixed(runs.collect([tmp_path]).rows) == []


def named(folder: Path) -> list[str]:
    return [*tables.names(runs.collect([folder]).rows).values()]


def test_configs_tell_runs_apart_that_read_alike(write: Write, tmp_path: Path) -> None:
    for epochs, settings in ((5, "aaaa"), (30, "bbbb")):
        write(settings, result(settings=settings), config=f"trainer: {{max_epochs: {epochs}, devices: 1}}\n")
    assert named(tmp_path) == ["gem (trainer.max_epochs=5)", "gem (trainer.max_epochs=30)"]


def test_configs_tell_untrained_models_apart_by_the_model_alone(write: Write, tmp_path: Path) -> None:
    for stride, settings in ((16, "aaaa"), (32, "bbbb")):
        config = f"backbone: {{kwargs: {{output_stride: {stride}}}}}\noptimizer: {{lr: {stride}}}\n"
        write(settings, result(settings=settings, untrained=True), config=config)
    assert named(tmp_path) == [f"gem (backbone.kwargs.output_stride={stride})" for stride in (16, 32)]


def test_a_key_that_one_config_lacks_tells_them_apart(write: Write, tmp_path: Path) -> None:
    write("a", result(settings="aaaa"), config="data: {crop: 0.5}\n")
    write("b", result(settings="bbbb"), config="data: {flip: true}\n")
    assert named(tmp_path) == ["gem (data.crop=0.5)", "gem (data.flip=true)"]


def test_a_difference_too_long_for_words_is_a_hash(write: Write, tmp_path: Path) -> None:
    for settings in ("aaaa", "bbbb"):
        write(settings, result(settings=settings), config=f"data: {{root: /{'long/' * 10}{settings}}}\n")
    assert named(tmp_path) == ["gem #aaaa", "gem #bbbb"]


def test_seeds_of_one_setting_share_a_line_whatever_else_their_configs_say(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        config = f"seed: {seed}\nnames: {{pooling: gem}}\noutput_dir: /{seed}\ntrainer: {{max_epochs: 3}}\n"
        write(f"{seed}", result(seed=seed), config=config)
    assert named(tmp_path) == ["gem"] and described(tmp_path) == [""]


def test_a_config_of_anything_leaves_the_report_whole(write: Write, tmp_path: Path) -> None:
    odd = "names: 3\ncallbacks: [1]\ndata: {day: 2020-01-01, list: [{1: a, b: c}]}\npooling: 5\n"
    write("a", result(settings="aaaa"), config=odd)
    write("b", result(settings="bbbb"), config="data: {day: 2020-01-02}\n")
    assert named(tmp_path)[1] == "gem (data.day=2020-01-02)"
