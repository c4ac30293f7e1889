"""train.py by the commands that a person types on a cluster: jobs of their own, stopped by signals, queued again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from retrieval import config, training

ROOT = Path(__file__).parent.parent
PATIENCE = 300  # seconds, for a call that takes ten on an idle machine
ENDED = 128 + signal.SIGTERM
WORDS = [
    "backbone=timm",
    "backbone.name=test_resnet",
    "data=folder",
    "data.resolution=32",
    "data.workers=1",
    "sampler.landmarks=2",
    "sampler.photos=2",
    "benchmark=folder",
    "extract.resolutions=[48]",
    "extract.workers=0",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "logger=csv",
    "evaluate_untrained=false",
    "checkpoint_steps=1",
]

# SLURM on this machine: sbatch runs a job, srun its tasks, scontrol waits for who asks and runs the job again.
SBATCH = """#!/bin/bash
script=${@: -1}
each=$(sed -n 's/^#SBATCH --ntasks-per-node=//p' $script)
machines=$(sed -n 's/^#SBATCH --nodes=//p' $script)
export SLURM_JOB_ID=77 SLURM_JOB_NAME=train SLURM_NODELIST=127.0.0.1
export SLURM_NTASKS_PER_NODE=$each SLURM_NTASKS=$((each * machines)) SLURM_NNODES=$machines SCRIPT=$script
bash $script > $FAKE/output 2>&1 < /dev/null &
echo Submitted batch job 77
"""
SRUN = """#!/bin/bash
while [[ $1 != */python* ]]; do shift; done
for rank in $(seq 0 $((SLURM_NTASKS - 1))); do
    export SLURM_PROCID=$rank SLURM_LOCALID=$((rank % SLURM_NTASKS_PER_NODE)) SLURM_NODEID=0
    "$@" > $FAKE/task$rank 2>&1 &
    echo $! > $FAKE/pid$rank
done
wait
"""
SCONTROL = """#!/bin/bash
echo "$@" >> $FAKE/scontrol.log
(while kill -0 $PPID 2> /dev/null; do sleep 0.1; done; bash $SCRIPT) > $FAKE/output 2>&1 < /dev/null &
"""
SACCT = """#!/bin/bash
printf 'JobID|State|NodeList\\n77|RUNNING|here\\n'
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with SLURM's commands, which leave notes in $FAKE."""
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "sacct": SACCT}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return os.environ | {"FAKE": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


def words(photos: Path, out: Path, *more: str) -> list[str]:
    return [*WORDS, f"data.root={photos}", f"benchmark.folder.root={photos}", f"cache={out.parent}/cache", *more]


def started(given: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    """train.py in a process group of its own."""
    command = [sys.executable, "train.py", *given]
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ended(process: subprocess.Popen[str]) -> str:
    """What it said on its way; a process that does not end is ended, with all that it started."""
    try:
        return process.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str]) -> None:
    while not list(folder.glob(pattern)):
        assert process.poll() is None, ended(process)
        time.sleep(0.02)


def apart(one: Path, other: Path) -> float:
    """The largest difference between the weights of two runs."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.mark.parametrize(("devices", "number"), [(1, signal.SIGUSR1), (2, signal.SIGTERM)], ids=["one", "two"])
def test_a_training_that_is_told_to_stop_keeps_its_state_queues_again_and_goes_on(
    photos: Path, tmp_path: Path, slurm: dict[str, str], devices: int, number: signal.Signals
) -> None:
    """The signal reaches every process of the job, those that load photos too."""
    out = tmp_path / "run"
    given = words(photos, out, "trainer.max_epochs=12", f"trainer.devices={devices}", "resume=auto")
    job = {"SLURM_JOB_ID": "4242", "SLURM_ARRAY_JOB_ID": "4200", "SLURM_ARRAY_TASK_ID": "3", "SCRIPT": "/dev/null"}
    process = started([*given, f"output_dir={out}"], slurm | job)
    wait_for("checkpoints/last-0000000[3-9].ckpt", out, process)
    os.killpg(process.pid, number)
    said = ended(process)
    assert process.returncode == ENDED, said
    (latest, *_) = sorted((out / "checkpoints").glob("last-*.ckpt"), reverse=True)
    step = int(latest.stem.split("-")[1])
    assert f"stopped by {number.name} at step {step}; {latest}; run again with resume=auto" in said.splitlines()
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4200_3\n" and not (out / "results.json").exists()

    again = started([*given, f"output_dir={out}"], dict(os.environ))
    said = ended(again)
    assert again.returncode == 0, said
    training.fit(
        config.compose("train", words(photos, tmp_path / "other", "trainer.max_epochs=12"), tmp_path / "other")
    )
    assert apart(out, tmp_path / "other") < 1e-5


def test_a_sweep_on_slurm_is_stopped_queued_again_and_finished(
    photos: Path, tmp_path: Path, slurm: dict[str, str]
) -> None:
    """Two tasks, by srun, are told by the signal that submitit asks SLURM for."""
    sweep = tmp_path / "sweep"
    more = ["hydra/launcher=slurm", f"hydra.sweep.dir={sweep}", "trainer.devices=2", "trainer.max_epochs=12"]
    more += ["extract.workers=2"]
    process = started(["-m", *words(photos, sweep, *more, "seed=5", "resume=auto")], slurm)
    wait_for("*/checkpoints/last-0000000[3-9].ckpt", sweep, process)
    for rank in range(2):
        os.kill(int((tmp_path / f"pid{rank}").read_text()), signal.SIGUSR2)
    said = ended(process)
    assert process.returncode == 0, said
    assert (tmp_path / "scontrol.log").read_text() == "requeue 77\n"
    (results,) = sweep.glob("*/results.json")
    assert results.parent.name == "0_timm_gem_seed5" and len(json.loads(results.read_text())) == 1


@pytest.mark.parametrize(("launcher", "seeds"), [("basic", "0,1"), ("joblib", "0"), ("submitit_local", "0")])
def test_every_job_of_a_sweep_starts_its_own_processes_and_has_its_own_folder(
    photos: Path, tmp_path: Path, launcher: str, seeds: str
) -> None:
    more = [f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path / 'sweep'}", "trainer.max_epochs=1"]
    more += ["extract.workers=2"]
    process = started(["-m", *words(photos, tmp_path, *more, f"seed={seeds}", "trainer.devices=2")], dict(os.environ))
    said = ended(process)
    assert process.returncode == 0, said
    for seed in map(int, seeds.split(",")):
        out = tmp_path / "sweep" / f"{seed}_timm_gem_seed{seed}"
        (row,) = json.loads((out / "results.json").read_text())
        cfg = OmegaConf.load(out / "config.yaml")
        assert isinstance(cfg, DictConfig) and cfg.output_dir == str(out) and row["seed"] == cfg.seed == seed
