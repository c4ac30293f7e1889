"""How far a run is, for whoever looks on: `progress.json` in its folder."""

import json
import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from retrieval import processes

FILE = "progress.json"
EVERY = 1.0  # seconds between two writes, at the least
SHOWN = re.compile(r"train/loss|p|p/mean|validation/mAP|.+/.+@\d+")  # the last are curves of callbacks=evaluate
UNKNOWN = {"step": 0, "first_step": 0, "steps": 0, "epoch": 0, "values": {}}


class Progress(pl.Callback):
    """Writes `progress.json` at the start and the end of training, and between them once a second at most.

    phase: "training", or what `say` was told. step of steps; first_step: where a run that goes on took up again.
    values: the latest of what SHOWN names. started: of this training, time: of this file, in seconds since the epoch.
    """

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.written = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        steps = int(trainer.estimated_stepping_batches)
        self.about = {"first_step": trainer.global_step, "steps": steps, "started": time.time()}
        self.write(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if time.monotonic() - self.written >= EVERY:
            self.write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.write(trainer)

    def write(self, trainer: pl.Trainer) -> None:
        """Write how things stand; of several processes the first one."""
        if processes.first():
            self.written = time.monotonic()
            at = {"phase": "training", "step": trainer.global_step, "epoch": trainer.current_epoch}
            write(Path(trainer.default_root_dir), {**self.about, **at, "values": shown(trainer.callback_metrics)})


def say(output_dir: Path, phase: str, values: Mapping[str, float]) -> None:
    """Write what a run does outside of training, and values beside those that it has; the first process does."""
    if processes.first():
        before = {**UNKNOWN, "started": time.time(), **read(output_dir)}
        write(output_dir, {**before, "phase": phase, "values": {**before["values"], **shown(values)}})


def shown(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that SHOWN names, as numbers; JSON knows no NaN."""
    numbers = {name: float(value) for name, value in values.items() if SHOWN.fullmatch(name)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def read(output_dir: Path) -> dict[str, Any]:
    """What was written last; nothing where that cannot be read."""
    with suppress(OSError, ValueError):
        content = json.loads((output_dir / FILE).read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def write(output_dir: Path, content: Mapping[str, Any]) -> None:
    """Replace the file as a whole. A full disk is no reason to stop: it costs a look."""
    part = output_dir / f"{FILE}.part"
    with suppress(OSError):
        output_dir.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({**content, "time": time.time()}), encoding="utf-8")
        part.replace(output_dir / FILE)
