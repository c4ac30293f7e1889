"""fit(): one model trained, judged and written."""

import ctypes
import gc
import json
import logging
import shutil
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from retrieval import embedder as embedders
from retrieval import frozen, processes, resume, sharding, stages, vocabulary, whitening
from retrieval.callbacks import loggers
from retrieval.callbacks.checkpoints import continue_curves, newest, written
from retrieval.data.images import limit_pixels
from retrieval.parts import Parts, refuse
from retrieval.results import Row, append
from retrieval.subjects import plain

PRECISIONS = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}  # the backbone's, of a trainer


def fit(cfg: DictConfig) -> list[Row]:
    """Train one model as the config says, evaluate it once; returns the rows of `results.json`.

    Called in each of several processes, which train one model together; the first one judges and writes. With
    `resume=auto` a run that was killed goes on from its last checkpoint, and one that is finished is left as it is.
    """
    output_dir = Path(cfg.output_dir)
    quieted()
    limit_pixels(cfg.images.max_pixels)
    refuse(cfg)
    goes_on = resume.begun(cfg, output_dir)
    if goes_on and (rows := resume.finished(cfg, output_dir)):
        return rows
    parts = Parts.of(cfg)
    processes.wait()  # none writes before all have read what was there
    checkpoint = newest(output_dir / "checkpoints") if goes_on else None
    cfg = begin(cfg, parts)
    with loggers.kept_open(parts.trainer, plain(cfg), output_dir):
        if cfg.evaluate_untrained:
            parts.judge(cfg, True, Path(cfg.cache) / "descriptors")
        train(parts, checkpoint, int(cfg.seed), output_dir)
        parts.module.embedder = sharding.whole(parts.module.embedder)
        cfg.selected_by, validation = select(parts)
        cfg.trained = {**parts.clock.took(parts.trainer.global_step), "validation": validation}
        if processes.first():
            stages.stage(f"writing the model to {output_dir}")
            embedders.save(parts.module.embedder, cfg, output_dir)
        parts.judge(cfg, False, output_dir / "descriptors" if processes.world_size() > 1 else None)
    processes.wait()
    if parts.module.embedder.backbone.frozen and (saved := parts.module.embedder.backbone.frozen.savings()):
        append(output_dir / "saved.json", saved)
    if processes.first():
        clear_up(output_dir)
    del parts
    give_back()
    return json.loads((output_dir / "results.json").read_text())


def begin(cfg: DictConfig, parts: Parts) -> DictConfig:
    """Give the model what it finds in training photos before it is trained, and the folder its config; the config."""
    embedder, data, output_dir = parts.module.embedder, parts.data, Path(cfg.output_dir)
    if not vocabulary.fitted(embedder):
        stages.stage("fitting the pooling or the head to the photos to train on")
        vocabulary.fit(embedder, data.train.photos, data.resolution, int(cfg.seed), parts.extract)
        whitening.initialise(embedder, data.train.photos, *data.whitening_pairs(), data.resolution, parts.extract)
    cfg = embedders.completed(cfg, embedder)
    cfg.trained_on = data.summary
    if processes.first():
        resume.clear(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, part := output_dir / "config.yaml.part")
        part.replace(output_dir / "config.yaml")  # a folder with half a config would be refused for good
    return cfg


def clear_up(output_dir: Path) -> None:
    """Remove what a finished run needs no more."""
    for path in written(output_dir / "checkpoints"):
        path.unlink()
    shutil.rmtree(output_dir / "descriptors", ignore_errors=True)


def give_back() -> None:
    """Return freed memory to the system, which glibc keeps in pieces too small for the next job of a sweep: of 2.4 GB
    after a job of MobileNetV2 at three sizes it gives back 1.4."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # other systems have no such call
        ctypes.CDLL(None).malloc_trim(0)


def train(parts: Parts, checkpoint: Path | None, seed: int, output_dir: Path) -> None:
    """Run the Trainer from the checkpoint on, or from the start."""
    if checkpoint is not None and processes.first():
        continue_curves(parts.trainer.loggers, output_dir, checkpoint)
    kept = parts.data.features = features_of(parts)
    pl.seed_everything(seed + processes.rank(), workers=True, verbose=False)  # whatever was drawn before
    try:
        parts.trainer.fit(parts.module, parts.data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes an exit with status 1 of it
            raise KeyboardInterrupt from None
        raise
    for features in kept.values():
        parts.module.embedder.backbone.frozen.count(features.maps, parts.module.trained_on / len(kept))


def features_of(parts: Parts) -> dict[int, frozen.TrainingFeatures]:
    """What a frozen backbone gives for the training photos by resolution, where these are drawn alike each time; {}
    where not."""
    embedder, data, precision = parts.module.embedder, parts.data, PRECISIONS.get(str(parts.trainer.precision))
    drawn_alike = data.augment.steady and all(photo.box is None for photo in data.train.photos)
    if not (embedder.backbone.frozen and data.train.photos and drawn_alike and precision):
        return {}
    how = {"scales": (1.0,), "aspect": "native", "dtype": precision, "draft": False, "compile": False}
    device = str(parts.trainer.strategy.root_device)
    extract = replace(parts.extract, **how, workers=data.workers, device=device)
    return frozen.of_training(embedder, data.train.photos, data.resolutions, data.augment.sides, extract)


def quieted() -> None:
    """Silence what is no news: our output folder is not empty, and Lightning's tips."""
    warnings.filterwarnings("ignore", "(Experiment logs|Checkpoint) directory")
    warnings.filterwarnings("ignore", ".*(LeafSpec|treespec).*")
    warnings.filterwarnings("ignore", ".*(many workers|eval mode at the start|smaller than the logging interval).*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)


def select(parts: Parts) -> tuple[str, float | None]:
    """Put the selected weights into the embedder; says what selected them, and their mAP on held-out landmarks."""
    held_out = parts.data.validation
    if held_out is None:
        return "the last step", None
    best = parts.trainer.checkpoint_callback
    assert isinstance(best, ModelCheckpoint)
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    own = {name: weights for name, weights in state["state_dict"].items() if name.startswith("embedder.")}
    parts.module.embedder.load_state_dict({name.removeprefix("embedder."): own[name] for name in own})
    score = float(best.best_model_score)  # pyright: ignore[reportArgumentType]
    return f"mAP {score:.4f} on {len(held_out.landmarks)} held-out training landmarks", score
