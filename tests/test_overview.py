"""The overview of a sweep: what it shows of each job, and that nothing it finds stops the jobs."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from retrieval import plan, stages
from retrieval.sweep import overview, status, wording
from retrieval.sweep.__main__ import main
from retrieval.sweep.status import Status

HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""
PROGRESS = {"phase": "training", "step": 120, "steps": 384, "first_step": 100, "epoch": 1, "started": 0, "time": 40}


def job(number: int, state: str = "waiting", **more: Any) -> dict[str, Any]:
    pooling, seed = ("gem", "gap", "max", "strided_conv")[number % 4], str(number // 4)
    times = {} if state == "waiting" else {"started": time.time() - 100}
    times |= {"ended": time.time() - 100 + 83} if state in ("done", "failed", "stopped") else {}
    differs = {"pooling": pooling, "seed": seed}
    return {"job": number, "folder": str(number), "overrides": [], "differs": differs, "state": state, **times, **more}


def row(value: float, **more: Any) -> dict[str, Any]:
    metrics = {"mAP": value, "recall@1": 0.99}
    return {"benchmark": "folder", "resolution": 320, "untrained": False, "metrics": metrics, "p": 2.9, **more}


@pytest.fixture
def lay(tmp_path: Path) -> Callable[..., Path]:
    """Writes a sweep: its jobs, and what lies in the folder of each, by number and file name."""

    def lay(*jobs: dict[str, Any], **files: Any) -> Path:
        for one in jobs:
            (tmp_path / one["folder"]).mkdir(exist_ok=True)
        for name, content in files.items():
            kind, number = name.split("_")
            (tmp_path / number / f"{kind}.json").write_text(json.dumps(content))
        (tmp_path / "sweep.json").write_text(json.dumps({"script": "train", "jobs": jobs}))
        return tmp_path

    return lay


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts a process that runs a job, as far as its lock says."""
    held = []

    def hold(number: int) -> subprocess.Popen[str]:
        (tmp_path / str(number)).mkdir(exist_ok=True)
        command = [sys.executable, "-c", HOLD, str(tmp_path / str(number) / plan.LOCK)]
        held.append(process := subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield hold
    for process in held:
        process.kill()
        process.communicate()


def text(sweep: Path, height: int | None = None) -> str:
    """What is shown in 80 columns."""
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(overview.overview(status.statuses(sweep), 80, height))
    return console.export_text()


def line(sweep: Path, number: int) -> str:
    return next(line for line in text(sweep).splitlines() if re.match(rf" *{number}  ", line))


def test_a_finished_job_shows_its_value_p_and_time(lay: Callable[..., Path]) -> None:
    sweep = lay(job(0, "done"), job(1), results_0=[row(0.5, untrained=True), row(0.761)])
    assert re.fullmatch(r"0  pooling=gem seed=0  done +76\.1  2\.90  1:23 *", line(sweep, 0))
    assert "mAP: folder mAP at 320 px" in text(sweep)


def test_the_value_is_that_of_the_trained_model_at_the_largest_resolution(lay: Callable[..., Path]) -> None:
    rows = [row(0.1, untrained=True), row(0.2, resolution=160), row(0.3), row(0.9, benchmark="other", resolution=999)]
    (one,) = status.statuses(lay(job(0, "done"), results_0=rows))
    assert one.value == ("folder mAP", 0.3, 320)


def test_a_model_off_the_shelf_shows_its_own_rows(lay: Callable[..., Path]) -> None:
    metrics = {"hard/mAP": 0.4, "medium/mAP": 0.6, "medium/mP@10": 0.8}
    (one,) = status.statuses(lay(job(0, "done"), results_0=[row(0, untrained=True, metrics=metrics, p=None)]))
    assert (one.value, one.p) == (("folder medium/mAP", 0.6, 320), None)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"validation/mAP": 0.71}, "71.0"),
        ({"validation/mAP": 0.71, "folder/mAP@160": 0.6, "folder/mAP@320": 0.75, "folder/recall@1@320": 0.9}, "75.0"),
        ({"train/loss": 2.0}, ""),
    ],
)
def test_a_running_job_shows_its_latest_value(
    lay: Callable[..., Path], holding: Callable[..., Any], values: dict[str, float], shown: str
) -> None:
    sweep = lay(job(0, "running"), progress_0={**PROGRESS, "values": {**values, "p/mean": 2.93}})
    holding(0)
    assert re.fullmatch(rf"0 .* +━+╸? +120/384 +{shown} +2\.93  1:4\d  8:48", line(sweep, 0))


def test_the_time_left_is_that_of_the_steps_left_at_the_pace_since_it_went_on() -> None:
    """20 steps in 40 seconds, 264 to go."""
    assert status.so_far({**PROGRESS, "values": {}}, "running")["left"] == 528


def test_a_job_that_is_judged_says_so(lay: Callable[..., Path], holding: Callable[..., Any]) -> None:
    sweep = lay(job(0, "running"), progress_0={**PROGRESS, "phase": "judging", "step": 384})
    holding(0)
    assert re.search(r"judging +384/384 +1:4\d *$", line(sweep, 0))


def test_a_job_whose_process_was_killed_is_killed(lay: Callable[..., Path], holding: Callable[..., Any]) -> None:
    sweep, process = lay(job(0, "running"), progress_0=PROGRESS), holding(0)
    assert "1 running" in text(sweep)
    process.kill()
    process.wait()
    assert "1 killed" in text(sweep) and re.search(r"killed +120/384", line(sweep, 0))


def test_failed_jobs_show_the_first_line_of_their_error_once(lay: Callable[..., Path]) -> None:
    same = "seed must be a whole number, got [red]"
    sweep = lay(job(0, "failed", error=same), job(1, "failed", error="no photos"), job(2, "failed", error=same))
    assert f"failed 0, 2: {same}\nfailed 1: no photos\n" in text(sweep)


def test_values_of_several_things_are_told_apart(lay: Callable[..., Path]) -> None:
    sweep = lay(job(0, "done"), job(1, "done"), results_0=[row(0.5)], results_1=[row(0.6, resolution=480)])
    assert "50.0 a" in line(sweep, 0) and "60.0 b" in line(sweep, 1)
    assert "a: folder mAP at 320 px, b: folder mAP at 480 px" in text(sweep)


def test_names_that_have_no_room_stand_under_their_keys(lay: Callable[..., Path]) -> None:
    keys = {"backbone": "vit_small_patch14_dinov2", "pooling": "strided_conv", "extract.resolutions": "[a]"}
    sweep = lay(job(0, differs={**keys, "seed": "0"}), job(1, differs=keys))
    assert "backbone pooling extract.resolutions seed" in text(sweep)
    assert "vit_small_patch14_dinov2 strided_conv [a] -" in line(sweep, 1)


@pytest.mark.parametrize("state", ["waiting", "done", "failed", "running"])
def test_forty_jobs_have_a_line_each_of_80_columns_at_most(lay: Callable[..., Path], state: str) -> None:
    sweep = lay(*(job(i, state, error="out of memory" * 20) for i in range(40)))
    lines = text(sweep).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [int(line.split()[0]) for line in lines if re.match(r" ?\d+  ", line)] == list(range(40))


def test_where_the_terminal_is_low_jobs_fold_into_a_count(lay: Callable[..., Path]) -> None:
    jobs = [job(i, "done") for i in range(30)]
    sweep = lay(*jobs, job(30, "failed", error="no" * 99), *(job(i) for i in range(31, 40)))
    shown = text(sweep, 24)
    assert len(shown.splitlines()) <= 24 and re.search("^30  .*failed", shown, re.MULTILINE)
    assert "and 13 done, 9 waiting" in shown


def known(state: Any, spent: float | None = None, left: float | None = None) -> Status:
    return Status(plan.Job(0, "0", [], {}, state), spent=spent, left=left)


@given(st.lists(st.floats(1, 1e5), min_size=1, max_size=9), st.integers(0, 40), st.integers(1, 8))
def test_jobs_that_take_the_mean_are_shared_by_those_that_run(took: list[float], waiting: int, running: int) -> None:
    jobs = [known("done", one) for one in took] + [known("waiting")] * waiting + [known("running", 0.0)] * running
    assert status.left(jobs) == pytest.approx(sum(took) / len(took) * (waiting + running) / running)


def test_before_a_job_is_done_those_that_run_say_how_long_one_takes() -> None:
    assert status.left([known("running", 60, 40), known("waiting")]) == 140


def test_nothing_is_said_of_the_time_left_where_nothing_is_known() -> None:
    assert status.left([known("running", 60), known("waiting")]) is None


@pytest.mark.parametrize(
    ("seconds", "said", "rough"),
    [
        (59.4, "59 s", "59 s"),
        (110, "1 min 50 s", "2 min"),
        (3599, "59 min 59 s", "1 h 0 min"),
        (7500, *2 * ["2 h 5 min"]),
    ],
)
def test_times_in_words(seconds: float, said: str, rough: str) -> None:
    assert (wording.lasting(seconds), wording.lasting(seconds, rough=True)) == (said, rough)


@pytest.mark.parametrize("broken", ["", "[1]", "{", '{"values": 3, "step": "x"}', "null"])
def test_a_broken_file_of_a_job_costs_its_numbers_alone(
    lay: Callable[..., Path], holding: Callable[..., Any], broken: str
) -> None:
    sweep = lay(job(0, "done"), job(1, "running"), job(2, "done"), results_2=[row(0.5)])
    holding(1)
    for file in ("0/results.json", "1/progress.json"):
        (sweep / file).write_text(broken)
    assert "done" in line(sweep, 0) and "running" in line(sweep, 1) and "50.0" in line(sweep, 2)


def watched(sweep: Path, *happenings: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a log file says when these things happen, each after what was said of the one before."""
    monkeypatch.setattr(overview, "EVERY", 0.02)
    console = Console(file=(file := io.StringIO()), width=80)
    with overview.watching(sweep, console):
        for lines, happen in enumerate(happenings, 2):
            happen()
            while len(file.getvalue().splitlines()) < lines:
                time.sleep(0.01)
    return file.getvalue().splitlines()


def test_in_a_log_file_a_line_says_what_became_of_a_job(
    lay: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = lay(job(0), job(1), results_0=[row(0.761)])
    done, failed = (lambda: lay(job(0, "done"), job(1))), (lambda: lay(job(0, "done"), job(1, "failed", error="no")))
    assert watched(sweep, done, failed, monkeypatch=monkeypatch) == [
        "0 of 2 done, 2 waiting, none runs now",
        "1/2 done: pooling=gem seed=0: folder mAP 76.1 at 320 px (1 min 23 s); about 1 min left",
        "1/2 done: pooling=gap seed=0: failed (1 min 23 s): no",
    ]


def test_in_a_log_file_a_line_says_how_the_sweep_stands_where_there_is_no_news(
    lay: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "EVERY", 0.05)
    said = watched(lay(job(0), job(1)), lambda: None, monkeypatch=monkeypatch)
    assert set(said) == {"0 of 2 done, 2 waiting, none runs now"} and len(said) >= 2


def test_a_plan_that_is_half_written_is_read_at_the_next_look(
    lay: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = lay(job(0))

    def half_then_whole() -> None:
        (sweep / "sweep.json").write_text('{"script": "tr')
        time.sleep(0.1)
        lay(job(0, "done"))

    said = "1/1 done: pooling=gem seed=0: done (1 min 23 s)"
    assert watched(sweep, half_then_whole, monkeypatch=monkeypatch)[1:] == [said]


def test_a_job_that_runs_in_this_process_is_seen_to_run(
    lay: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = lay(job(0))
    with plan.lock(sweep, "0"):
        assert watched(sweep, lambda: lay(job(0, "running")), monkeypatch=monkeypatch)[1:2] == [
            "0/1 done: pooling=gem seed=0: begun"
        ]


def test_a_sweep_that_is_not_there_yet_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(tmp_path / "none", monkeypatch=monkeypatch) == []


def test_the_error_of_a_launch_goes_through(lay: Callable[..., Path]) -> None:
    with pytest.raises(ZeroDivisionError), overview.watching(lay(job(0)), Console(file=io.StringIO())):
        raise ZeroDivisionError


def test_on_a_terminal_what_jobs_print_stays_above(lay: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, (master, slave) = lay(job(0, "done")), pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        with overview.watching(sweep, Console(width=80, height=24)):
            print("bar 1", end="\r", flush=True)
            print("bar 2")
            print("an error", file=sys.stderr)
        monkeypatch.undo()
    written = b""
    with suppress(OSError):  # when all is read, as the other end is closed
        while piece := os.read(master, 4096):
            written += piece
    os.close(master)
    seen = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", written.decode())
    above, _, last = seen.rpartition("1 of 1 done")
    assert "bar 2\r\n" in above and "an error\r\n" in above and "bar 1" not in seen
    assert re.search("pooling=gem seed=0 +done", last)


def test_the_command_shows_a_sweep_once_where_it_is_no_terminal(
    lay: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(lay(job(0), job(1, "done")))]) == 0
    assert capsys.readouterr().out.startswith("1 of 2 done, 1 waiting")


def test_the_command_refuses_a_folder_without_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "error: a sweep's folder holds a sweep.json" in capsys.readouterr().err
