"""Sweeps by command: what is run, what is run again, and how one ends of which a job fails or is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import TINY

from retrieval import plan
from retrieval.errors import InputError
from retrieval.overrides import quoted
from retrieval.plan import Job, Wanted
from retrieval.sweep import jobs

ROOT = Path(__file__).parent.parent
SHELF = ["backbone=timm", "backbone.name=test_resnet", "extract.resolutions=[48]", "extract.workers=0"]


def words(script: str, photos: Path, sweep: Path, *more: str) -> list[str]:
    own = TINY if script == "train" else [*SHELF, "benchmark=folder"]
    places = [f"benchmark.folder.root={photos}", f"cache={sweep.parent}", f"hydra.sweep.dir={quoted(str(sweep))}"]
    places += [f"data.root={photos}"] if script == "train" else []
    return [sys.executable, f"{script}.py", "-m", *own, *places, *more]


def called(script: str, photos: Path, sweep: Path, *more: str) -> subprocess.CompletedProcess[str]:
    call = words(script, photos, sweep, *more)
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)


def states(sweep: Path) -> list[str]:
    return [job.state for job in plan.read(sweep)]


def rows(sweep: Path, folder: str) -> list[dict[str, Any]]:
    return json.loads((sweep / folder / "results.json").read_text())


@pytest.fixture(scope="module")
def failing(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess]:
    """A sweep whose second benchmark is not there yet."""
    sweep = tmp_path_factory.mktemp("failing") / "sweep"
    late = sweep.parent / "late"
    roots = f"benchmark.folder.root={photos},{late}"
    return sweep, late, called("eval", photos, sweep, "pooling=gap,max", roots)


def test_a_failed_job_does_not_stop_the_others(failing: Any) -> None:
    assert states(failing[0]) == ["done", "done", "failed", "failed"]


def test_a_sweep_with_a_failed_job_ends_with_what_failed_and_why(failing: Any) -> None:
    sweep, late, ended = failing
    assert ended.returncode == 1
    assert f"error: {sweep}: of 4 jobs 2 done, 2 failed" in ended.stderr
    assert f"job 2 (benchmark.folder.root={late} pooling=gap), in " in ended.stderr
    assert str(late) in ended.stderr.splitlines()[-2]


def test_the_traceback_of_a_failed_job_is_kept(failing: Any) -> None:
    assert "Traceback" in (failing[0] / plan.read(failing[0])[2].folder / "error.txt").read_text()


def test_a_call_does_not_fail_for_jobs_that_it_did_not_ask_for(failing: Any, photos: Path) -> None:
    sweep, _, _ = failing
    fewer = called("eval", photos, sweep, "pooling=gap,max", f"benchmark.folder.root={photos}")
    assert fewer.returncode == 0 and f"{sweep}: of 4 jobs 2 done, 2 failed" in fewer.stdout


def test_the_same_call_again_runs_only_what_failed(failing: Any, photos: Path) -> None:
    sweep, late, _ = failing
    before = {job.job: job.started for job in plan.read(sweep)}
    late.symlink_to(photos)
    again = called("eval", photos, sweep, "pooling=max,gap", f"benchmark.folder.root={photos},{late}")
    assert again.returncode == 0 and f"{sweep}: of 4 jobs 4 done" in again.stdout
    after = {job.job: job.started for job in plan.read(sweep)}
    assert [after[job] == before[job] for job in range(4)] == [True, True, False, False]
    assert [len(rows(sweep, job.folder)) for job in plan.read(sweep)] == [1] * 4


def test_a_job_that_was_killed_when_all_was_judged_is_judged_again(photos: Path, tmp_path: Path) -> None:
    assert called("eval", photos, tmp_path / "sweep", "pooling=gap").returncode == 0
    (job,) = plan.read(tmp_path / "sweep")
    plan.update(tmp_path / "sweep", job.folder, state="running")
    again = called("eval", photos, tmp_path / "sweep", "pooling=gap")
    assert again.returncode == 0, again.stderr
    assert len(rows(tmp_path / "sweep", job.folder)) == 1


def test_words_of_a_sweep_may_name_the_folder_of_each_job(photos: Path, tmp_path: Path) -> None:
    words = ["pooling=gap,max", "extract.store=${output_dir}/store", "hydra.sweep.subdir=${names.pooling}/${seed}/"]
    for _ in range(2):
        ended = called("eval", photos, tmp_path / "sweep", *words)
        assert ended.returncode == 0, ended.stderr
    assert [job.folder for job in plan.read(tmp_path / "sweep")] == ["gap/0", "max/0"]
    assert all(list((tmp_path / f"sweep/{name}/0/store").iterdir()) for name in ("gap", "max"))


@pytest.fixture(scope="module")
def killed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training sweep killed in its second job."""
    sweep = tmp_path_factory.mktemp("killed") / "sweep"
    call = words("train", photos, sweep, "seed=0,1,2", "trainer.max_epochs=40", "checkpoint_steps=5")
    process = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(sweep.glob("1_*/checkpoints/*")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return sweep


def test_a_job_whose_process_is_gone_counts_as_killed(killed: Path) -> None:
    assert states(killed) == ["done", "killed", "waiting"]


def test_a_killed_sweep_goes_on_by_the_same_call(killed: Path, photos: Path) -> None:
    first = plan.read(killed)[0]
    ended = called("train", photos, killed, "seed=0,1,2", "trainer.max_epochs=40", "checkpoint_steps=5")
    assert ended.returncode == 0, ended.stderr
    assert states(killed) == ["done"] * 3 and plan.read(killed)[0] == first
    steps = [rows(killed, job.folder)[0]["steps"] for job in plan.read(killed)]
    assert steps[0] == steps[1] == steps[2] > 0


def test_two_calls_at_once_run_each_job_once(photos: Path, tmp_path: Path) -> None:
    call = words("train", photos, tmp_path / "sweep", "pooling=gap,max,gem", "seed=0,1")
    both = [subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert states(tmp_path / "sweep") == ["done"] * 6
    for job in plan.read(tmp_path / "sweep"):
        wrote = f"written to {tmp_path / 'sweep' / job.folder}"
        assert sum(text.count(wrote) for text in said) == 1


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_launcher_runs_the_plan(launcher: str, photos: Path, tmp_path: Path) -> None:
    sweep, odd = tmp_path / "swéep, [a=b]", tmp_path / "it's #1; é"
    odd.symlink_to(photos)
    given = ["extract.workers=2", f"hydra/launcher={launcher}", f"benchmark.folder.root={quoted(str(odd))}"]
    ended = called("eval", photos, sweep, *given, "pooling=gap,max")
    assert ended.returncode == 0, ended.stderr
    assert states(sweep) == ["done", "done"]


def test_joblib_trains_with_workers(photos: Path, tmp_path: Path) -> None:
    given = ["data.workers=2", "extract.workers=2", "trainer.max_epochs=1", "hydra/launcher=joblib", "seed=0,1"]
    ended = called("train", photos, tmp_path / "sweep", *given, "hydra.launcher.n_jobs=1")
    assert ended.returncode == 0, ended.stderr
    assert states(tmp_path / "sweep") == ["done", "done"]


def test_optuna_is_told_the_value_of_each_job(photos: Path, tmp_path: Path) -> None:
    storage = f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"
    more = ["hydra/sweeper=optuna", storage, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "pooling=gem"]
    ended = called(
        "eval", photos, tmp_path / "sweep", *more, "hydra.sweeper.direction=maximize", "pooling.p=interval(1,6)"
    )
    assert ended.returncode == 0, ended.stderr
    values = [job.value for job in plan.read(tmp_path / "sweep")]
    best = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    assert len(values) == 3 and f"best_value: {max(value for value in values if value is not None)}" in best


def test_a_dry_run_writes_no_plan(photos: Path, tmp_path: Path) -> None:
    ended = called("eval", photos, tmp_path / "sweep", "pooling=gap,max", "dry_run=true")
    assert ended.returncode == 0 and not list((tmp_path / "sweep").glob("sweep.json"))


def wanted(config: dict[str, Any], folder: str = "{}_job") -> Wanted:
    return Wanted([f"{key}={value}" for key, value in config.items()], lambda number: (folder.format(number), config))


@pytest.fixture
def planned(tmp_path: Path) -> Iterator[Path]:
    plan.lay_out(tmp_path, "train", [wanted({"pooling": "gap", "seed": 0}), wanted({"pooling": "gem", "seed": 0})])
    yield tmp_path


def test_more_values_join_the_jobs_that_a_sweep_has(planned: Path) -> None:
    more = [wanted({"pooling": pooling, "seed": 0}) for pooling in ("gem", "max", "gap")]
    assert [job.folder for job in plan.lay_out(planned, "train", more)] == ["1_job", "2_job", "0_job"]


def test_jobs_are_told_apart_by_what_differs(planned: Path) -> None:
    assert [job.differs for job in plan.read(planned)] == [{"pooling": "gap"}, {"pooling": "gem"}]


def test_where_a_job_logs_makes_no_other_job(planned: Path) -> None:
    same = wanted({"pooling": "gap", "seed": 0, "logger": "csv", "cache": "elsewhere", "resume": "auto"})
    assert plan.lay_out(planned, "train", [same])[0].folder == "0_job"


def test_a_job_that_is_not_done_is_run_as_the_later_call_says(planned: Path) -> None:
    plan.update(planned, "0_job", state="failed")
    plan.update(planned, "1_job", state="done")
    later = [wanted({"pooling": pooling, "seed": 0, "logger": "csv"}) for pooling in ("gap", "gem")]
    failed, done = plan.lay_out(planned, "train", later)
    assert "logger=csv" in failed.overrides and "logger=csv" not in done.overrides


def test_the_workers_of_a_stream_make_another_job() -> None:
    streams = [{"sampler": {"_target_": None}, "data": {"workers": count}} for count in (1, 2)]
    files = [{**one, "sampler": {"_target_": "retrieval.data.batching.LandmarkBatches"}} for one in streams]
    assert plan.identity(streams[0]) != plan.identity(streams[1])
    assert plan.identity(files[0]) == plan.identity(files[1])


def test_a_value_below_the_folder_of_a_job_makes_no_other_job(tmp_path: Path) -> None:
    def at(number: int) -> tuple[str, dict[str, Any]]:
        folder = f"{number}_job"
        return folder, {"output_dir": str(tmp_path / folder), "extract": {"store": str(tmp_path / folder / "store")}}

    for _ in range(2):
        assert [job.folder for job in plan.lay_out(tmp_path, "eval", [Wanted([], at)])] == ["0_job"]


def test_the_folder_of_another_script_is_refused(planned: Path) -> None:
    with pytest.raises(InputError, match=r"is a sweep of train\.py"):
        plan.lay_out(planned, "eval", [wanted({"pooling": "gap"})])


def test_two_jobs_in_one_folder_are_refused(tmp_path: Path) -> None:
    both = [wanted({"seed": seed}, "always") for seed in (0, 1)]
    with pytest.raises(InputError, match=r"hydra\.sweep\.subdir gives two jobs one folder, always: seed=0 and seed=1"):
        plan.lay_out(tmp_path, "train", both)


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds a sweep\.json"):
        plan.read(tmp_path)


def test_a_broken_plan_is_refused(planned: Path) -> None:
    (planned / "sweep.json").write_text("{")
    with pytest.raises(InputError, match="is no plan of a sweep"):
        plan.read(planned)


def test_a_job_that_holds_its_lock_is_running(planned: Path) -> None:
    plan.update(planned, "0_job", state="running")
    with plan.lock(planned, "0_job"):
        assert states(planned) == ["running", "waiting"]
    assert states(planned) == ["killed", "waiting"]


def test_jobs_that_a_launcher_did_not_come_to_are_launched_again(planned: Path) -> None:
    """As where joblib gives up all its work because the system killed one of its processes."""
    launched: list[list[str]] = []

    def start(left: list[Job]) -> list[None]:
        launched.append([job.folder for job in left])
        plan.update(planned, left[0].folder, state="running")  # and holds no lock
        if len(launched) == 1:
            raise RuntimeError("a worker was killed")
        plan.update(planned, left[0].folder, state="done")
        return [None]

    jobs.run_all(planned, plan.read(planned), start)
    assert launched == [["0_job", "1_job"], ["1_job"]]
    assert plan.read(planned)[0].error == "its process ended: RuntimeError: a worker was killed"
    assert states(planned) == ["failed", "done"]


def test_a_job_that_fails_before_its_turn_counts_as_failed(planned: Path) -> None:
    jobs.run_all(planned, plan.read(planned), lambda left: [PermissionError("job.lock"), None])
    assert [(job.state, job.error) for job in plan.read(planned)] == [
        ("failed", "PermissionError: job.lock"),
        ("waiting", None),
    ]
