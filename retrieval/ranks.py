"""Which of several processes this is, by the environment that torchrun or srun gave it; without torch."""

import os

SHELLS = ("bash", "interactive")  # names of SLURM jobs that a person works in; Lightning knows them by these too


def first() -> bool:
    """Whether this is the process that prints and writes."""
    return told("RANK", "SLURM_PROCID", 0) == 0


def told(torchrun: str, srun: str, otherwise: int) -> int:
    """A number that torchrun, or else srun, has left in the environment."""
    return int(os.environ.get(torchrun) or (under_srun() and os.environ.get(srun)) or otherwise)


def under_srun() -> bool:
    """Whether srun started this process; the shell of a SLURM job has its variables too."""
    return "SLURM_NTASKS" in os.environ and "RANK" not in os.environ and not in_shell()


def in_shell() -> bool:
    """Whether the SLURM job is a shell that a person works in."""
    return os.environ.get("SLURM_JOB_NAME") in SHELLS
