"""Training: frozen statistics, reproducible runs, faults that stop it, what is left behind."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from small_runs import TINY, columns, tiny

from retrieval import config, embedder, losses, training
from retrieval.benchmarks.folder import SameLandmark
from retrieval.data.folder import read
from retrieval.errors import InputError
from retrieval.extraction import NotFinite, describe
from retrieval.parts import Retrieval
from retrieval.subjects import plain, subject

LOSSES = sorted(path.stem for path in (config.CONFIGS / "loss").glob("*.yaml"))
MULTIPLIERS = {"backbone": 1, "pooling": 2, "p": 10, "head": 3, "loss": 5}


def in_tuples(photos: Path, out: Path, *words: str) -> DictConfig:
    """A training on tuples of a query, a positive and two negatives."""
    tuples = ["sampler=tuples", "sampler.negatives=2", "sampler.tuples=2", "loss=tuple_contrastive"]
    given = [word for word in TINY if not word.startswith("sampler.")]
    places = [f"data.root={photos}", f"benchmark.folder.root={photos}", f"cache={out.parent}"]
    return config.compose("train", [*given, *tuples, *places, *words], out)


def module(photos: Path, out: Path, *words: str) -> Retrieval:
    cfg = tiny(photos, out, *words)
    model = embedder.from_config(cfg)
    return Retrieval(model, losses.from_config(cfg, 4, model.dim, None), plain(cfg))


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run of GeM with two landmarks held out."""
    out = tmp_path_factory.mktemp("run") / "gem"
    training.fit(tiny(photos, out, "data.validation=2", "evaluate_untrained=true"))
    return out


@pytest.mark.parametrize("freeze", [True, False])
def test_batchnorm_statistics_move_only_when_not_frozen(photos: Path, tmp_path: Path, freeze: bool) -> None:
    cfg = tiny(photos, tmp_path / "run", f"freeze_batchnorm={freeze}", "evaluate_untrained=true", "data.validation=2")
    training.fit(cfg)
    name = "backbone.model.conv1.1.running_mean"
    torch.manual_seed(0)
    started = embedder.from_config(cfg).state_dict()[name]
    assert torch.equal(started, load_file(tmp_path / "run" / "model.safetensors")[name]) == freeze


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_falls(photos: Path, tmp_path: Path, loss: str) -> None:
    words = [
        f"loss={loss}",
        "data.crop=1",
        "data.jitter=0",
        "data.flip=false",
        "optimizer.lr=3e-3",
        "schedule=constant",
        "lr_multipliers.loss=10",
        "trainer.max_epochs=6",
    ]
    given = in_tuples if loss.startswith("tuple_") else tiny
    training.fit(given(photos, tmp_path / loss, *words))
    falling = columns(tmp_path / loss)["train/loss"]
    assert sum(falling[-5:]) < sum(falling[:5])


@pytest.mark.parametrize("pooling", ["gap", "gem", "strided_conv"])
def test_a_seed_reproduces_a_run_exactly(photos: Path, tmp_path: Path, pooling: str) -> None:
    states = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        training.fit(tiny(photos, tmp_path / name, f"seed={seed}", f"pooling={pooling}"))
        states.append(load_file(tmp_path / name / "model.safetensors"))
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_what_was_described_before_changes_no_weight_of_a_network_that_draws_lots(photos: Path, tmp_path: Path) -> None:
    """With dropped paths; the untrained model is described, found described, and not described at all."""
    states = []
    for name, untrained in (("a", True), ("b", True), ("c", False)):
        words = ["backbone.kwargs.drop_path_rate=0.3", f"evaluate_untrained={untrained}"]
        training.fit(tiny(photos, tmp_path / name, *words))
        states.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.equal(states[0][key], state[key]) for state in states[1:] for key in state)


def test_the_curve_of_p_starts_where_p_started_and_moves(run: Path) -> None:
    p = columns(run)["p"]
    assert p[0] == 3.0 and len(set(p)) > 2


def test_p_per_channel_is_logged_with_its_spread(photos: Path, tmp_path: Path) -> None:
    training.fit(tiny(photos, tmp_path / "run", "pooling.per_channel=true"))
    curves = columns(tmp_path / "run")
    assert (
        curves["p/min"][-1] <= curves["p/d5"][-1] <= curves["p/max"][-1] and curves["p/min"][-1] < curves["p/max"][-1]
    )


def test_a_run_leaves_its_model_config_curves_and_results(run: Path) -> None:
    left = {path.name for path in run.iterdir()}
    assert {"model.safetensors", "config.yaml", "metrics.csv", "results.json", "rankings.json"} <= left


def test_the_saved_model_is_the_one_that_was_judged(run: Path, photos: Path) -> None:
    judged = json.loads((run / "results.json").read_text())[-1]["metrics"]["mAP"]
    paths = [photo.path for photo in read(photos).photos]
    rows = describe(embedder.load(run), paths, 48)
    assert SameLandmark(read(photos)).judge(rows @ rows.T)["mAP"] == pytest.approx(judged, abs=1e-6)


def test_rows_say_what_selected_the_model(run: Path) -> None:
    untrained, trained = json.loads((run / "results.json").read_text())
    assert untrained["untrained"] and not trained["untrained"]
    assert trained["selected_by"].endswith("on 2 held-out training landmarks")
    assert trained["trained_on"] == "10 photos of 2 landmarks, 2 landmarks held out"


def test_held_out_landmarks_are_judged_before_training_and_after_every_epoch(run: Path) -> None:
    assert len(columns(run)["validation/mAP"]) == 3


def test_a_callback_that_selects_is_part_of_the_settings(photos: Path, tmp_path: Path) -> None:
    configs = [tiny(photos, tmp_path, f"callbacks={chosen}") for chosen in ("[default]", "[default,early_stopping]")]
    hashes = [subject(cfg, False, "").settings for cfg in configs]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize("word", ["seed=7", "output_dir=elsewhere", "extract.batch_size=3"])
def test_what_changes_no_model_changes_no_settings(photos: Path, tmp_path: Path, word: str) -> None:
    one, other = tiny(photos, tmp_path), tiny(photos, tmp_path, word)
    assert subject(one, False, "").settings == subject(other, False, "").settings


def test_an_output_folder_with_another_run_is_refused(run: Path, photos: Path) -> None:
    with pytest.raises(InputError, match="holds another run"):
        training.fit(tiny(photos, run))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_absent_gpu_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"accelerator=gpu was asked for, this machine has no GPU"):
        training.fit(tiny(photos, tmp_path, "trainer.accelerator=gpu"))


@pytest.mark.parametrize("word", ["limit_train_batches=2", "overfit_batches=1", "fast_dev_run=true"])
def test_a_part_of_an_epoch_is_refused(photos: Path, tmp_path: Path, word: str) -> None:
    with pytest.raises(InputError, match=r"an epoch is all batches of the sampler, got trainer\."):
        training.fit(tiny(photos, tmp_path, f"+trainer.{word}"))


def test_early_stopping_without_held_out_landmarks_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give data\.validation"):
        training.fit(tiny(photos, tmp_path, "callbacks=[default,early_stopping]"))


def test_early_stopping_stops(photos: Path, tmp_path: Path) -> None:
    words = ["data.validation=2", "callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=1"]
    training.fit(tiny(photos, tmp_path / "run", *words, "trainer.max_epochs=9", "optimizer.lr=1e-12"))
    assert len(columns(tmp_path / "run")["validation/mAP"]) < 9


def test_a_loss_that_is_not_finite_stops_with_step_and_photos(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=r"the loss is nan at step \d+; photos of the batch: .*\.jpg"):
        training.fit(tiny(photos, tmp_path / "run", "optimizer.lr=1e30", "pooling=gap"))


def test_p_ends_a_step_on_its_bound_at_the_least(photos: Path, tmp_path: Path) -> None:
    words = ["pooling=gem", "pooling.p_min=2.9", "lr_multipliers.p=1e6", "trainer.max_epochs=1"]
    training.fit(tiny(photos, tmp_path / "run", *words))
    p = embedder.load(tmp_path / "run").p
    assert p is not None and p.item() >= 2.9


def test_mixed_precision_trains(photos: Path, tmp_path: Path) -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        rows = training.fit(tiny(photos, tmp_path / precision, f"trainer.precision={precision}"))
        losses.append(columns(tmp_path / precision)["train/loss"])
        assert rows[-1]["metrics"]["mAP"] > 0.5
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.1)


def test_weights_and_biases_writes_an_offline_run_for_each_job(photos: Path, tmp_path: Path) -> None:
    words = ["logger=[csv,wandb]", "pooling.per_channel=true", "trainer.max_epochs=1"]
    for job in ("first", "second"):
        training.fit(tiny(photos, tmp_path / job, *words))
        assert len(list((tmp_path / job / "wandb").glob("offline-run-*/*.wandb"))) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_in_mixed_precision(photos: Path, tmp_path: Path) -> None:
    rows = training.fit(tiny(photos, tmp_path / "run", "trainer.accelerator=gpu", "trainer.precision=16-mixed"))
    assert 0 < rows[-1]["metrics"]["mAP"] <= 1 and rows[-1]["device"] == "cuda"


def test_tuples_are_mined_before_every_epoch_and_it_is_said_how_hard_they_are(photos: Path, tmp_path: Path) -> None:
    training.fit(in_tuples(photos, tmp_path / "run"))
    logged = columns(tmp_path / "run")
    assert len(logged["mining/hardest"]) == len(logged["mining/harder_than_positive"]) == 2
    assert len(logged["mining/changed"]) == 1  # in the first epoch there was none before
    assert all(easy <= hard for easy, hard in zip(logged["mining/negative"], logged["mining/hardest"], strict=True))


def test_a_run_on_tuples_that_is_repeated_gives_the_same_weights(photos: Path, tmp_path: Path) -> None:
    states = []
    for name in "ab":
        training.fit(in_tuples(photos, tmp_path / name, "data.aspect=native", "data.bucket=1", "data.crop=1"))
        states.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_loss_of_tuples_without_tuples_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="accepted: sampler=tuples"):
        training.fit(tiny(photos, tmp_path / "run", "loss=tuple_contrastive"))


def test_a_whole_batch_in_mixed_resolutions_and_native_shapes_trains(photos: Path, tmp_path: Path) -> None:
    words = ["data.resolutions=[48,64]", "data.aspect=native", "optimizer.lr=3e-3", "trainer.max_epochs=6"]
    training.fit(tiny(photos, tmp_path / "run", *words))
    falling = columns(tmp_path / "run")["train/loss"]
    assert sum(falling[-5:]) < sum(falling[:5])


def test_p_stays_for_as_many_epochs_as_asked(photos: Path, tmp_path: Path) -> None:
    training.fit(tiny(photos, tmp_path / "run", "freeze_p=1"))
    p = columns(tmp_path / "run")["p"]
    half = len(p) // 2 + 1
    assert set(p[:half]) == {3.0} and len(set(p[half:])) > 1


def test_weights_behind_the_features_are_not_trained(photos: Path, tmp_path: Path) -> None:
    network = module(photos, tmp_path, "backbone.name=test_convnext")
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {"embedder.backbone.model.head.norm.weight", "embedder.backbone.model.head.norm.bias"}


@pytest.mark.parametrize("word", ["pieces=1", "checkpointing=true"])
def test_what_saves_memory_trains_the_same_weights(photos: Path, tmp_path: Path, word: str) -> None:
    states = []
    for name, words in (("whole", []), ("saved", [word])):
        training.fit(
            tiny(photos, tmp_path / name, *words, "optimizer=sgd", "optimizer.lr=1e-3", "trainer.max_epochs=1")
        )
        states.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.allclose(states[0][key], states[1][key], atol=1e-5) for key in states[0])


def test_a_whitening_layer_starts_from_training_photos_and_is_trained(photos: Path, tmp_path: Path) -> None:
    words = ["head=whitening", "head.start=pca", "head.out_dim=8", "evaluate_untrained=true"]
    rows = training.fit(tiny(photos, tmp_path / "run", *words))
    started, trained = rows[0]["metrics"]["mAP"], embedder.load(tmp_path / "run")
    assert started > 0.3 and trained.dim == 8 and rows[-1]["head"] == "whitening"


@pytest.mark.parametrize(
    "words",
    [
        ["schedule=exponential"],
        ["layer_decay=0.8"],
        ["trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0"],
        ["loss=contrastive", "memory=16"],
        ["loss=triplet", "miner=semihard"],
        ["sampler=balanced", "sampler.size=4"],
        ["callbacks=[default,ema,evaluate]", "callbacks.ema.decay=0.5"],
        ["optimizer=adam", "backbone.name=test_vit", "layer_decay=0.75"],
    ],
    ids=lambda words: words[0],
)
def test_each_way_to_train_leaves_a_model_that_is_judged(photos: Path, tmp_path: Path, words: list[str]) -> None:
    kept = [w for w in TINY if not (w.startswith("sampler.") and "sampler=balanced" in words)]
    places = [f"data.root={photos}", f"benchmark.folder.root={photos}", f"cache={tmp_path}"]
    rows = training.fit(config.compose("train", [*kept, *places, *words], tmp_path / "run"))
    before = columns(tmp_path / "run")["train/loss"]
    assert rows[-1]["metrics"]["mAP"] > 0.4 and not rows[-1]["untrained"] and len(before) > 1


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lr_multipliers.p=-5", r"lr_multipliers\.p must be a number, at least 0, got -5"),
        ("lr_multipliers.p=null", r"lr_multipliers\.p must be a number, at least 0, got None"),
        ("freeze_p=true", "freeze_p must be a whole number, at least 0, got True"),
        ("checkpoint_steps=0", "checkpoint_steps must be a whole number, at least 1, got 0"),
        ("data.validation=2.7", r"data\.validation must be 0, or at least 2 landmarks"),
        ("layer_decay=abc", "layer_decay must be .* got 'abc'"),
        ("+trainer.reload_dataloaders_every_n_epochs=1", "an epoch is all batches of the sampler"),
    ],
)
def test_bad_values_are_refused_by_name(photos: Path, tmp_path: Path, word: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        training.fit(tiny(photos, tmp_path / "run", word))
