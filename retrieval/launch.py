"""One call by several processes: started here, by torchrun or by srun, and stopped together, whatever stops one."""

import atexit
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from torch import distributed as dist
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException, start_processes

from retrieval import endings, processes, stages
from retrieval.config import explain, from_plain
from retrieval.errors import InputError
from retrieval.stopping import SIGNALS, Stopped, handled, requeue, slurm_job, stoppable
from retrieval.terminal import UNREAD

T = TypeVar("T")
Task = Callable[[DictConfig], T]

GRACE = 30.0  # seconds in which the others may end by themselves once a process has failed
PATIENCE = timedelta(days=1)  # one process judges for hours while others wait for it
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "fully_sharded")
REFUSED = "refused"  # file of a process's InputError


def launched(task: Task[T], cfg: DictConfig) -> T:
    """What `task(cfg)` returns in the first of the processes that `cfg.trainer` asks for.

    They are started here, unless torchrun or srun has started them: then this is one of them. task is a function of a
    module, found there by name. An InputError of any process is raised here, another error with its traceback. What is
    told to stop raises Stopped, and with `resume=auto` its SLURM job goes back into the queue.
    """
    devices = asked(cfg.trainer)
    try:
        if processes.world_size() > 1 or devices == 1:
            return working(task, cfg)
        return _started(task, cfg, devices)
    except Stopped:
        if cfg.get("resume") == "auto" and slurm_job() is not None:
            if processes.first():
                requeue()
            processes.wait()  # srun may end all when one ends
        raise


def asked(trainer: Mapping[str, Any]) -> int | list[int]:
    """trainer.devices: how many processes on a machine, or which GPUs have one each; 'auto' is every GPU."""
    gpus = torch.cuda.device_count() if trainer["accelerator"] in ("auto", "gpu", "cuda") else 0
    devices = trainer["devices"]
    if devices == "auto":
        return max(1, gpus)
    if type(devices) is int and devices >= 1 and (not gpus or devices <= gpus):
        return devices
    listed = list(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else []
    if listed and len(set(listed)) == len(listed) and all(type(i) is int and 0 <= i < gpus for i in listed):
        return listed
    there = f"up to {gpus}" if gpus else "at least 1"
    raise InputError(
        f"trainer.devices must be auto, a number of processes ({there}), or a list of GPUs as [0,1] (of the {gpus} "
        f"that trainer.accelerator={trainer['accelerator']} finds here); got {devices!r}"
    )


def layout(trainer: Mapping[str, Any]) -> dict[str, int]:
    """`devices` and `num_nodes` of the processes that there are; InputError where the config asks for others, or for a
    strategy that is not theirs."""
    if (strategy := trainer.get("strategy", "auto")) not in STRATEGIES:
        raise InputError(f"trainer.strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if strategy == "fully_sharded" and processes.world_size() == 1:
        raise InputError("trainer.strategy=fully_sharded is for several processes: give trainer.devices=2 or more")
    here = processes.local_size()
    machines = processes.world_size() // here
    devices = asked(trainer)
    each = devices if isinstance(devices, int) else len(devices)
    for key, wanted, found in (("devices", each, here), ("num_nodes", trainer.get("num_nodes", 1), machines)):
        if wanted not in (1, found) and trainer[key] != "auto":
            raise InputError(f"trainer.{key}={trainer[key]} was asked for, but there is {found}: started were "
                             f"{processes.world_size()} processes on {machines} machines")  # fmt: skip
    return {"devices": here, "num_nodes": machines}


def working(task: Task[T], cfg: DictConfig) -> T:
    """task(cfg) by this process, one of several or alone; the first of SIGNALS ends it by Stopped."""
    with stoppable():
        if processes.world_size() > 1:
            join(cfg.trainer["accelerator"] != "cpu" and torch.cuda.is_available())
            cfg.output_dir = processes.shared(cfg.output_dir)  # each may have read the clock
        return task(cfg)


def join(gpus: bool) -> None:
    """Let the processes talk to each other."""
    if processes.joined():  # by an earlier job of a sweep
        return
    if processes.under_srun():
        _meet_by_slurm()
    if gpus:
        torch.cuda.set_device(processes.local_rank())
    rank, size = processes.rank(), processes.world_size()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", rank=rank, world_size=size, timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)  # its threads would abort a process that ends with them


def _meet_by_slurm() -> None:
    """Say where the first process is, from the names of the job's machines."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    try:
        slurm = SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise InputError(f"srun: {error}") from error
    os.environ.update(MASTER_ADDR=slurm.main_address, MASTER_PORT=str(slurm.main_port))


def _started(task: Task[T], cfg: DictConfig, devices: int | list[int]) -> T:
    """Start a process for each device, wait for all, and take what the first one left."""
    if (machines := cfg.trainer.get("num_nodes", 1)) != 1:
        raise InputError(
            f"trainer.num_nodes={machines}: start a process for each device of each machine by srun, or by torchrun "
            "--nnodes; without either the processes are of this machine"
        )
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    gpus = {}
    if isinstance(devices, list):
        gpus = {"CUDA_VISIBLE_DEVICES": visible(devices)}
        devices = plain["trainer"]["devices"] = len(devices)
    told = stages.telling()
    stages.end()  # the first of the processes goes on with that
    # at a port that the system chooses
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    environment = _like_torchrun(devices, meeting.port) | gpus
    with tempfile.TemporaryDirectory() as folder:
        arguments = environment, pickle.dumps((task, plain, told)), Path(folder)
        _waited_for(arguments, devices)
        return pickle.loads((Path(folder) / "0").read_bytes())


def visible(devices: Sequence[int]) -> str:
    """CUDA_VISIBLE_DEVICES for these of the GPUs that are visible."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ",".join(names.split(",")[i] if names else str(i) for i in devices)


def _like_torchrun(size: int, port: int) -> dict[str, str]:
    """The variables by which PyTorch and Lightning know one of `size` processes that were started for them."""
    return {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "GROUP_RANK": "0",
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "retrieval",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _waited_for(arguments: tuple[dict[str, str], bytes, Path], size: int) -> None:
    """Run `_one` in `size` processes; signals go on to them, and when one fails all end."""
    told: list[int] = []

    def forward(number: int, frame: Any) -> None:
        told.append(number)
        for child in multiprocessing.active_children():
            assert child.pid is not None
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)

    with handled(forward, (*SIGNALS, signal.SIGINT)):
        try:
            context = start_processes(_one, arguments, size, join=False, start_method="spawn")
            assert context is not None
            while not context.join(grace_period=GRACE):
                pass
        except ProcessException as error:
            for refused in arguments[2].glob(f"{REFUSED}*"):
                raise InputError(refused.read_text()) from None
            status = error.exit_code if isinstance(error, ProcessExitedException) else 0
            if status == UNREAD:
                raise SystemExit(UNREAD) from None
            ended = status == Stopped().code
            if signal.SIGINT not in told and (told or ended):
                raise Stopped from None
            if not told:
                raise
    if signal.SIGINT in told or not (arguments[2] / "0").exists():  # torch lets an interrupted process end quietly
        raise KeyboardInterrupt


def _one(local_rank: int, environment: Mapping[str, str], packed: bytes, folder: Path) -> None:
    """One of the processes; the first one leaves what the task returned in `folder`."""
    os.environ.update(environment, RANK=str(local_rank), LOCAL_RANK=str(local_rank))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // processes.local_size()))
    task, plain, told = pickle.loads(packed)  # now, as what it imports reads the environment
    warnings.showwarning = endings.show_warning
    if told:
        stages.begin(None)
    cfg = from_plain(plain, struct=True)
    try:
        result = working(task, cfg)
    except InputError as error:
        (folder / f"{REFUSED}{local_rank}").write_text(explain(error))
        sys.exit(1)
    if local_rank == 0:
        (folder / "0").write_bytes(pickle.dumps(result))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
