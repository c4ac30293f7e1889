"""How a run ends that is told to: by SLURM before its time is up, or by whoever needs the machine."""

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from retrieval import processes
from retrieval.terminal import say

Handler = Callable[[int, Any], None]
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # SLURM's; what sbatch --signal sends; submitit's


class Stopped(SystemExit):
    """The run was told to stop: the program ends with the status of one that SIGTERM ends."""

    def __init__(self, said: str = "") -> None:
        super().__init__(128 + signal.SIGTERM)
        self.said = said


@contextmanager
def stoppable() -> Iterator[None]:
    """Whatever runs within is ended by Stopped at the first of SIGNALS; the first process says why."""
    process = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() == process:  # those that it forks, as loaders do, inherit this
            for each in SIGNALS:
                signal.signal(each, signal.SIG_IGN)
            raise Stopped(f"stopped by {signal.Signals(number).name}")

    try:
        with handled(stop):
            yield
    except Stopped as stopped:
        if processes.first():
            say(stopped.said, sys.stderr)
        raise


@contextmanager
def handled(handler: Handler, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Hear these signals, and leave them as they were."""
    before = {each: signal.signal(each, handler) for each in signals}
    try:
        yield
    finally:
        for each, earlier in before.items():
            signal.signal(each, earlier or signal.SIG_DFL)


def unheeding(worker: int) -> None:
    """`worker_init_fn` of a loader: where a signal reaches every process of a job, its workers leave it to the one that
    they work for, which may need another batch."""
    for each in (*SIGNALS, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)


def requeue() -> None:
    """Put this SLURM job back into the queue; outside of SLURM nothing, and a warning where it fails."""
    job = slurm_job()
    if job is None:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        warnings.warn(f"SLURM job {job} is not back in the queue: {error}", stacklevel=2)


def slurm_job() -> str | None:
    """The id of the SLURM job that this is, with its place in an array; None in a shell's job, and outside of any."""
    if "SLURM_JOB_ID" not in os.environ or processes.in_shell():
        return None
    array, place = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{place}" if array and place else os.environ["SLURM_JOB_ID"]
