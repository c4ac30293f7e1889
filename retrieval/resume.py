"""What the folder of a run holds already, and whether a call may go on with it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from retrieval.config import InputError, chosen, load_yaml
from retrieval.evaluation import refuse_used
from retrieval.results import Row
from retrieval.subjects import plain

FREE = ("resume", "output_dir", "cache", "logger", "checkpoint_steps")  # decide neither weights nor rows
MADE = ("model.safetensors", "results.json", "rankings.json")


def begun(cfg: DictConfig, output_dir: Path) -> bool:
    """Whether the folder holds this very run, begun by an earlier call; a folder with any other is refused.

    Without `resume=auto` a folder that holds a run is refused whichever it is.
    """
    if cfg.resume not in (None, "auto"):
        raise InputError(f"resume must be auto, or null to begin anew, got {cfg.resume!r}")
    if cfg.resume is None or not (output_dir / "config.yaml").is_file():
        refuse_used(output_dir)
        return False
    held = dict(leaves(plain(load_yaml(output_dir / "config.yaml"))))
    for key, wanted in leaves(plain(cfg)):
        there = held.get(key, "absent")
        if wanted != there and wanted is not None and key.split(".")[0] not in FREE and not key.endswith("workers"):
            raise InputError(
                f"resume=auto goes on with the same config alone: {output_dir} has {key} = {there}, this call has "
                f"{wanted}; accepted: the same, or another output_dir"
            )
    return True


def finished(cfg: DictConfig, output_dir: Path) -> list[Row] | None:
    """The rows of a run that has all of its own; None where some are missing."""
    made = output_dir / "model.safetensors", output_dir / "results.json"
    if not all(path.is_file() for path in made):
        return None
    rows = json.loads(made[1].read_text())
    wanted = len(chosen(cfg.benchmark)) * len(cfg.extract.resolutions) * (1 + bool(cfg.evaluate_untrained))
    return rows if len(rows) >= wanted else None


def clear(output_dir: Path) -> None:
    """Remove what an interrupted call has judged: it is judged again, from descriptors that are kept."""
    for name in MADE:
        (output_dir / name).unlink(missing_ok=True)


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dictionaries with its dotted name; lists are values."""
    if not isinstance(value, dict):
        yield place, value
        return
    for key, item in value.items():
        yield from leaves(item, f"{place}.{key}" if place else str(key))
