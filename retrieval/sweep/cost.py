"""What a run or a sweep will cost, measured before it is run: `dry_run=true`."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from retrieval import config, extraction, frozen, launch, processes, resume, training
from retrieval.errors import InputError
from retrieval.evaluation import Asked
from retrieval.optimization import steps_of
from retrieval.parts import Parts, refuse
from retrieval.results import parameters
from retrieval.subjects import plain
from retrieval.sweep.measured import flops, looks, looks_while_training, pace_of_steps, seconds
from retrieval.sweep.wording import clock
from retrieval.terminal import printable

COSTLESS = ("seed", "output_dir", "logger", "cache")  # of which a cost does not depend
NOTES = (
    "GFLOPs: of one square photo, in convolutions and matrix products, a multiply-add as 2.",
    "Times: extrapolated from a few steps and batches. Judging takes at most so long, as descriptors that lie in the",
    "cache are not computed again; nor are the features of a frozen backbone, which are counted at each look and step.",
    "Not counted: search and re-ranking, checkpoints, what is fitted to training photos.",
)


@dataclass(frozen=True)
class Cost:
    """Of one job; parameters and FLOPs are of all models that share its pass.

    loss: parameters of the loss. flops: of one photo, by resolution, a multiply-add as 2. steps, photos: steps of the
    optimizer, and photos of each. building, step, training, judging: seconds; training has what is described between
    epochs. memory: bytes at the peak of the measured steps, None where it is not known. processes: that share a step
    of the run; measured is one, with all of the step's photos.
    """

    parameters: int
    flops: dict[int, int]
    device: str
    building: float
    judging: float
    loss: int = 0
    steps: int = 0
    photos: int = 0
    step: float = 0.0
    training: float = 0.0
    memory: int | None = None
    processes: int = 1

    @property
    def seconds(self) -> float:
        return self.building + self.training + self.judging


def cost_of(cfg: DictConfig, script: str) -> Cost:
    """The cost of what the script, train or eval, would do with this config; what that refuses is refused here.

    Nothing is written to its output_dir; data that are drawn or fetched on first use are so here.
    """
    if processes.world_size() > 1:
        raise InputError("dry_run=true measures one process: leave out torchrun, or srun")
    return of_training(cfg) if script == "train" else of_judging(cfg)


def of_judging(cfg: DictConfig) -> Cost:
    start = time.perf_counter()
    asked = Asked.of(cfg, config.overridden())
    building, models, extract = time.perf_counter() - start, asked.models, asked.extract
    judging = seconds(models, looks(asked.benchmarks, asked.method, extract, 1))
    device = named(extraction.device_of(extract.device))
    return Cost(parameters(*models), flops(models, extract), device, building, judging)


def of_training(cfg: DictConfig) -> Cost:
    training.quieted()
    refuse(cfg)
    resume.begun(cfg, Path(cfg.output_dir))
    start, sharing, cfg = time.perf_counter(), shared_by(cfg), alone(cfg)
    parts = Parts.of(cfg)
    building, module, device = time.perf_counter() - start, parts.module, parts.trainer.strategy.root_device
    if kept := module.embedder.backbone.frozen:
        module.embedder.backbone.frozen = frozen.Unkept(kept.folder)
    models, (steps, each) = [module.embedder], steps_of(len(parts.data.batches), parts.trainer)
    judging = seconds(models, looks(parts.benchmarks, parts.method, parts.extract, 1 + cfg.evaluate_untrained))
    between = seconds(models, looks_while_training(parts, math.ceil(steps / each)))
    counted = flops(models, parts.extract)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    pace = pace_of_steps(parts, int(cfg.seed), Path(cfg.output_dir))
    return Cost(
        parameters(module.embedder),
        counted,
        named(device),
        building,
        judging,
        loss=parameters(module.objective),
        steps=steps,
        photos=len(module.paths) * parts.trainer.accumulate_grad_batches,
        step=pace.each,
        training=between + pace.seconds(steps),
        memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        processes=sharing,
    )


def shared_by(cfg: DictConfig) -> int:
    """How many processes the config asks for."""
    devices = launch.asked(cfg.trainer)
    return (devices if isinstance(devices, int) else len(devices)) * int(cfg.trainer.get("num_nodes", 1))


def alone(cfg: DictConfig) -> DictConfig:
    """The config of one process with the whole batch, where several would share it."""
    one: Any = config.from_plain(plain(cfg))
    if shared_by(cfg) > 1:
        one.trainer.devices = one.trainer.num_nodes = 1
        if one.trainer.get("strategy") in launch.STRATEGIES:
            one.trainer.strategy = "auto"
    return one


def named(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)


def table(configs: Sequence[DictConfig], differs: Sequence[Mapping[str, Any]], script: str) -> str:
    """A line a job: what tells it from the others, and what it costs or why it is refused; then the sum.

    Jobs that differ in COSTLESS alone are measured once.
    """
    measured: dict[str, Cost] = {}
    found = [told(cfg, script, measured) for cfg in configs]
    costs = [cost for cost in found if isinstance(cost, Cost)]
    keys = list(dict.fromkeys(key for own in differs for key in own))
    names = [["job", *keys], *([str(job), *(str(own.get(key, "")) for key in keys)] for job, own in enumerate(differs))]
    resolutions = sorted({resolution for cost in costs for resolution in cost.flops})
    numbers = iter(aligned([titles(resolutions, script), *(line(cost, resolutions, script) for cost in costs)]))
    said = [next(numbers), *(next(numbers) if isinstance(one, Cost) else f"refused: {one}" for one in found)]
    lines = [printable(f"{of}  {what}") for of, what in zip(aligned(names), said, strict=True)]
    return "\n".join([*lines, *summary(costs, len(found)), *NOTES])


def titles(resolutions: Sequence[int], script: str) -> list[str]:
    of_training = ["of its loss", "steps", "photos a step", "s a step", "training", "peak memory"]
    counted = ["parameters", *(f"GFLOPs at {resolution}" for resolution in resolutions)]
    return [*counted, *(of_training if script == "train" else []), "judging", "in all"]


def line(cost: Cost, resolutions: Sequence[int], script: str) -> list[str]:
    """The numbers below the titles."""
    counted = [f"{cost.flops[r] / 1e9:.3g}" if r in cost.flops else "-" for r in resolutions]
    memory = "-" if cost.memory is None else f"{cost.memory / 2**30:.1f} GiB"
    steps = [millions(cost.loss), str(cost.steps), str(cost.photos), f"{cost.step:.3g}", clock(cost.training), memory]
    of_script = steps if script == "train" else []
    return [millions(cost.parameters), *counted, *of_script, clock(cost.judging), clock(cost.seconds)]


def summary(costs: Sequence[Cost], jobs: int) -> list[str]:
    """The sum of the jobs that were not refused, where it was measured, and how where runs have several processes."""
    devices = " and ".join(dict.fromkeys(cost.device for cost in costs)) or "nothing"
    whole = clock(sum(cost.seconds for cost in costs))
    said = [f"{len(costs)} of {jobs} jobs, one after the other: {whole}, measured on {devices}"]
    if sharing := sorted({cost.processes for cost in costs if cost.processes > 1}):
        several = " or ".join(map(str, sharing))
        said.append(f"runs of {several} processes were measured with one, which has the whole batch")
    return said


def millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def told(cfg: DictConfig, script: str, measured: dict[str, Cost]) -> Cost | str:
    """The cost, measured if no job before had the like, or why the job is refused; its memory is given back."""
    try:
        if script == "train":
            refuse(cfg)
        key = alike(cfg)
        if key not in measured:
            measured[key] = cost_of(cfg, script)
        return measured[key]
    except (InputError, OmegaConfBaseException, torch.OutOfMemoryError) as error:
        return config.explain(error)
    finally:
        training.give_back()
        torch.cuda.empty_cache()


def alike(cfg: DictConfig) -> str:
    """The same for jobs that cost the same; a folder that holds a run is looked at for each."""
    costs = {key: value for key, value in plain(cfg).items() if key not in COSTLESS}
    held = cfg.output_dir if (Path(cfg.output_dir) / "config.yaml").exists() else None
    return json.dumps([costs, held], sort_keys=True, default=str)
