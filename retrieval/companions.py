"""The untrained models of a sweep's other jobs that a pass over the photos can describe beside a job's own."""

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from retrieval import candidates, extraction, plan, vocabulary
from retrieval.backbones import TimmBackbone
from retrieval.candidates import Candidate
from retrieval.config import build, from_plain
from retrieval.errors import InputError
from retrieval.extraction import Extract

Config = Mapping[str, Any]
PASS = ("backbone", "extract", "benchmark", "whitening", "whitening_set")  # which photos pass what, and how


def of(output_dir: Path, backbone: TimmBackbone, extract: Extract) -> list[Candidate]:
    """Models of the other jobs of this job's sweep on its backbone, each as its own job builds it; [] without a sweep.

    Those of jobs that are done are left out, and those that cannot be built or described: their own job says why.
    """
    found: list[Candidate] = []

    @cache
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        build(others[0].backbone)
        return torch.get_rng_state()

    others = [from_plain(cfg) for cfg in sharing(output_dir)]
    with torch.random.fork_rng(devices=[]):
        for cfg in others:
            with suppress(InputError, RuntimeError, OSError):
                torch.set_rng_state(drawn(cfg.seed))
                built = candidates.described(cfg, resolution_of(cfg), backbone)
                for one in built:
                    extraction.check(one.model, extract.resolutions, extract.scales, extract.aspect)
                found += built
    return [one for one in found if vocabulary.fitted(one.model)]


def sharing(output_dir: Path) -> list[Config]:
    """Configs of the jobs that are not done and whose photos pass the same backbone in the same way; one for each
    model."""
    sweep = plan.sweep_of(output_dir)
    if sweep is None:
        return []
    configs = plan.configs(sweep)
    done = {job.folder for job in plan.read(sweep) if job.state == "done"}
    own = configs.pop(output_dir.relative_to(sweep).as_posix(), None)
    if own is None or not untrained(own):
        return []
    alike = [
        cfg
        for folder, cfg in configs.items()
        if folder not in done and untrained(cfg) and passed(cfg) == passed(own) and model(cfg) != model(own)
    ]
    return list({json.dumps(model(cfg), sort_keys=True): cfg for cfg in alike}.values())


def untrained(cfg: Config) -> bool:
    """Whether the job judges a model that nothing has trained."""
    return not cfg.get("run") and not cfg.get("network") and bool(cfg.get("evaluate_untrained", True))


def passed(cfg: Config) -> list[Any]:
    """What one pass over the photos has in common; a backbone of random weights is another with each seed."""
    weights = cfg["backbone"].get("pretrained") or cfg["backbone"].get("weights")
    return [*(cfg.get(key) for key in PASS), None if weights else cfg["seed"]]


def model(cfg: Config) -> list[Any]:
    """What decides the pooling and the head, and what their rows call them."""
    names = cfg["names"]["pooling"], cfg["names"]["head"]
    return [cfg["pooling"], cfg["head"], cfg.get("evaluate"), cfg["seed"], names, resolution_of(cfg)]


def resolution_of(cfg: Config | DictConfig) -> int | None:
    """Side of the square photos that a job builds its model for."""
    return cfg["data"].get("resolution") if "data" in cfg else cfg["extract"]["resolutions"][0]
