"""One job of a sweep: whose turn it is, how it ended, and all of them again until none is left."""

import os
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from omegaconf import DictConfig

from retrieval import launch, plan, processes
from retrieval.config import explain
from retrieval.errors import InputError
from retrieval.plan import Job, Wanted
from retrieval.terminal import printable

ERROR = "error.txt"  # the traceback of a job that failed
PATIENCE = 2.0  # seconds in which a look at a job's lock has passed


@dataclass(frozen=True)
class Claimed:
    """A sweep's task: run by one call alone, and not again once it is done. Picklable, as launchers send it about."""

    task: Callable[[DictConfig], Any]
    sweep_dir: Path

    def __call__(self, cfg: DictConfig) -> float | None:
        """The job's value, now or from when it was done; None where another call runs it."""
        processes.start_usual_children()
        join(cfg)
        folder = processes.shared(os.path.relpath(cfg.output_dir, self.sweep_dir))
        if not processes.first():
            return self.task(cfg) if processes.shared(False) else None
        lock = plan.lock(self.sweep_dir, folder)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            processes.shared(False)
            return None
        with lock:
            job = next(job for job in plan.read(self.sweep_dir) if job.folder == folder)
            runs = processes.shared(job.state != "done")
            return self._run(cfg, folder) if runs else job.value

    def _run(self, cfg: DictConfig, folder: str) -> float | None:
        self._say(folder, state="running", error=None, started=time.time(), ended=None)
        error_file = self.sweep_dir / folder / ERROR
        error_file.unlink(missing_ok=True)
        if "resume" not in cfg:  # judged again, from descriptors that are kept; a training finds what it has
            (self.sweep_dir / folder / "results.json").unlink(missing_ok=True)
        try:
            value = self.task(cfg)
        except Exception as error:
            error_file.write_text(traceback.format_exc(), encoding="utf-8")
            self._say(folder, state="failed", error=said(error), ended=time.time())
            raise
        except BaseException:
            self._say(folder, state="stopped", ended=time.time())
            raise
        self._say(folder, state="done", value=value, ended=time.time())
        return value

    def _say(self, folder: str, **changes: Any) -> None:
        plan.update(self.sweep_dir, folder, **changes)


def join(cfg: DictConfig) -> None:
    """Let processes that torchrun or srun started talk to each other, so that all do what the first decides."""
    if processes.world_size() > 1:
        launch.join(cfg.get("trainer", {}).get("accelerator") != "cpu" and torch.cuda.is_available())


def agreed(cfg: DictConfig, sweep_dir: Path, script: str, wanted: Sequence[Wanted]) -> list[Job]:
    """The job of each of `wanted`, laid out by the first process where several launch the sweep together."""
    join(cfg)
    found = plan.lay_out(sweep_dir, script, wanted) if processes.first() else []
    return processes.shared(found)


def said(error: BaseException) -> str:
    """The error in one line."""
    lines = explain(error).strip().splitlines() if isinstance(error, Exception) else []
    name = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"{name}{lines[0] if lines else ''}".rstrip(": ")


def left(jobs: Sequence[Job]) -> list[Job]:
    """Those that a call of the sweep has to run: neither done nor run by another call; each once."""
    return list({job.folder: job for job in jobs if job.state not in ("done", "running")}.values())


def run_all(sweep_dir: Path, jobs: Sequence[Job], start: Callable[[list[Job]], Sequence[BaseException | None]]) -> None:
    """Launch jobs until each has run, whatever kills a process on the way; start: what each job raised.

    A launcher gives up where one of its processes is killed, for lack of memory say: that job counts as failed, and
    those that it had not come to are launched again.
    """
    waiting = left(jobs)
    while waiting:
        try:
            return note_unbegun(sweep_dir, waiting, start(waiting))
        except Exception as error:
            states = settled(sweep_dir, waiting)
            dead = [job for job in states if job.state == "killed"]
            for job in dead:
                plan.update(sweep_dir, job.folder, state="failed", error=f"its process ended: {said(error)}")
            again = [job for job in states if job.state in ("waiting", "stopped")]
            if len(again) == len(waiting):
                raise
            waiting = again


def note_unbegun(sweep_dir: Path, jobs: Sequence[Job], errors: Sequence[BaseException | None]) -> None:
    """Put down as failed what failed before it was a job's turn, of which its launcher alone knows."""
    states = {job.folder: job.state for job in plan.read(sweep_dir)}
    for job, error in zip(jobs, errors, strict=True):
        if error is not None and states[job.folder] == "waiting":
            plan.update(sweep_dir, job.folder, state="failed", error=said(error))


def settled(sweep_dir: Path, jobs: Sequence[Job]) -> list[Job]:
    """These jobs as they stand when none of them runs any more."""
    folders = {job.folder for job in jobs}
    while True:
        now = [job for job in plan.read(sweep_dir) if job.folder in folders]
        if not any(job.state == "running" for job in now):
            return now
        time.sleep(1.0)


def summary(sweep_dir: Path, asked: Collection[str]) -> tuple[str, bool]:
    """How the sweep stands, in words, and whether a job in one of the folders `asked` failed."""
    jobs = plan.read(sweep_dir)
    failed = [job for job in jobs if job.state in ("failed", "killed", "stopped")]
    states = [job.state for job in jobs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lines = [f"  job {job.job} ({job.name}), in {job.folder}: {job.error or job.state}" for job in failed]
    return "\n".join(map(printable, [f"{sweep_dir}: of {len(jobs)} jobs {counts}", *lines])), any(
        job.folder in asked for job in failed
    )
