"""Tuples of every epoch, mined by the network as it is when the epoch begins."""

from typing import Any

import lightning.pytorch as pl

from retrieval import processes, sharding, stages
from retrieval.data.module import LandmarkData
from retrieval.extraction import Extract
from retrieval.mining import mine


class Mining(pl.Callback):
    """Mines before the first batch of an epoch; logs `mining/...`: how hard the negatives are, how many are new.

    Photos are described at the largest resolution that is trained at.
    """

    def __init__(self, data: LandmarkData, extract: Extract) -> None:
        self.data, self.extract = data, extract
        self.before: dict[int, list[int]] = {}  # the negatives that each query had last
        data.mine = self.mine

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        self.trainer, self.module = trainer, pl_module

    def mine(self, epoch: int) -> None:
        photos, sampler = self.data.train.photos, self.data.sampler
        embedder = sharding.whole(self.module.embedder)
        stages.stage(f"mining the tuples of epoch {epoch}")
        mined = mine(embedder, photos, sampler, epoch, self.data.resolution, self.extract, self.before)
        sampler.mined_for = epoch, mined.tuples
        for logger in self.trainer.loggers:
            logger.log_metrics(mined.statistics, self.trainer.global_step)
        if processes.first():
            said = ", ".join(f"{name.removeprefix('mining/')} {value:.3g}" for name, value in mined.statistics.items())
            stages.stage(f"epoch {epoch} mined: {said}")

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["before"]
