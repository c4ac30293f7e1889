"""What a killed run goes on from: the whole state of a training, in files that are there whole or not at all."""

import csv
import random
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import distributed as dist

from retrieval import processes, store
from retrieval.callbacks.loggers import WandbLogger, due, purge

KEPT = 2  # the newest, and one to go on from should that be broken


class Latest(Checkpoint):
    """Keeps the state after every `steps` steps and every epoch in `folder`, as last-STEP.ckpt.

    One that cannot be written, as on a full disk, costs a warning; those before it stay.
    """

    def __init__(self, folder: Path, steps: int = 500) -> None:
        self.folder, self.steps = folder, int(steps)
        self.lots: Sequence[Mapping[str, Any]] = ()
        self.place: dict[str, Any] | None = None
        self.ended = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that stopped early, and was killed while it was judged, has no more epochs."""
        stops = (one for one in trainer.callbacks if isinstance(one, EarlyStopping))  # pyright: ignore[reportAttributeAccessIssue]
        trainer.should_stop = any(one.stopped_epoch for one in stops)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning gives the loader its place back within an epoch alone, not between two."""
        if self.place is not None:
            trainer.train_dataloader.load_state_dict(self.place)  # pyright: ignore[reportOptionalMemberAccess]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        between = trainer.fit_loop._should_accumulate()  # gradients are no part of the state
        # a run that goes on after the last batch of an epoch takes the epoch for judged, so that is kept when it is
        last = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if trainer.global_step and trainer.global_step % self.steps == 0 and not between and not last:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ended = True
        self.save(trainer)
        self.ended = False

    def save(self, trainer: pl.Trainer) -> Path:
        """Keep the state as it is, on every process at once; where it lies."""
        for logger in trainer.loggers:
            logger.save()
        path = self.folder / f"last-{trainer.global_step:08}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        if processes.first():
            for old in written(self.folder)[KEPT:]:
                old.unlink()
        return path

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["random"] = of_all(random_state())
        checkpoint["place"] = trainer.train_dataloader.state_dict()  # pyright: ignore[reportOptionalMemberAccess]
        checkpoint["rows"] = len(logged(self.folder.parent))
        checkpoint["ended"] = self.ended
        checkpoint["logged"] = pending(trainer, self.ended)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.lots, self.place = checkpoint["random"], checkpoint["place"]
        if checkpoint["ended"]:
            close(checkpoint["loops"]["fit_loop"])

    def on_train_batch_start(self, *_: Any) -> None:
        """The first batch after going on draws what it would have drawn."""
        if self.lots:
            restore(self.lots[processes.rank() % len(self.lots)])
            self.lots = ()


def close(loops: dict[str, Any]) -> None:
    """Let an epoch that was kept at its end be over: with max_steps, Lightning would take up its end once more."""
    for progress in (loops["epoch_progress"][which] for which in ("total", "current")):
        progress["completed"] = progress["processed"]
    batches = loops["epoch_loop.batch_progress"]["current"]
    batches.update(dict.fromkeys(batches, 0))


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when it is on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            store.replace(place, lambda file: torch.save(checkpoint, file))
        except (OSError, RuntimeError) as error:
            if not place.name.startswith("last-"):
                raise
            earlier = written(place.parent)
            kept = f"the last good one is {earlier[0]}" if earlier else "there is none before it"
            warnings.warn(f"no checkpoint {place.name}, {kept}: {error}", stacklevel=2)


def written(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    found = [(int(match[1]), path) for path in folder.glob("last-*.ckpt") if (match := re.search(r"(\d+)", path.stem))]
    return [path for _, path in sorted(found, reverse=True)]


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; those that are not are named and passed over."""
    for path in written(folder):
        if whole(path):
            return path
        warnings.warn(f"{path} is broken and passed over", stacklevel=2)
    return None


def whole(path: Path) -> bool:
    """Whether each part of the file has its checksum."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def random_state() -> dict[str, Any]:
    """The state of every generator that a step may draw from, as plain data and tensors."""
    name, keys, *rest = np.random.get_state()
    version, numbers, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }


def restore(state: Mapping[str, Any]) -> None:
    """Put every generator where `random_state` found it."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def of_all(state: dict[str, Any]) -> list[dict[str, Any]]:
    """This state of every process."""
    if not processes.joined():
        return [state]
    states: list[Any] = [None] * processes.world_size()
    dist.all_gather_object(states, state)
    return states


def pending(trainer: pl.Trainer, ended: bool) -> dict[str, float]:
    """What a step, or an epoch that has `ended`, has logged, which the loggers get only when it is over."""
    kinds = ("validation",) if ended else ("train", "p") if due(trainer) else ()
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.split("/")[0] in kinds}


def logged(output_dir: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv, none where there is no such file."""
    file = output_dir / "metrics.csv"
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]


def curves(output_dir: Path, checkpoint: Path) -> list[dict[str, float]]:
    """What was logged until a checkpoint: the rows of metrics.csv that there were, and what was still to be written."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    step = {"step": state["global_step"] - 1, "epoch": state["epoch"]}
    return [*logged(output_dir)[: state["rows"]], *([{**step, **state["logged"]}] if state["logged"] else [])]


def continue_curves(loggers: Sequence[Logger], output_dir: Path, checkpoint: Path) -> None:
    """Let the curves of every logger go on from a checkpoint.

    metrics.csv, which its logger begins anew, gets all that was logged until then. So does W&B, of whose file a killed
    process takes the last seconds with it: steps that it has already come again with the same values. Event files
    were written when the checkpoint was, but for a part of its last step: they get the rows of that step.
    """
    rows = curves(output_dir, checkpoint)
    last = int(checkpoint.stem.removeprefix("last-")) - 1
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            purge(logger, last)
        for row in rows:
            if row["step"] >= last or isinstance(logger, CSVLogger | WandbLogger):
                epoch = {"epoch": int(row["epoch"])} if "epoch" in row else {}
                logger.log_metrics({name: row[name] for name in row if name != "step"} | epoch, int(row["step"]))
