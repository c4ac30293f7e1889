"""One call by several processes: what they agree on, what comes back, and how they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import distributed as dist

from retrieval import launch, processes
from retrieval.errors import InputError
from retrieval.launch import asked, launched, layout, visible
from retrieval.stopping import SIGNALS, Stopped, requeue

ROOT = Path(__file__).parent.parent
ENDED = 128 + signal.SIGTERM


def config(out: Path, devices: Any = 2, **more: Any) -> DictConfig:
    trainer = {"devices": devices, "accelerator": "cpu"}
    return OmegaConf.create({"output_dir": str(out), "trainer": trainer, **more})


def sums(cfg: DictConfig) -> dict[str, Any]:
    """What a process sees of itself, of the others and of the config."""
    summed = torch.tensor([1.0 + processes.rank()])
    dist.all_reduce(summed)
    return {
        "rank": processes.rank(),
        "sum": float(summed),
        "local": (processes.local_rank(), processes.local_size()),
        "largest": processes.largest(10 * processes.rank()),
        "shared": processes.shared(processes.rank()),
        "layout": layout(cfg.trainer),
        "struct": OmegaConf.is_struct(cfg),
        "out": cfg.output_dir,
    }


def alone(cfg: DictConfig) -> int:
    return os.getpid()


def refused(cfg: DictConfig) -> None:
    raise InputError("seed must be a whole number, got 'one'")


def failing(cfg: DictConfig) -> None:
    """The second process fails, the first one would go on for long."""
    if processes.rank() == 1:
        raise ZeroDivisionError("at the second process")
    (Path(cfg.output_dir) / "pid").write_text(str(os.getpid()))
    time.sleep(600)


def killed(cfg: DictConfig) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def waiting(cfg: DictConfig) -> None:
    """Notes its process, and goes on until it is stopped; then notes that it ended by itself."""
    note = Path(cfg.output_dir) / f"pid{processes.rank()}"
    (note.parent / f"{note.name}.tmp").write_text(str(os.getpid()))
    (note.parent / f"{note.name}.tmp").rename(note)
    try:
        time.sleep(600)
    finally:
        (note.parent / f"ended{processes.rank()}").touch()


def telling(cfg: DictConfig) -> None:
    """Is told to stop."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def weighed(cfg: DictConfig) -> list[float]:
    """The gradient of each process's own row, from a loss of all rows that each process weighs in its own way."""
    own = torch.full((1, 2), float(processes.rank()), requires_grad=True)
    rows = processes.gathered(own)
    assert rows.tolist() == [[0, 0], [1, 1]]
    (rows * torch.tensor([[1, 2], [3, 4]]) * (1 + processes.rank())).sum().backward()
    assert own.grad is not None
    rank, size = processes.rank(), processes.world_size()
    mine = torch.zeros(size, 2)
    mine[rank] = own.grad
    dist.all_reduce(mine)
    return mine.flatten().tolist()


def running(pid: int) -> bool:
    """Whether there is a process of this number that has not ended."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


CALL = """
import sys
from omegaconf import OmegaConf
from retrieval.launch import launched
import test_launch
if __name__ == "__main__":
    cfg = test_launch.config(sys.argv[2], int(sys.argv[3]), resume="auto")
    print(launched(getattr(test_launch, sys.argv[1]), cfg))
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A call of `waiting` by two processes, which have begun to wait."""
    script = tmp_path / "call.py"
    script.write_text(CALL)
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    words = [sys.executable, str(script), "waiting", str(tmp_path), "2"]
    process = subprocess.Popen(words, env=os.environ | paths, stderr=subprocess.PIPE, text=True)
    while not all((tmp_path / f"pid{rank}").exists() for rank in range(2)):
        assert process.poll() is None
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def pids(folder: Path) -> list[int]:
    return [int((folder / f"pid{rank}").read_text()) for rank in range(2)]


def test_several_processes_talk_and_the_first_ones_result_comes_back(tmp_path: Path) -> None:
    found = launched(sums, config(tmp_path))
    assert found == {
        "rank": 0,
        "sum": 3.0,
        "local": (0, 2),
        "largest": 10,
        "shared": 0,
        "layout": {"devices": 2, "num_nodes": 1},
        "struct": True,
        "out": str(tmp_path),
    }


def test_one_process_is_this_one(tmp_path: Path) -> None:
    assert launched(alone, config(tmp_path, 1)) == os.getpid()


def test_what_one_process_refuses_is_refused_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^seed must be a whole number, got 'one'$"):
        launched(refused, config(tmp_path))


def test_a_process_that_fails_ends_the_others_and_its_traceback_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "GRACE", 1.0)
    with pytest.raises(Exception, match=r"(?s)in failing.*ZeroDivisionError: at the second process"):
        launched(failing, config(tmp_path))
    assert not running(int((tmp_path / "pid").read_text()))


def test_a_process_that_is_killed_is_named(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"process \d terminated with signal SIGKILL"):
        launched(killed, config(tmp_path))


def test_nothing_that_was_started_outlives_the_call(tmp_path: Path, started: subprocess.Popen[str]) -> None:
    children = pids(tmp_path)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    for _ in range(200):
        if not any(map(running, children)):
            return
        time.sleep(0.05)
    pytest.fail("processes are left over")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_every_process_and_the_call_ends_as_one_that_was_terminated(
    tmp_path: Path, started: subprocess.Popen[str], number: signal.Signals
) -> None:
    os.kill(started.pid, number)
    _, said = started.communicate()
    assert started.returncode == ENDED
    assert said.splitlines() == [f"stopped by {number.name}"]
    assert (tmp_path / "ended0").exists() and (tmp_path / "ended1").exists()


def test_an_interrupt_reaches_every_process(tmp_path: Path, started: subprocess.Popen[str]) -> None:
    os.kill(started.pid, signal.SIGINT)
    _, said = started.communicate()
    assert started.returncode != 0 and said.splitlines()[-1] == "KeyboardInterrupt"
    assert (tmp_path / "ended0").exists() and (tmp_path / "ended1").exists()


def test_torchruns_processes_start_no_others(tmp_path: Path) -> None:
    script = tmp_path / "call.py"
    script.write_text(CALL)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-endpoint=localhost:0"]
    words += ["--rdzv-backend=c10d", str(script), "sums", str(tmp_path), "1"]
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    ended = subprocess.run(words, env=os.environ | paths, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("'sum': 3.0") == 2 and ended.stdout.count("'devices': 2, 'num_nodes': 1") == 2


def test_sruns_processes_start_no_others(tmp_path: Path) -> None:
    """Two processes with the variables that srun gives them, on two machines of one process each."""
    script = tmp_path / "call.py"
    script.write_text(CALL)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}
    job |= {"SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1", "SLURM_LOCALID": "0"}
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    words = [sys.executable, str(script), "sums", str(tmp_path), "1"]
    tasks = [
        subprocess.Popen(
            words, env=os.environ | paths | job | {"SLURM_PROCID": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    said = [task.communicate()[0] for task in tasks]
    assert all("'sum': 3.0" in one and "'devices': 1, 'num_nodes': 2" in one for one in said)


@pytest.mark.parametrize("devices", [0, -1, 1.5, "two", True, [0, 0], [0, 1], [], None])
def test_what_is_no_number_of_processes_is_refused(devices: Any) -> None:
    with pytest.raises(InputError, match=r"trainer\.devices must be auto, a number of processes"):
        asked({"devices": devices, "accelerator": "cpu"})


def test_auto_is_one_process_where_there_is_no_gpu() -> None:
    assert asked({"devices": "auto", "accelerator": "cpu"}) == 1


@pytest.mark.parametrize(
    ("devices", "expected"), [("auto", 4), (2, 2), ([3, 1], [3, 1]), ([2], [2])], ids=["auto", "two", "list", "one"]
)
def test_gpus_are_taken_by_number_or_by_name(devices: Any, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert asked({"devices": devices, "accelerator": "gpu"}) == expected


@pytest.mark.parametrize("devices", [5, [0, 4]])
def test_more_gpus_than_there_are_are_refused(devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(InputError, match="of the 4"):
        asked({"devices": devices, "accelerator": "gpu"})


def test_gpus_are_named_among_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible([3, 1]) == "3,1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5,6,7")
    assert visible([3, 1]) == "7,GPU-5"


def test_other_machines_are_not_reached_from_here(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.trainer.num_nodes = 2
    with pytest.raises(InputError, match=r"trainer\.num_nodes=2: start a process for each device of each machine"):
        launched(alone, cfg)


def test_another_number_of_processes_than_was_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    assert layout({"devices": 2, "accelerator": "cpu", "num_nodes": 2}) == {"devices": 2, "num_nodes": 2}
    with pytest.raises(InputError, match=r"trainer\.devices=3 was asked for, .* 4 processes on 2 machines"):
        layout({"devices": 3, "accelerator": "cpu"})


def test_a_gradient_comes_back_to_the_process_whose_rows_it_is_of(tmp_path: Path) -> None:
    assert launched(weighed, config(tmp_path)) == [3, 6, 9, 12]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with what SLURM's scontrol was asked for; this is the fourth job of an array."""
    asked = tmp_path / "asked"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in {"SLURM_JOB_ID": 4242, "SLURM_ARRAY_JOB_ID": 4200, "SLURM_ARRAY_TASK_ID": 3}.items():
        monkeypatch.setenv(name, str(value))
    asked.touch()
    return asked


@pytest.mark.parametrize("devices", [1, 2])
def test_a_job_that_is_told_to_stop_and_may_go_on_queues_again_once(
    devices: int, tmp_path: Path, queue: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stopped) as stopped:
        launched(telling, config(tmp_path, devices, resume="auto"))
    assert stopped.value.code == ENDED and queue.read_text() == "requeue 4200_3\n"
    assert capfd.readouterr().err.splitlines() == ["stopped by SIGTERM"]


def test_a_job_that_would_begin_anew_does_not_queue_again(tmp_path: Path, queue: Path) -> None:
    with pytest.raises(Stopped):
        launched(telling, config(tmp_path, 1, resume=None))
    assert queue.read_text() == ""


def test_a_job_outside_of_an_array_queues_by_its_own_id(monkeypatch: pytest.MonkeyPatch, queue: Path) -> None:
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    requeue()
    assert queue.read_text() == "requeue 4242\n"


def test_the_shell_of_a_job_does_not_queue_again(monkeypatch: pytest.MonkeyPatch, queue: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    requeue()
    assert queue.read_text() == ""


def test_a_queue_that_cannot_be_reached_costs_a_warning(monkeypatch: pytest.MonkeyPatch, queue: Path) -> None:
    (queue.parent / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    with pytest.warns(match="SLURM job 4200_3 is not back in the queue"):
        requeue()


def test_signals_are_left_as_they_were(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    launched(alone, config(tmp_path, 1))
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed"])
def test_a_strategy_that_is_not_ours_is_refused(strategy: str) -> None:
    with pytest.raises(InputError, match=rf"trainer\.strategy must be one of auto, ddp, .* got '{strategy}'"):
        layout({"devices": 1, "accelerator": "cpu", "strategy": strategy})


def test_shares_of_one_process_are_refused() -> None:
    with pytest.raises(InputError, match=r"fully_sharded is for several processes"):
        layout({"devices": 1, "accelerator": "cpu", "strategy": "fully_sharded"})
