"""Runs that are unfinished, damaged, of another version or a stranger's: what is wrong is said, the rest is shown."""

import json
import math
import os
import shutil
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_report import page_of, picture, ranking, result, shown

from retrieval.report import checks, pictures, reading, runs, tables, uncertainty, writing
from retrieval.report.__main__ import main

Write = Callable[..., Path]
ASKED = """
seed: 3
benchmark: {download: false, landmarks: {_target_: a}, folder: {_target_: b}}
extract: {resolutions: [224, 320]}
evaluate_untrained: true
trainer: {max_epochs: 3}
"""
CURVE = "epoch,step,p\n0,0,3.0\n0,10,3.1\n"
HOSTILE = "<script>alert(1)</script>|$\\frac{_&%#^~\n\n# x\x00"


def warned(folder: Path, text: str) -> bool:
    """Whether one warning holds the text."""
    return any(text in sentence for sentence in runs.collect([folder]).warnings)


def begun(folder: Path, config: str = ASKED, **progress: Any) -> Path:
    """A run's folder as it is before there are results."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    if progress:
        (folder / "progress.json").write_text(json.dumps(progress))
    return folder


def sweep(folder: Path, *jobs: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"job": i, "overrides": [], "error": None, **job} for i, job in enumerate(jobs)]
    (folder / "sweep.json").write_text(json.dumps({"script": "train", "jobs": listed}))
    return folder


@pytest.fixture
def good(write: Write) -> Path:
    """A sound run, which must be shown whatever lies beside it."""
    return write("good", result(0.3, pooling="gap", settings="good"))


def still_shown(folder: Path) -> bool:
    lines = [line for table in tables.tables(runs.collect([folder]).rows) for line in table.lines]
    return any(line[1].text.startswith("gap") and "30.0" in [cell.text for cell in line] for line in lines)


# folders without results


def test_a_folder_without_results_is_named_and_the_others_shown(good: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    found = runs.collect([tmp_path / "other", tmp_path / "nowhere", good])
    assert found.warnings == [f"{tmp_path / 'other'} is empty", f"{tmp_path / 'nowhere'} does not exist"]
    assert len(found.rows) == 1


def test_the_error_says_what_each_folder_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    begun(tmp_path / "begun", step=120, steps=384)
    failed = [{"folder": f"{i}_gem", "state": "failed", "error": f"no photos in {i}"} for i in range(2)]
    sweep(tmp_path / "sweep", *failed)
    assert main([str(tmp_path / name) for name in ("empty", "begun", "sweep")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'empty'} is empty" in said
    assert f"{tmp_path / 'begun'}: unfinished at step 120 of 384" in said
    assert "0_gem: failed: no photos in 0" in said and "1_gem: failed: no photos in 1" in said


def test_a_folder_in_another_that_is_given_too_counts_once(good: Path, tmp_path: Path) -> None:
    begun(good.parent / "b")
    found = runs.collect([tmp_path, good.parent, good / ".." / "b", good / ".." / "good"])
    assert len(found.rows) == 1 and len(found.unfinished) == 1


def test_a_loop_of_links_is_said(good: Path, tmp_path: Path) -> None:
    (good.parent / "round").mkdir()
    (good.parent / "round/results.json").symlink_to(good.parent / "round/results.json")
    (good.parent / "again").symlink_to(good.parent)
    assert still_shown(tmp_path) and warned(tmp_path, "round/results.json is left out")


# runs that are still going


def test_a_run_with_fewer_results_than_asked_is_shown_and_said(write: Write, tmp_path: Path) -> None:
    folder = write("a", result(), result(resolution=320), config=ASKED)
    found = runs.collect([tmp_path])
    assert len(found.rows) == 2 and found.unfinished == [folder]
    assert f"{folder}: unfinished (2 of 8 results); to go on, call it again with output_dir={folder} resume=auto" in (
        found.warnings
    )


@pytest.mark.parametrize("judged_later", [[], [result(scales=[1.0, 0.5]), result(benchmark="places")]])
def test_a_run_with_all_results_is_finished(write: Write, tmp_path: Path, judged_later: list[dict[str, Any]]) -> None:
    rows = [
        result(benchmark=benchmark, resolution=resolution, untrained=untrained)
        for benchmark in ("landmarks", "folder")
        for resolution in (224, 320)
        for untrained in (True, False)
    ]
    sweep(write("sweep/0_gem", *rows, *judged_later, config=ASKED).parent, {"folder": "0_gem", "state": "done"})
    assert runs.collect([tmp_path]).warnings == []


def test_several_poolings_of_one_pass_are_counted(write: Write, tmp_path: Path) -> None:
    config = "benchmark: {folder: {_target_: a}}\nextract: {resolutions: [224]}\nevaluate: {poolings: [gap, gem]}\n"
    folder = write("a", result(pooling="gap"), config=config)
    begun(folder / "gap"), begun(folder / "gem")
    assert runs.collect([tmp_path]).warnings == [
        f"{folder}: unfinished (1 of 2 results); to go on, call it again with output_dir={folder}"
    ]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"state": "running"}, "killed at step 120 of 384"),
        ({"state": "stopped"}, "stopped at step 120 of 384"),
        ({"state": "failed", "error": "CUDA out of memory"}, "failed: CUDA out of memory"),
    ],
)
def test_a_job_of_a_sweep_that_ended_early_is_said_with_how_to_go_on(
    good: Path, tmp_path: Path, job: dict[str, Any], said: str
) -> None:
    folder = begun(good.parent / "sweep/0_gem", step=120, steps=384, phase="training")
    sweep(folder.parent, {"folder": "0_gem", **job}, {"folder": "1_gem", "state": "waiting"})
    assert warned(tmp_path, f"{folder}: {said} (0 of 8 results)")
    assert warned(tmp_path, "1 waiting; call the same sweep again to go on")


def test_a_job_that_holds_its_lock_is_still_going(good: Path, tmp_path: Path) -> None:
    folder = begun(good.parent / "sweep/0_gem", step=120, steps=384, phase="training")
    sweep(folder.parent, {"folder": "0_gem", "state": "running"})
    with FileLock(folder / "job.lock"):
        assert warned(tmp_path, f"{folder}: still going: step 120 of 384 (0 of 8 results)")
        assert not warned(tmp_path, "again")


def test_a_job_that_is_judging_is_said(good: Path, tmp_path: Path) -> None:
    folder = begun(good.parent / "sweep/0_gem", step=384, steps=384, phase="judging")
    sweep(folder.parent, {"folder": "0_gem", "state": "running"})
    assert warned(tmp_path, f"{folder}: killed while judging")


def test_a_job_that_failed_before_it_had_a_config_is_said(good: Path, tmp_path: Path) -> None:
    sweep(good.parent / "sweep", {"folder": "0_gem", "state": "failed", "error": "no such pooling"})
    assert warned(tmp_path, "sweep/0_gem: failed: no such pooling")


def test_a_sweep_that_is_done_is_not_spoken_of(good: Path, tmp_path: Path) -> None:
    sweep(good.parent, {"folder": "good", "state": "done"})
    assert runs.collect([tmp_path]).warnings == []


@pytest.mark.parametrize(
    "plan", ["", "{", "[]", '{"jobs": 3}', '{"jobs": [{"folder": "../..", "state": "failed"}]}', '{"jobs": [{}]}']
)
def test_a_plan_that_is_none_is_said(good: Path, tmp_path: Path, plan: str) -> None:
    (good.parent / "sweep.json").write_text(plan)
    assert still_shown(tmp_path) and warned(tmp_path, "sweep.json")


@pytest.mark.parametrize("time", [1764037800, math.nan, 1e300, "noon", None])
def test_when_a_run_was_last_heard_of_is_said_where_it_is_known(good: Path, tmp_path: Path, time: Any) -> None:
    begun(good.parent / "b", step=1, steps=2, time=time)
    heard = ", last heard of on 2025-11-25 at 02:30 UTC" if time == 1764037800 else ""
    assert warned(tmp_path, f"unfinished at step 1 of 2{heard} (0 of 8 results)")


def test_curves_of_an_unfinished_run_are_drawn_and_marked(good: Path, tmp_path: Path) -> None:
    folder = begun(good.parent / "0_gem")
    (folder / "metrics.csv").write_text(CURVE)
    assert "0_gem, unfinished" in pictures.draw(runs.collect([tmp_path]))["p"]


# rows of other versions


def first_form(**other: Any) -> dict[str, Any]:
    """A row as the first version wrote it."""
    row = result(aspect="native", multiple=32, dim=512, parameters=5_000_000, whitening=None, rerank=None, crop=False)
    return {**row, "trained_on": "20 photos of 4 landmarks", **other}


@pytest.mark.parametrize("absent", sorted(first_form().keys() - checks.RESULT.keys()))
def test_a_row_of_another_version_is_shown_without_what_it_lacks(write: Write, tmp_path: Path, absent: str) -> None:
    row = first_form()
    row.pop(absent)
    write("a", row | {"of_the_future": {"a": [1]}})
    assert shown(tmp_path)[0][4] == "50.0" and runs.collect([tmp_path]).warnings == []


def test_what_is_not_known_is_a_dash(write: Write, tmp_path: Path) -> None:
    write("a", first_form(p=None), first_form(resolution=320))
    write("b", first_form(pooling="gap", settings="other", p="three"))
    assert [line[-1] for line in shown(tmp_path)] == ["-", "3.00"]


@pytest.mark.parametrize("key", checks.RESULT)
def test_a_row_that_cannot_be_told_from_others_is_left_out(good: Path, tmp_path: Path, key: str) -> None:
    row = result()
    row.pop(key)
    (good / "results.json").write_text(json.dumps([row, *json.loads((good / "results.json").read_text())]))
    assert still_shown(tmp_path) and warned(tmp_path, f"item 1 is left out: it lacks {key!r}")


@pytest.mark.parametrize("content", ['{"version": 7, "rows": []}', "3", '"text"', "null"])
def test_results_of_a_future_shape_are_left_out_with_a_reason(good: Path, tmp_path: Path, content: str) -> None:
    (begun(good.parent / "b") / "results.json").write_text(content)
    assert still_shown(tmp_path) and warned(tmp_path, "b/results.json is left out: it must hold a list")


def test_versions_that_differ_are_said(write: Write, tmp_path: Path) -> None:
    write("a", result(versions={"torch": "2.9.0", "pillow": "1"}), result(pooling="gap", versions={"torch": "2.8.0"}))
    assert warned(tmp_path, "Rows were judged by several versions, torch 2.8.0 in 1 and 2.9.0 in 1")


# runs that are alike


def test_runs_of_one_folder_name_and_other_settings_are_not_merged(write: Write, tmp_path: Path) -> None:
    write("a/0_gem", result(0.4, settings="aaaa", config="a"))
    write("b/0_gem", result(0.6, settings="bbbb", config="b"))
    assert [line[4] for line in shown(tmp_path)] == ["40.0", "60.0"]


def test_a_copied_run_counts_once_and_is_said(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, good.parent / "copy")
    found = runs.collect([tmp_path])
    assert [line[3] for line in shown(tmp_path)] == ["1"]
    assert len(found.warnings) == 1 and "that counts once" in found.warnings[0] and "copy" in found.warnings[0]


def test_an_untrained_model_that_several_runs_judged_is_no_copy(write: Write, tmp_path: Path) -> None:
    write("a", result(0.2, untrained=True, settings="0"), result(0.4, settings="a"))
    write("b", result(0.2, untrained=True, settings="0"), result(0.5, settings="b"))
    assert runs.collect([tmp_path]).warnings == []


# numbers that are none


def test_one_seed_with_nan_makes_the_mean_nan_and_is_named(write: Write, tmp_path: Path) -> None:
    for seed, value in enumerate((0.4, math.nan, 0.5)):
        write(f"{seed}", result(value, seed=seed))
    assert shown(tmp_path)[0][4] == "NaN"
    assert warned(tmp_path, "1/results.json: landmarks at 224 px, seed 1: NaN for mAP")


@pytest.mark.parametrize("value", [1.5, -0.1, math.inf, -math.inf, 72.5])
def test_a_value_outside_0_to_1_is_nan_said_and_never_best(
    write: Write, good: Path, tmp_path: Path, value: float
) -> None:
    write("a", result(value))
    cells = [line[4] for line in tables.tables(runs.collect([tmp_path]).rows)[0].lines]
    assert [(cell.text, cell.best) for cell in cells] == [("30.0", True), ("NaN", False)]
    assert warned(tmp_path, f"a/results.json: landmarks at 224 px, seed 0: mAP = {value}")


@pytest.mark.parametrize("p", [-2.0, 0, math.nan, math.inf, {"mean": 3.0, "min": -1.0, "max": 4.0}])
def test_a_p_that_is_no_number_above_0_is_said(write: Write, tmp_path: Path, p: Any) -> None:
    write("a", result(p=p))
    assert shown(tmp_path)[0][-1] != "-" and warned(tmp_path, "which is no number above 0")


def test_p_of_several_kinds_in_one_line_has_its_range(write: Write, tmp_path: Path) -> None:
    write("a", result(p=2.0))
    write("b", result(seed=1, p={"mean": 3.0, "min": 1.0, "max": 5.0}))
    assert shown(tmp_path)[0][-1] == "2.50 (1.00 to 5.00)"


# files that cannot be read


@pytest.mark.parametrize("content", [b"", b"[{", b"\xff\xfe\x00", b"\x89PNG\r\n", b"[" * 100_000])
@pytest.mark.parametrize("name", ["results.json", "rankings.json"])
def test_a_damaged_file_is_named(good: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (begun(good.parent / "b") / name).write_bytes(content)
    assert still_shown(tmp_path) and warned(tmp_path, f"b/{name} is ")


@pytest.mark.parametrize("name", ["results.json", "rankings.json", "metrics.csv", "config.yaml", "sweep.json"])
def test_a_folder_in_place_of_a_file_is_named(good: Path, tmp_path: Path, name: str) -> None:
    (good.parent / "b").mkdir()
    (good.parent / "b/config.yaml").write_text(ASKED) if name != "config.yaml" else None
    (good.parent / "b" / name).mkdir()
    assert still_shown(tmp_path) and warned(tmp_path, f"b/{name} is left out: it is no file")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(good: Path, tmp_path: Path) -> None:
    os.mkfifo(begun(good.parent / "b") / "results.json")
    assert still_shown(tmp_path) and warned(tmp_path, "b/results.json is left out: it is no file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(good: Path, tmp_path: Path) -> None:
    file = begun(good.parent / "b") / "results.json"
    file.write_text("[]")
    file.chmod(0)
    assert still_shown(tmp_path) and warned(tmp_path, f"{file} is left out: Permission denied")


def test_a_file_too_large_to_be_results_is_not_read(good: Path, tmp_path: Path) -> None:
    with (begun(good.parent / "b") / "results.json").open("wb") as file:
        file.truncate(reading.LIMIT + 1)
    assert still_shown(tmp_path) and warned(tmp_path, "100,000,001 bytes, 100,000,000 are the most that is read")


@pytest.mark.parametrize("config", ["a: [", "- 1\n", "a: &a [*a]\n", "benchmark: 3\nextract: [1]\nseed: x\n", "\x00"])
def test_any_config_may_lie_beside_results(write: Write, tmp_path: Path, config: str) -> None:
    write("a", result(), config=config)
    assert shown(tmp_path)[0][4] == "50.0"


def test_a_header_that_changes_counts_from_there_on(write: Write, tmp_path: Path) -> None:
    write("a", result(), history="epoch,step,p\n0,0,3.0\n0,10,3.1\nepoch,p,step,train/loss\n0,3.2,20,0.5\n")
    (run,) = runs.collect([tmp_path]).runs
    assert run.history == {"p": {0: 3.0, 10: 3.1, 20: 3.2}, "train/loss": {20: 0.5}}


def test_steps_that_were_trained_twice_have_their_later_values_in_order(write: Write, tmp_path: Path) -> None:
    write("a", result(), history="step,p\n0,3.0\n20,3.2\n10,3.1\n20,3.3\n")
    assert list(runs.collect([tmp_path]).runs[0].history["p"].items()) == [(0, 3.0), (10, 3.1), (20, 3.3)]


def test_lines_that_hold_no_numbers_are_left_out_of_the_curves(write: Write, tmp_path: Path) -> None:
    write("a", result(), history="step,p\n0,3.0\nx,3.1\ninf,3\n20,three\n30,nan\n40,3.3,9\n")
    assert runs.collect([tmp_path]).runs[0].history == {"p": {0: 3.0, 40: 3.3}}
    assert warned(tmp_path, "metrics.csv: left out of the curves: line 3")


def test_a_pickle_is_not_loaded(write: Write, tmp_path: Path) -> None:
    folder = write("a", result(per_query="q.npz"), result(seed=1, per_query="q.npz", intervals={"mAP": [0.1, 0.2]}))
    np.savez(folder / "q.npz", queries=np.array([{"a": 1}], dtype=object), landmarks=np.array(["x"]), AP=np.ones(1))
    _, said = uncertainty.interval_tables(runs.collect([tmp_path]).rows)
    assert any("cannot be read: Object arrays cannot be loaded" in sentence for sentence in said)


@pytest.mark.parametrize("part", [slice(0), slice(40), slice(-30), slice(30, None)])
def test_values_per_query_that_are_damaged_leave_the_rest(write: Write, tmp_path: Path, part: slice) -> None:
    row = result(per_query="q.npz", intervals={"mAP": [0.1, 0.2]}, macro={"mAP": 0.3})
    folder = write("a", row, row | {"seed": 1})
    np.savez_compressed(folder / "q.npz", queries=np.array(["a"] * 99), landmarks=np.array(["x"] * 99), AP=np.ones(99))
    (folder / "q.npz").write_bytes((folder / "q.npz").read_bytes()[part])
    assert "50.0 ± 0.0" in page_of(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret.npz", "a\0b", 3])
def test_values_per_query_of_another_folder_are_not_read(write: Write, tmp_path: Path, name: Any) -> None:
    write("a", result(per_query=name))
    assert runs.collect([tmp_path]).rows[0]["per_query"] in (None, "a b") and warned(tmp_path, "per")


def seen(**other: Any) -> dict[str, Any]:
    """What an entry says of a photo that was looked at."""
    looked = {"query": [[1.0, -0.2]], "photo": [[0.8]], "similarity": 0.8} | other
    return {"top": [{"path": "p", "score": 0.8, "mark": "right", "looked": looked}]}


@pytest.mark.parametrize(
    "bad",
    [
        {"query": {}}, {"query": {"path": "q", "box": [1, 2]}}, {"query": {"path": "q", "box": [9, 9, 1, 1]}},
        {"top": [3]}, {"top": [{"path": "p", "score": None, "mark": "right"}]}, {"ap": "x"},
        {"top": [{"path": "p", "score": 1.0, "mark": "<b>"}]},
        seen(query=[[1], [2, 3]]), seen(photo=[[math.nan]]), seen(similarity=None),
    ],
)  # fmt: skip
def test_a_ranking_that_cannot_be_shown_is_left_out(write: Write, tmp_path: Path, bad: dict[str, Any]) -> None:
    photo = picture(tmp_path / "photo.jpg")
    write("a", result(), rankings=[ranking(photo, [photo]) | bad, ranking(photo, [photo])])
    assert page_of(tmp_path).count('src="data:image/webp') == 2 and warned(
        tmp_path, "rankings.json, item 1 is left out"
    )


def test_a_position_may_take_from_the_similarity(write: Write, tmp_path: Path) -> None:
    write("a", result(), rankings=[ranking("q", ["p"]) | seen()])
    found = runs.collect([tmp_path])
    assert len(found.runs[0].rankings) == 1 and found.warnings == []


def test_photos_that_are_none_or_hide_too_many_pixels_are_missing(write: Write, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.ppm"
    bomb.write_bytes(b"P6\n100000 100000\n255\n")
    names = [str(bomb), str(tmp_path), "gone\0.jpg", "x" * 5000, "\udcff.jpg"]
    write("a", result(), rankings=[ranking(picture(tmp_path / "photo.jpg"), names)])
    assert page_of(tmp_path).count('class="missing"') == 5


# names


def test_hostile_names_are_escaped_everywhere(write: Write, tmp_path: Path) -> None:
    row = result(pooling=HOSTILE, benchmark=HOSTILE, backbone=HOSTILE, options=HOSTILE, metrics={f"mAP{HOSTILE}": 0.5})
    row |= {"selected_by": HOSTILE, "dtype": HOSTILE, "training": {"loss": HOSTILE}, "versions": {"torch": HOSTILE}}
    photo = picture(tmp_path / "photo.jpg")
    ranked = ranking(photo, [photo], pooling=HOSTILE, benchmark=HOSTILE)
    folder = write("<img src=x>\n|", row, row | {"resolution": 320}, rankings=[ranked], history=CURVE, config=HOSTILE)
    begun(folder.parent / "_<b>")
    page, text = page_of(tmp_path), (tmp_path / "report.md").read_text()
    assert "<script>alert" not in page + text and "<img src=x>" not in page + text and "\n# x" not in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in lines[:3]}) == 1


@pytest.mark.parametrize("name", ["_gem", "__", "$x$", "\ud800", "\u202eabc", "é" * 300])
def test_any_name_is_drawn_and_written(write: Write, tmp_path: Path, name: str) -> None:
    write("a", result(pooling=name), result(pooling=name, resolution=320), history=CURVE)
    assert page_of(tmp_path).count('src="data:image/svg+xml') == 2


def test_a_folder_whose_name_is_no_text_is_shown(write: Write, tmp_path: Path) -> None:
    write(os.fsdecode(b"caf\xe9"), result(math.nan), history=CURVE)
    assert "NaN" in page_of(tmp_path)


# any value at any place


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each key and item within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*above, key)
        yield from places(item, (*above, key))


def replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = by
    return copy


FULL = first_form(
    p={"mean": 3.0, "min": 2.0, "max": 4.0}, options="p=3", trained_with="gem", per_query="q.npz",
    training={"loss": "a"}, convention={"upright": True}, macro={"mAP": 0.4}, intervals={"mAP": [0.3, 0.5]},
    steps=100,
)  # fmt: skip
RANKED = ranking("q.jpg", ["a.jpg"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**70, 1e308])
TEXTS = st.text(st.characters(codec=None), max_size=20) | st.text(string.printable, max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.sampled_from([*checks.P, "mAP"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150)
@given(place=st.sampled_from([*places(FULL)]), value=VALUES)
@example(place=("metrics",), value={})
def test_any_value_at_any_place_of_a_row_leaves_the_good_rows(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], value: Any
) -> None:
    folder = tmp_path_factory.mktemp("any")
    good = result(0.3, pooling="gap", settings="good")
    (folder / "results.json").write_text(json.dumps([replaced(FULL, place, value), good]))
    writing.write([folder], folder)
    assert still_shown(folder)


@settings(max_examples=60)
@given(place=st.sampled_from([*places(RANKED)]), value=VALUES)
def test_any_value_at_any_place_of_a_ranking_leaves_the_others(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], value: Any
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "results.json").write_text(json.dumps([result()]))
    (folder / "rankings.json").write_text(json.dumps([replaced(RANKED, place, value), ranking("kept.jpg", ["b.jpg"])]))
    assert "kept.jpg" in writing.write([folder], folder).read_text()
