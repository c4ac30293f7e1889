"""Which process this is, as torchrun, srun or nobody tells it."""

import pytest

from retrieval import processes
from retrieval.errors import InputError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SLURM = ("JOB_NAME", "NTASKS", "PROCID", "LOCALID", "NTASKS_PER_NODE")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Variables of no launcher."""
    for name in (*NAMES, *(f"SLURM_{name}" for name in SLURM)):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def told() -> tuple[int, int, int, int]:
    return processes.rank(), processes.world_size(), processes.local_rank(), processes.local_size()


def by_srun(environment: pytest.MonkeyPatch, name: str) -> None:
    for key, value in zip(SLURM, (name, "8", "5", "1", "4"), strict=True):
        environment.setenv(f"SLURM_{key}", value)


def test_a_process_that_nobody_launched_is_alone(environment: pytest.MonkeyPatch) -> None:
    assert told() == (0, 1, 0, 1)


def test_torchrun_numbers_processes(environment: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, "5814", strict=True):
        environment.setenv(name, value)
    assert told() == (5, 8, 1, 4)


def test_srun_numbers_processes(environment: pytest.MonkeyPatch) -> None:
    by_srun(environment, "train")
    assert told() == (5, 8, 1, 4)


@pytest.mark.parametrize("name", ["interactive", "bash"])
def test_the_shell_of_a_slurm_job_is_one_process(environment: pytest.MonkeyPatch, name: str) -> None:
    by_srun(environment, name)
    assert told() == (0, 1, 0, 1)


def test_torchrun_within_srun_numbers_processes(environment: pytest.MonkeyPatch) -> None:
    by_srun(environment, "train")
    for name, value in zip(NAMES, "3402", strict=True):
        environment.setenv(name, value)
    assert told() == (3, 4, 0, 2)


def test_each_process_has_its_part_of_a_batch(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in "012":
        environment.setenv("RANK", rank)
        parts.append(processes.part(range(6), "sampler.landmarks"))
    assert [list(part) for part in parts] == [[0, 1], [2, 3], [4, 5]]


def test_what_cannot_be_shared_out_equally_is_refused(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"sampler\.landmarks must be a multiple of the 4 processes .* got 6"):
        processes.part(range(6), "sampler.landmarks")


def test_alone_everything_is_shared_already() -> None:
    assert processes.shared("runs/a") == "runs/a" and processes.largest(3) == 3
