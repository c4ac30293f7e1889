"""Two processes on a CPU train one model: as one process with the whole batch does, whichever way they share it."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from retrieval import config, evaluation, extraction, processes, training
from retrieval.errors import InputError
from retrieval.launch import launched
from retrieval.parts import Parts
from retrieval.sharding import full

WORDS = [
    "backbone=timm",
    "backbone.name=test_resnet",
    "data=folder",
    "data.resolution=48",
    "data.workers=0",
    "data.validation=2",
    "benchmark=folder",
    "extract.resolutions=[48]",
    "extract.workers=0",
    "extract.batch_size=2",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "logger=csv",
    "evaluate_untrained=false",
    "optimizer.lr=1e-3",
]
LANDMARKS = ["sampler.landmarks=2", "sampler.photos=2", "loss=multi_similarity"]
TUPLES = ["sampler=tuples", "sampler.negatives=1", "sampler.tuples=2", "sampler.queries=8", "sampler.pool=10"]
TUPLES += ["loss=tuple_contrastive", "optimizer=sgd"]
SHARES = ["trainer=fsdp", "trainer.precision=32-true", "trainer.gradient_clip_val=1"]


def tiny(photos: Path, out: Path, *words: str) -> DictConfig:
    places = [f"data.root={photos}", f"benchmark.folder.root={photos}", f"cache={out.parent}/cache"]
    return config.compose("train", [*WORDS, *places, *words], out)


def watched(cfg: DictConfig) -> list[Any]:
    """training.fit; each process notes its weights after training, and the photos that it describes for the result."""
    train, run_each, vectors = training.train, evaluation.run_each, extraction.vectors
    noted: dict[str, Any] = {"described": []}

    def trained(parts: Parts, *given: Any) -> None:
        train(parts, *given)
        noted["shared"] = any(isinstance(q, DTensor) for q in parts.module.parameters())
        state = parts.module.state_dict()
        weights = {name: full(value).detach().contiguous().numpy() for name, value in state.items()}
        noted["weights"] = {name: hashlib.sha256(values).hexdigest() for name, values in weights.items()}

    def noting(models: Any, photos: Any, *given: Any) -> Any:
        for indices, rows in vectors(models, photos, *given):
            noted["described"] += [photos[i].path for i in indices]
            yield indices, rows

    def judged(*given: Any) -> Any:
        extraction.vectors = noting
        return run_each(*given)

    training.train, evaluation.run_each = trained, judged
    rows = training.fit(cfg)
    (Path(cfg.output_dir) / f"noted{processes.rank()}.json").write_text(json.dumps(noted))
    return rows


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a run with these words, made once."""

    @functools.cache
    def made(*words: str) -> Path:
        out = tmp_path_factory.mktemp("distributed") / "run"
        cfg = tiny(photos, out, *words)
        if cfg.trainer.devices == 1:
            training.fit(cfg)
        else:
            rows = launched(watched, cfg)
            assert rows == json.loads((out / "results.json").read_text())
        return out

    return made


def apart(one: Path, other: Path) -> float:
    """The largest difference between the weights of two runs."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def noted(out: Path) -> list[dict[str, Any]]:
    return [json.loads((out / f"noted{rank}.json").read_text()) for rank in range(2)]


def curves(out: Path) -> list[str]:
    return [line for line in (out / "metrics.csv").read_text().splitlines() if line]


@pytest.mark.parametrize("batches", [LANDMARKS, TUPLES], ids=["landmarks", "tuples"])
def test_two_processes_end_where_one_does_with_the_whole_batch(run: Callable[..., Path], batches: list[str]) -> None:
    assert apart(run(*batches), run(*batches, "trainer.devices=2")) < 1e-5


@pytest.mark.parametrize("batches", [LANDMARKS, TUPLES], ids=["landmarks", "tuples"])
def test_weights_in_shares_end_where_whole_ones_do(run: Callable[..., Path], batches: list[str]) -> None:
    clipped = run(*batches, "trainer.gradient_clip_val=1")
    shared = run(*batches, "trainer.devices=2", *SHARES)
    assert apart(clipped, shared) < 1e-5 and all(one["shared"] for one in noted(shared))


@pytest.mark.parametrize("words", [[], SHARES], ids=["ddp", "fsdp"])
def test_both_processes_have_the_same_weights(run: Callable[..., Path], words: list[str]) -> None:
    first, second = noted(run(*LANDMARKS, "trainer.devices=2", *words))
    assert first["weights"] == second["weights"] and len(first["weights"]) > 10


def test_no_photo_is_described_twice_for_the_result(run: Callable[..., Path], photos: Path) -> None:
    described = [path for one in noted(run(*LANDMARKS, "trainer.devices=2")) for path in one["described"]]
    assert sorted(described) == sorted(map(str, photos.rglob("*.jpg")))


def test_the_result_and_the_curves_are_those_of_one_process(run: Callable[..., Path]) -> None:
    one, two = run(*TUPLES), run(*TUPLES, "trainer.devices=2")
    rows = [json.loads((out / "results.json").read_text()) for out in (one, two)]
    assert rows[0][0]["metrics"] == pytest.approx(rows[1][0]["metrics"]) and len(rows[0]) == len(rows[1])
    assert len(curves(one)) == len(curves(two))


def test_a_batch_that_cannot_be_shared_out_is_refused(photos: Path, tmp_path: Path) -> None:
    words = ["sampler.landmarks=3", "sampler.photos=2", "trainer.devices=2", "data.validation=0"]
    with pytest.raises(InputError, match=r"sampler\.landmarks must be a multiple of the 2 processes .* got 3"):
        launched(training.fit, tiny(photos, tmp_path / "run", *words))


def test_an_average_of_shares_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="callbacks=ema averages whole weights"):
        training.fit(tiny(photos, tmp_path / "run", "trainer=fsdp", "callbacks=[ema]"))
