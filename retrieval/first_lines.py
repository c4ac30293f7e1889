"""The first line of a command: what it reads, with which model, and what it will write; without torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retrieval.config import chosen, load_yaml
from retrieval.counting import counted
from retrieval.errors import InputError

PLACES = ("root", "file", "shards", "images", "queries")  # keys of a set that say where it lies


def of_training(cfg: DictConfig) -> str:
    """`train resnet18 + gem (arcface) on 20 photos of 4 landmarks in DIR, 3 epochs; evaluate on ...; write DIR`."""
    said = f"train {model(cfg)} ({cfg.names.loss}) on {photos('data', cfg.data)}, {cfg.trainer.max_epochs} epochs"
    return f"{said}; {judging(cfg)}; write {cfg.output_dir}"


def of_evaluation(cfg: DictConfig) -> str:
    """`evaluate RUN (resnet18 + gem) on folder (20 photos ...) at 224 px; write RUN`."""
    if cfg.run:
        judged = f"{cfg.run}{of_run(cfg.run)}"
    elif cfg.network:
        judged = f"the network {cfg.network}"
    else:
        poolings = cfg.evaluate.poolings
        judged = f"{backbone(cfg)} + {len(poolings)} poolings" if poolings else model(cfg)
    return f"{judging(cfg).replace('evaluate', f'evaluate {judged}', 1)}; write {cfg.run or cfg.output_dir}"


def of_export(cfg: DictConfig) -> str:
    """`export RUN (resnet18 + gem) as onnx in float32, check each file; write RUN/export`."""
    formats, dtypes = (listed(cfg[key]) for key in ("format", "dtype"))
    said = f"export {cfg.run}{of_run(cfg.run)} as {formats} in {dtypes}, check each file"
    judged = f"; {judging(cfg)}" if chosen(cfg.benchmark) else ""
    return f"{said}{judged}; write {cfg.output_dir or f'{cfg.run}/export'}"


def of_sweep(script: str, words: Iterable[str], folder: str) -> str:
    """`sweep train: pooling=gap,gem seed=0,1; write DIR`."""
    return f"sweep {script}: {' '.join(words)}; write {folder}"


def model(cfg: DictConfig) -> str:
    """`resnet18 + gem`, and a head where it has one."""
    names = cfg.get("names") or {}
    parts = [backbone(cfg), names.get("pooling") or "?", names.get("head") or "none"]
    return " + ".join(parts[: 2 if parts[2] == "none" else 3])


def backbone(cfg: DictConfig) -> str:
    return str(OmegaConf.select(cfg, "backbone.name") or "?")


def of_run(run: Any) -> str:
    """` (resnet18 + gem)` of a run's folder; "" where that does not say."""
    file = Path(str(run)) / "config.yaml"
    try:
        return f" ({model(load_yaml(file))})" if file.is_file() else ""
    except (InputError, OSError, ValueError):  # refused with all that there is to say when it is loaded
        return ""


def judging(cfg: DictConfig) -> str:
    """`evaluate on folder (20 photos of 4 landmarks in DIR) at 224, 320 px`."""
    sets = ", ".join(f"{name} ({photos(name, one)})" for name, one in chosen(cfg.benchmark).items())
    resolutions = OmegaConf.select(cfg, "extract.resolutions")
    return f"evaluate on {sets or 'nothing'}" + (f" at {listed(resolutions)} px" if resolutions else "")


def photos(name: str, cfg: DictConfig) -> str:
    """`20 photos of 4 landmarks in DIR` of a folder of landmarks; of another set where it lies."""
    place = next((str(value) for key in PLACES if (value := OmegaConf.select(cfg, key))), "")
    kind = str(OmegaConf.select(cfg, "_target_")).rpartition(".")[2]
    if kind in ("FolderData", "Folder") and place and (numbers := counted(Path(place))):
        return f"{numbers[0]} photos of {numbers[1]} landmarks in {place}"
    return f"photos of {place}" if place else f"{kind} of {name}"


def listed(values: Any) -> str:
    return ", ".join(map(str, values)) if isinstance(values, Iterable) and not isinstance(values, str) else str(values)
