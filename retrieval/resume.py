"""What the folder of a run holds already, and whether a call may go on with it."""

import json
from pathlib import Path

from omegaconf import DictConfig

from retrieval.config import chosen, load_yaml
from retrieval.errors import InputError
from retrieval.evaluation import refuse_used
from retrieval.results import Row
from retrieval.subjects import decides, leaves, plain

FOUND = (
    "backbone.mean",
    "backbone.std",
    "pooling.height",
    "pooling.width",
    "head.out_dim",
    "trained_on",
    "selected_by",
    *(f"trained.{key}" for key in ("seconds", "steps", "peak_memory", "validation")),
)
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
    held, given = (dict(leaves(plain(one))) for one in (load_yaml(output_dir / "config.yaml"), cfg))
    for key in [*given, *(held.keys() - given.keys())]:
        there, wanted = (one.get(key, "absent") for one in (held, given))
        found = key in FOUND and wanted in (None, "absent")
        if there != wanted and not found and not free(key, cfg):
            raise InputError(
                f"resume=auto goes on with the same config alone: {output_dir} has {key} = {there}, this call has "
                f"{wanted}; accepted: the same, or another output_dir"
            )
    return True


def free(key: str, cfg: DictConfig) -> bool:
    """Whether a run may go on with another value: the best checkpoint of one with held-out landmarks is known by its
    path."""
    return not decides(key, cfg) and not (key == "output_dir" and cfg.data.get("validation"))


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
