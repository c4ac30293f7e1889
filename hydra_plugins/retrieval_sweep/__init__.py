"""Sweeps that survive: a plan round whichever of Hydra's launchers is chosen (basic, joblib, submitit, ...).

Hydra finds plug-ins in this name space alone. `Planning`, a callback of every config, puts `PlannedLauncher` round the
chosen launcher; the sweeper (basic, optuna) calls it as it would call that one.
"""

import logging
import os
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


class Planning(Callback):
    """Puts the plan round the chosen launcher, and ends a sweep of which a job failed with an error that says which.

    asked: the folders of the jobs that this call asked for.
    """

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        from retrieval import endings

        HydraConfig.instance().set_config(deepcopy(config))  # which the name of the folder may read
        endings.expect(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        from retrieval import first_lines, ranks
        from retrieval.terminal import printable, say

        HydraConfig.instance().set_config(deepcopy(config))
        if ranks.first():
            words: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
            said = first_lines.of_sweep(str(config.hydra.job.config_name), words, str(config.hydra.sweep.dir))
            say(printable(said), sys.stderr if config.get("dry_run") else sys.stdout)
        with read_write(config), open_dict(config):
            name = f"{PlannedLauncher.__module__}.{PlannedLauncher.__name__}"
            config.hydra.launcher = {"_target_": name, "_recursive_": False, "chosen": deepcopy(config.hydra.launcher)}

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from retrieval import processes
        from retrieval.sweep import jobs, sharing
        from retrieval.terminal import say

        if config.get("dry_run") or not processes.first():
            return
        said, failed = jobs.summary(Path(config.hydra.sweep.dir), self.asked)
        if saved := sharing.saved(Path(config.hydra.sweep.dir)):
            say(saved)
        if failed:  # Hydra turns any other exception of a callback into a warning
            sys.exit(f"error: {said}\ncall the same sweep again to run what is missing")
        say(said)


class PlannedLauncher(Launcher):
    """Runs, by the chosen launcher, those jobs of a sweep that the plan in its folder has not down as done."""

    def __init__(self, chosen: DictConfig) -> None:
        self.chosen = chosen

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from retrieval import config as of_jobs
        from retrieval.sweep.jobs import Claimed

        words: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        of_jobs.refuse_shared(words)
        self.context, self.sweep_dir = hydra_context, Path(config.hydra.sweep.dir).absolute()
        self.config, self.script = deepcopy(config), str(config.hydra.job.config_name)
        with read_write(self.config), open_dict(self.config):
            self.config.hydra.launcher = self.chosen
        self.inner = Plugins.instance().instantiate_launcher(
            hydra_context, Claimed(task_function, self.sweep_dir), self.config
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from retrieval import plan
        from retrieval.sweep import jobs, overview
        from retrieval.terminal import say

        wanted = [self._wanted(list(overrides)) for overrides in job_overrides]
        if self.config.get("dry_run"):
            logging.getLogger().setLevel(logging.WARNING)  # Hydra's own level for launchers shows what libraries say
            from retrieval.sweep import cost

            say(cost.table(*plan.unwritten(wanted), self.script))
            return [_returned(list(overrides), None) for overrides in job_overrides]
        agreed = jobs.agreed(self.config, self.sweep_dir, self.script, wanted)
        for planning in self.context.callbacks.callbacks:
            if isinstance(planning, Planning):
                planning.asked |= {job.folder for job in agreed}

        def start(left: list[plan.Job]) -> list[BaseException | None]:
            ended = self.inner.launch([[*job.overrides, *self._added(job)] for job in left], initial_job_idx)
            return [one._return_value if one.status is JobStatus.FAILED else None for one in ended]

        with overview.watching(self.sweep_dir):
            jobs.run_all(self.sweep_dir, agreed, start)
        values = {job.folder: job.value for job in plan.read(self.sweep_dir)}
        return [_returned(job.overrides, values[job.folder]) for job in agreed]

    def _wanted(self, overrides: list[str]) -> Any:
        from retrieval import config
        from retrieval.plan import Wanted

        cfg = self.context.config_loader.load_sweep_config(self.config, overrides)

        def at(number: int) -> tuple[str, dict[str, Any]]:
            _set(cfg.hydra.job, num=number, id=str(number))
            HydraConfig.instance().set_config(cfg)  # which interpolations read
            folder = os.path.normpath(str(cfg.hydra.sweep.subdir))
            _set(cfg.hydra.runtime, output_dir=str(self.sweep_dir / folder))
            HydraConfig.instance().set_config(cfg)
            plain: Any = OmegaConf.to_container(
                OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), resolve=True
            )
            return folder, plain

        config.refuse_unknown(OmegaConf.create(at(0)[1]), self.script)
        return Wanted(overrides, at)

    def _added(self, job: Any) -> list[str]:
        """What a job is told besides: its folder, to go on where it was killed, to leave progress to the overview."""
        from retrieval.overrides import literal, quoted

        words = [f"hydra.sweep.subdir={quoted(literal(job.folder))}"]
        usual = {"resume": "auto", "trainer.enable_progress_bar": "false"} if self.script == "train" else {}
        said = {word.lstrip("+").split("=")[0] for word in job.overrides}
        return words + [f"{key}={value}" for key, value in usual.items() if key not in said]


def _returned(overrides: list[str], value: Any) -> JobReturn:
    """What a sweeper is told of a job: a failed one has no value, and is no reason to stop the others."""
    return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=value)


def _set(node: DictConfig, **values: Any) -> None:
    with read_write(node), open_dict(node):
        node.update(values)
