"""What is measured of a model before it is trained or judged: FLOPs of a photo, seconds of steps and of photos."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from retrieval import evaluation, extraction, training
from retrieval.benchmarks import Benchmark
from retrieval.callbacks import AveragedWeights, Evaluate, Guard, Stopwatch
from retrieval.data.batching import TupleBatches
from retrieval.data.images import Photo
from retrieval.embedder import Embedder, squared
from retrieval.extraction import Extract
from retrieval.method import Method
from retrieval.parts import Parts
from retrieval.scales import multi_scale

T = TypeVar("T")

STEPS = 8  # that are timed, after those of the warm-up
BATCHES = 6  # of photos, of which the first is the warm-up
PHOTOS = 512  # among which these batches are chosen: to plan for all, a million headers would be read
SECONDS = 20.0  # after which the steps, or the batches, that were timed are enough


class Pace(NamedTuple):
    """Seconds that the first `warmup` things take, with all that is done once, and seconds of each other."""

    warmup: int
    starting: float
    each: float

    def seconds(self, count: int) -> float:
        """Of so many things."""
        return self.starting + self.each * max(0, count - self.warmup)


class Look(NamedTuple):
    """Photos that are described `times` times."""

    photos: Sequence[Photo]
    resolution: int
    extract: Extract
    times: int


@torch.no_grad()
def flops(models: Sequence[Embedder], extract: Extract) -> dict[int, int]:
    """By resolution the FLOPs of a square photo, at all scales and by all models, which share a backbone.

    Those of convolutions and matrix products, attention's too: a multiplication and an addition are two.
    """
    counted, backbone = {}, models[0].backbone
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    for resolution in extract.resolutions:
        photo = torch.zeros(1, 3, *squared(backbone, resolution), device=next(backbone.parameters()).device)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the products of fused ones
            multi_scale(models, photo, extract.scales, extract.aggregate)  # are not counted on every device
        counted[resolution] = counter.get_total_flops()
    for model, mode in zip(models, modes, strict=True):
        model.train(mode)
    return counted


def pace_of_steps(parts: Parts, seed: int, output_dir: Path) -> Pace:
    """Train a few steps by the run's own Trainer, with no logger and none but the callbacks that each step waits for.

    The photos that workers hold ready when the first, slow step is done belong to the warm-up.
    """
    trainer, data = parts.trainer, parts.data
    warmup = 2 + -(-2 * data.workers // trainer.accumulate_grad_batches)
    watch = Stopwatch(warmup + STEPS, SECONDS)
    felt = [callback for callback in trainer.callbacks if isinstance(callback, (Guard, AveragedWeights))]  # pyright: ignore[reportAttributeAccessIssue]
    trainer.callbacks, trainer.loggers = [*felt, watch], []  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(data.sampler, TupleBatches):
        data.mine = lambda epoch: draw(data.sampler, epoch)
    training.train(parts, None, seed, output_dir)
    return pace(watch.marks, [1] * (len(watch.marks) - 1), warmup)


def draw(sampler: TupleBatches, epoch: int) -> None:
    """Negatives of the pool at random, in place of the hard ones."""
    queries, positives, pool = sampler.chosen(epoch)
    negatives = np.random.default_rng(epoch).choice(pool, (len(queries), sampler.negatives))
    sampler.mined_for = epoch, np.column_stack([queries, positives, negatives])


def pace(marks: Sequence[float], sizes: Sequence[int], warmup: int) -> Pace:
    """marks: the start, and the end of each group of `sizes` things; warmup: groups of the first things, at most half.

    The pace after it is a mean, as photos come in bursts: a median would miss those that are waited for.
    """
    first = min(warmup, len(sizes) // 2)
    return Pace(sum(sizes[:first]), marks[first] - marks[0], (marks[-1] - marks[first]) / sum(sizes[first:]))


def pace_of_photos(models: Sequence[Embedder], look: Look) -> Pace:
    """Describe a few batches of the photos."""
    some = spread(look.photos, PHOTOS)
    batches = spread(extraction.plan(models[0], some, look.resolution, look.extract), BATCHES)
    marks = [time.perf_counter()]
    described: Any = extraction.vectors(models, some, batches, look.resolution, look.extract)
    with closing(described):
        for _ in described:
            marks.append(time.perf_counter())
            if len(marks) > 2 and marks[-1] - marks[0] > SECONDS:
                break
    return pace(marks, [len(batch) for batch in batches[: len(marks) - 1]], 1)


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly apart."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]


def seconds(models: Sequence[Embedder], looks: Sequence[Look]) -> float:
    """What it takes to describe the photos of all looks."""
    return sum(look.times * pace_of_photos(models, look).seconds(len(look.photos)) for look in looks if look.photos)


def looks(benchmarks: Mapping[str, Benchmark], method: Method, extract: Extract, times: int) -> list[Look]:
    """What is described to judge a model."""
    parts = evaluation.parted(benchmarks, method.pairs.photos if method.pairs else ())
    return [Look(part, resolution, extract, times) for resolution in extract.resolutions for part in parts.values()]


def looks_while_training(parts: Parts, epochs: int) -> list[Look]:
    """What is described before a training and after its epochs: held-out landmarks, benchmarks, photos to be mined."""
    data, device = parts.data, str(parts.trainer.strategy.root_device)
    extract = replace(parts.extract, scales=(1.0,), compile=False, device=device)
    looks = []
    if data.validation is not None:
        looks.append(Look(data.validation.photos, data.resolution, extract, epochs + 1))
    if isinstance(data.sampler, TupleBatches):
        distinct = np.unique(np.concatenate(data.sampler.chosen(0)))
        looks.append(Look([data.train.photos[i] for i in distinct], data.resolution, extract, epochs))
    for callback in parts.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, Evaluate):
            photos = list(dict.fromkeys(p for b in parts.benchmarks.values() for p in (*b.gallery, *b.queries)))
            times = 1 + epochs // callback.every
            looks += [Look(photos, resolution, extract, times) for resolution in extract.resolutions]
    return looks
