"""The plan of a sweep: every job, what sets it apart and how it stands, in `sweep.json` of the sweep's folder.

A job is known by its config, so that the same call again, in another order or with more values, finds the jobs that it
has. A running job holds a lock on its folder, which the system frees when a process ends in whatever way.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from retrieval.config import from_plain
from retrieval.errors import InputError
from retrieval.subjects import deciding, digest
from retrieval.terminal import printable

State = Literal["waiting", "running", "done", "failed", "stopped", "killed"]

PLAN, CONFIGS, LOCK = "sweep.json", "configs.json", "job.lock"


@dataclass(frozen=True)
class Job:
    """folder: of the job, below the sweep's. differs: which of its overrides the other jobs have otherwise.

    started, ended: seconds since the epoch. value: what a search over settings maximises, see `results.objective`.
    """

    job: int
    folder: str
    overrides: list[str]
    differs: dict[str, str] = field(default_factory=dict)
    state: State = "waiting"
    error: str | None = None
    started: float | None = None
    ended: float | None = None
    value: float | None = None

    @property
    def name(self) -> str:
        """What sets it apart, as typed."""
        return printable(" ".join(f"{key}={value}" for key, value in self.differs.items()) or self.folder)


class Wanted(NamedTuple):
    """A job that was asked for: its overrides, and the folder and the config, with interpolations resolved, that it has
    as the nth job of a plan."""

    overrides: list[str]
    at: Callable[[int], tuple[str, dict[str, Any]]]


def read(sweep_dir: Path) -> list[Job]:
    """The jobs, one that is down as running but holds no lock as killed; InputError where there is no plan."""
    return [_seen(job, sweep_dir) for job in _written(sweep_dir)]


def configs(sweep_dir: Path) -> dict[str, dict[str, Any]]:
    """The config of each job, by its folder."""
    file = sweep_dir / CONFIGS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def sweep_of(output_dir: Path) -> Path | None:
    """The folder of the sweep that a job's folder lies in, however deep; None without one."""
    return next((folder for folder in output_dir.parents if _planned(folder)), None)


def lay_out(sweep_dir: Path, script: str, wanted: Sequence[Wanted]) -> list[Job]:
    """The job of each of `wanted`: the one that the plan has, or a new one.

    Raises InputError where the plan is of the other script, or two jobs would have one folder.
    """
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with _locked(sweep_dir):
        jobs, known = (_written(sweep_dir, script), configs(sweep_dir)) if _planned(sweep_dir) else ([], {})
        places = {identity(known[job.folder]): job.job for job in jobs if job.folder in known}
        numbers = [_place(one, jobs, known, places) for one in wanted]
        jobs = told_apart(jobs)
        _write(sweep_dir / CONFIGS, known)
        _write(sweep_dir / PLAN, {"script": script, "jobs": [asdict(job) for job in jobs]})
    return [_seen(jobs[number], sweep_dir) for number in numbers]


def _place(one: Wanted, jobs: list[Job], known: dict[str, dict[str, Any]], places: dict[str, int]) -> int:
    """The number of the job, which joins the others if it is new. One that is not done is run as this call says: with
    the workers, the logger, ... that it names."""
    folder, config = one.at(len(jobs))
    number = places.setdefault(identity(config), len(jobs))
    if number == len(jobs):
        refuse_taken(job := Job(number, folder, one.overrides), jobs)
        jobs.append(job)
        known[folder] = config
    elif jobs[number].state != "done":
        jobs[number] = replace(jobs[number], overrides=one.overrides)
    return number


def unwritten(wanted: Sequence[Wanted]) -> tuple[list[DictConfig], list[dict[str, str]]]:
    """The config of each job and what sets it apart, of a sweep that is only looked at."""
    each = [one.at(number) for number, one in enumerate(wanted)]
    jobs = [Job(i, folder, one.overrides) for i, (one, (folder, _)) in enumerate(zip(wanted, each, strict=True))]
    configs = [from_plain(config, struct=True) for _, config in each]
    return configs, [job.differs for job in told_apart(jobs)]


def update(sweep_dir: Path, folder: str, **changes: Any) -> None:
    """Change what the plan says of a job."""
    with _locked(sweep_dir):
        content = _content(sweep_dir)
        jobs = [replace(job, **changes) if job.folder == folder else job for job in content["jobs"]]
        _write(sweep_dir / PLAN, {"script": content["script"], "jobs": [asdict(job) for job in jobs]})


def identity(config: Mapping[str, Any]) -> str:
    """Alike for configs that make one job: where it writes, what it logs and how photos are loaded is left aside."""
    folder = json.dumps(config.get("output_dir", "OUTPUT_DIR"))[1:-1]  # a store may lie below it
    return digest(json.dumps(deciding(config), sort_keys=True, default=str).replace(folder, "OUTPUT_DIR"))


def told_apart(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, each with the overrides that not all of them have alike."""
    each = [dict(word.lstrip("+~").split("=", 1) for word in job.overrides if "=" in word) for job in jobs]
    keys = dict.fromkeys(key for words in each for key in words)
    differing = [key for key in keys if len({words.get(key) for words in each}) > 1]
    return [
        replace(job, differs={key: words[key] for key in differing if key in words})
        for job, words in zip(jobs, each, strict=True)
    ]


def refuse_taken(job: Job, jobs: Sequence[Job]) -> None:
    """Two jobs cannot share a folder."""
    for other in jobs:
        if other.folder == job.folder:
            raise InputError(
                f"hydra.sweep.subdir gives two jobs one folder, {job.folder}: {' '.join(other.overrides)} and "
                f"{' '.join(job.overrides)}; accepted: one that has hydra:job.num or what differs in it"
            )


def lock(sweep_dir: Path, folder: str) -> FileLock:
    """What a job holds while it runs."""
    with suppress(OSError):
        (sweep_dir / folder).mkdir(parents=True, exist_ok=True)
    return FileLock(sweep_dir / folder / LOCK)


def _seen(job: Job, sweep_dir: Path) -> Job:
    if job.state != "running":
        return job
    try:
        with lock(sweep_dir, job.folder).acquire(timeout=0):
            return replace(job, state="killed")
    except (Timeout, RuntimeError, OSError):  # held, by another or by this thread, or another person's sweep
        return job


def _planned(sweep_dir: Path) -> bool:
    return (sweep_dir / PLAN).is_file()


def _written(sweep_dir: Path, script: str | None = None) -> list[Job]:
    content = _content(sweep_dir)
    if script not in (None, content["script"]):
        raise InputError(f"{sweep_dir} is a sweep of {content['script']}.py: name another hydra.sweep.dir")
    return content["jobs"]


def _content(sweep_dir: Path) -> dict[str, Any]:
    if not _planned(sweep_dir):
        raise InputError(f"a sweep's folder holds a {PLAN}, {sweep_dir} has none")
    try:
        content = json.loads((sweep_dir / PLAN).read_text(encoding="utf-8"))
        return {"script": content["script"], "jobs": [Job(**job) for job in content["jobs"]]}
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{sweep_dir / PLAN} is no plan of a sweep: {error!r}") from error


def _locked(sweep_dir: Path) -> FileLock:
    return FileLock(sweep_dir / "sweep.lock")


def _write(file: Path, content: Any) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    part.replace(file)
