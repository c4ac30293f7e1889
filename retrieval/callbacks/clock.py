"""What a training takes: time and memory."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from retrieval import processes

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # of this process, on Linux


class Clock(pl.Callback):
    """Seconds spent in training, a run's earlier calls counted in, and the most memory taken (bytes): of the GPU, or of
    this process without its loaders; None where the system does not tell."""

    def __init__(self) -> None:
        self.seconds = 0.0  # of earlier calls
        self.began: float | None = None  # where a run is killed after its last step, the next call trains no more

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.began = time.perf_counter()
        forget_peak()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds + (0.0 if self.began is None else time.perf_counter() - self.began)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]

    def took(self, steps: int) -> dict[str, Any]:
        """Asked once, when training has ended."""
        return {"seconds": round(self.state_dict()["seconds"], 1), "steps": steps, "peak_memory": peak()}


def forget_peak() -> None:
    """Begin to look for the most memory anew: several jobs of a sweep share a process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        RESET.write_text("5")


def peak() -> int | None:
    """Bytes: the largest of the processes that train together."""
    if torch.cuda.is_available():
        return processes.largest(torch.cuda.max_memory_allocated())
    with suppress(OSError, ValueError):
        kilobytes = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")).split()[1]
        return processes.largest(1024 * int(kilobytes))
    return None
