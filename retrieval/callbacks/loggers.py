"""Where curves and the final numbers are written, and when."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import loggers
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor

from retrieval import processes
from retrieval.errors import InputError
from retrieval.plan import sweep_of
from retrieval.results import Row, printed
from retrieval.resume import leaves
from retrieval.wandb_names import ascii_name

MODES = ("offline", "online", "disabled")
OF_MODEL = ("p", "parameters", "steps", "trained_seconds", "peak_memory")  # numbers of a row that no benchmark changes


class WandbLogger(loggers.WandbLogger):
    """Lightning's logger for Weights & Biases; mode 'offline' never touches the network.

    A run that goes on in its folder keeps its id, so that `wandb sync` makes one of its parts. A job's run has the name
    of its folder, and the jobs of a sweep share a group; what `wandb agent` starts is named by the agent.
    """

    def __init__(self, mode: str = "offline", project: str = "retrieval", save_dir: str = ".") -> None:
        if mode not in MODES:
            raise InputError(f"logger.wandb.mode must be {', '.join(MODES[:-1])} or {MODES[-1]}, got {mode!r}")
        if mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it reports its own use over the network
        quiet = {"silent": mode == "offline"}
        known: dict[str, Any] = {"mode": mode, "settings": quiet, **names(Path(save_dir))}
        super().__init__(project=project, save_dir=save_dir, **known)
        self._wandb_init.pop("anonymous", None)  # Lightning's, of which W&B warns that it will be no more


def names(output_dir: Path) -> dict[str, str | None]:
    """Id, name and group of the W&B run of a folder; id None where the folder has none yet."""
    if "WANDB_SWEEP_ID" in os.environ:
        return {}
    folder = output_dir.resolve()
    begun = sorted(folder.glob("wandb/*run-*/run-*.wandb"))
    sweep = sweep_of(folder)
    return {
        "id": begun[-1].stem.removeprefix("run-") if begun else None,
        "name": ascii_name(folder.relative_to(sweep or folder.parent).as_posix()),
        "group": ascii_name(sweep.name) if sweep else None,
    }


@contextmanager
def kept_open(trainer: pl.Trainer, cfg: Mapping[str, Any], output_dir: Path) -> Iterator[None]:
    """Loggers of the trainer that get the config first and at the end, also of a run that fails, what there is in
    results.json. Lightning is done with them after the last step; the model is judged later."""
    if not processes.first():
        yield
        return
    start(trainer.loggers, cfg)
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        file = output_dir / "results.json"
        rows = json.loads(file.read_text()) if file.is_file() else []
        close(trainer.loggers, rows, trainer.global_step, status)


def start(given: Sequence[Logger], cfg: Mapping[str, Any]) -> None:
    """Write the whole config; metrics.csv has it beside it, in config.yaml."""
    for logger in given:
        if isinstance(logger, WandbLogger):
            logger.experiment.config.setdefaults(dict(cfg))  # what an agent has set stays
        elif isinstance(logger, TensorBoardLogger):
            begun, _ = session(cfg)
            add_summary(logger, begun)


def close(given: Sequence[Logger], rows: Sequence[Row], step: int, status: str) -> None:
    """Write the numbers of the rows after so many steps, and end the W&B run and the event file.

    status: "success" or "failed".
    """
    for logger in given:
        if isinstance(logger, WandbLogger):
            close_wandb(logger, rows, status)
        elif isinstance(logger, TensorBoardLogger):
            close_tensorboard(logger, rows, step, status)


def close_wandb(logger: WandbLogger, rows: Sequence[Row], status: str) -> None:
    """The numbers go to the run's summary, where runs are compared, and the rows into a table."""
    import wandb

    run: Any = logger.experiment
    run.summary.update(final(rows))
    if rows:
        flat = [dict(leaves(row)) for row in rows]
        columns: list[Any] = list(dict.fromkeys(name for row in flat for name in row))
        data = [[cell(row.get(name)) for name in columns] for row in flat]
        run.log({"rows": wandb.Table(columns=columns, data=data, allow_mixed_types=True)})
    run.finish(exit_code=int(status != "success"))


def close_tensorboard(logger: TensorBoardLogger, rows: Sequence[Row], step: int, status: str) -> None:
    """The numbers stand at the step where the curves end, and the rows in a text."""
    if rows:
        logger.log_metrics(final(rows), step)
        lines = "".join(f"    {line}\n" for line in printed(rows).splitlines())  # indented, so that columns stay
        logger.experiment.add_text("rows", lines, step)
    if status == "success":
        add_summary(logger, session({})[1])
    logger.finalize(status)


def final(rows: Sequence[Row]) -> dict[str, float]:
    """The numbers of the rows by name, those of the model before training under `untrained/`.

    `folder/mAP@320`; `folder/macro/mAP@320`, and its interval as `folder/low/mAP@320` and `folder/high/mAP@320`;
    `folder/seconds@320`; `model/p` (or `model/p.mean`, ...), `model/parameters`, and what else is OF_MODEL.
    """
    values: dict[str, Any] = {}
    for row in rows:
        before = "untrained/" if row["untrained"] else ""
        bounds = {name: bounds for name, bounds in row["intervals"].items() if bounds}
        parts = {
            "": row["metrics"],
            "macro/": row["macro"],
            "low/": {name: low for name, (low, _) in bounds.items()},
            "high/": {name: high for name, (_, high) in bounds.items()},
        }
        judged = {kind + name: value for kind, part in parts.items() for name, value in part.items()}
        judged["seconds"] = row["seconds"]
        values |= {f"{before}{row['benchmark']}/{name}@{row['resolution']}": value for name, value in judged.items()}
        of_model = dict(leaves({key: row.get(key) for key in OF_MODEL}))
        values |= {f"{before}model/{name}": value for name, value in of_model.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def cell(value: Any) -> Any:
    """A value as W&B's and TensorBoard's tables take it: anything but numbers, texts and None becomes text."""
    return value if isinstance(value, bool | int | float | str | None) else json.dumps(value)


def session(cfg: Mapping[str, Any]) -> tuple[Any, Any]:
    """What TensorBoard's table of hyperparameters takes for the beginning and for the good end of a run; it finds the
    metrics of the table by itself."""
    from torch.utils.tensorboard.summary import hparams

    _, begun, ended = hparams({name: cell(value) for name, value in leaves(dict(cfg))}, {})
    return begun, ended


def add_summary(logger: TensorBoardLogger, summary: Any) -> None:
    logger.experiment.file_writer.add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]


def purge(logger: TensorBoardLogger, step: int) -> None:
    """Hide what a killed run has written from this step on, as `purge_step` of a SummaryWriter does."""
    from tensorboard.compat.proto import event_pb2

    made: Any = event_pb2
    begun = made.Event(step=step, session_log=made.SessionLog(status=made.SessionLog.START))
    logger.experiment.file_writer.add_event(begun)  # pyright: ignore[reportOptionalMemberAccess]


def histogram(logger: Logger, name: str, values: Tensor, step: int) -> None:
    """Write a distribution where a logger shows one."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_histogram(name, values, step)
    elif isinstance(logger, WandbLogger):
        import wandb

        logger.experiment.log({name: wandb.Histogram(values.tolist()), "trainer/global_step": step})


def due(trainer: pl.Trainer) -> bool:
    """Whether Lightning writes to its loggers after this step, so that what is logged now is seen."""
    every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
    return bool(every) and trainer.global_step % every == 0
