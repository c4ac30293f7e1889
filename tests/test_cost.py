"""What a run will cost, told before it is run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig
from small_runs import TINY, columns, tiny
from torch import Tensor, nn

from retrieval import config, embedder, training
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.parts import Parts
from retrieval.sweep import cost, measured
from retrieval.sweep.measured import flops, pace


def model(*words: str) -> Embedder:
    return embedder.from_config(config.compose("eval", ["backbone=timm", *words]))


def judged(photos: Path, out: Path | None, *words: str) -> DictConfig:
    small = ["benchmark=folder", f"benchmark.folder.root={photos}", "extract.resolutions=[48]", "extract.workers=0"]
    return config.compose("eval", [*small, *words], out)


def in_tuples(photos: Path, out: Path) -> DictConfig:
    tuples = ["sampler=tuples", "sampler.negatives=2", "sampler.tuples=2", "loss=tuple_contrastive"]
    kept = [word for word in TINY if not word.startswith("sampler.")]
    places = [f"data.root={photos}", f"benchmark.folder.root={photos}", f"cache={out.parent}"]
    return config.compose("train", [*kept, *tuples, *places], out)


def of_convolutions(network: nn.Module, photo: Tensor) -> int:
    """Two for each multiplication of each convolution: k x k x in / groups for each value that comes out."""
    counts: list[int] = []

    def count(layer: nn.Conv2d, given: tuple[Tensor], out: Tensor) -> None:
        counts.append(2 * out.numel() * layer.weight[0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network(photo)
    return sum(counts)


def test_flops_of_convolutions_are_those_counted_by_hand() -> None:
    network = model("backbone.name=test_resnet", "pooling=gap").eval()
    assert flops([network], Extract([64]))[64] == of_convolutions(network, torch.zeros(1, 3, 64, 64))


def test_a_linear_layer_adds_two_flops_for_each_of_its_weights() -> None:
    without, with_head = (
        flops([model("backbone.name=test_resnet", *words)], Extract([64]))[64]
        for words in ([], ["head=linear", "head.out_dim=8"])
    )
    head = model("backbone.name=test_resnet", "head=linear", "head.out_dim=8").head
    assert isinstance(head, nn.Linear) and with_head - without == 2 * head.weight.numel()


def test_the_products_of_attention_are_counted() -> None:
    """Tokens squared times width, for the similarities and again for the sums, in each block."""
    network = model("backbone.name=test_vit", "pooling=gap")
    vit, side = network.backbone.model, 160
    tokens = (side // 16) ** 2 + 1
    linear = sum(layer.weight.numel() for layer in vit.blocks.modules() if isinstance(layer, nn.Linear)) * tokens
    products = len(vit.blocks) * 2 * tokens**2 * vit.embed_dim
    patches = (tokens - 1) * vit.patch_embed.proj.weight.numel()
    assert flops([network], Extract([side]))[side] == 2 * (linear + products + patches)


def test_a_second_scale_adds_its_flops() -> None:
    network, once = model("backbone.name=test_resnet"), Extract([64, 128])
    alone, both = flops([network], once), flops([network], replace(once, scales=(1.0, 0.5)))
    assert both[128] == alone[128] + alone[64]


def test_counting_flops_leaves_weights_and_mode() -> None:
    network = model("backbone.name=test_resnet").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flops([network], Extract([64]))
    assert network.training and all(torch.equal(before[name], now) for name, now in network.state_dict().items())


@given(
    each=st.floats(0.01, 100),
    sizes=st.lists(st.integers(1, 16), min_size=1, max_size=20),
    warmup=st.integers(0, 30),
    count=st.integers(0, 10**6),
)
def test_a_steady_pace_goes_on_as_it_is(each: float, sizes: list[int], warmup: int, count: int) -> None:
    marks = [100 + each * sum(sizes[:i]) for i in range(len(sizes) + 1)]
    assert pace(marks, sizes, warmup).seconds(count) >= each * count - 1e-6 * each * (count + 1e4)
    assert pace(marks, sizes, warmup).seconds(10**6) == pytest.approx(each * 10**6, rel=1e-6)


def test_the_slow_start_is_counted_once() -> None:
    assert pace([0, 50, 51, 52, 53], [1, 1, 1, 1], 1).seconds(101) == 150


@pytest.fixture(scope="module")
def of_tiny(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[cost.Cost, DictConfig]:
    """The cost of a tiny training, which has two landmarks held out, and its config."""
    cfg = tiny(photos, tmp_path_factory.mktemp("dry") / "run", "data.validation=2", "evaluate_untrained=true")
    return cost.cost_of(cfg, "train"), cfg


def test_a_dry_run_leaves_nothing_where_the_run_would_lie(of_tiny: tuple[cost.Cost, DictConfig]) -> None:
    out = Path(of_tiny[1].output_dir)
    assert not out.exists() and not list(out.parent.iterdir())


def test_parameters_are_those_of_the_model_and_of_the_loss_apart(of_tiny: tuple[cost.Cost, DictConfig]) -> None:
    told, cfg = of_tiny
    module = Parts.of(cfg).module
    numbers = [sum(weights.numel() for weights in part.parameters()) for part in (module.embedder, module.objective)]
    assert [told.parameters, told.loss] == numbers and min(numbers) > 0


def test_the_seconds_of_a_job_are_those_of_its_parts(of_tiny: tuple[cost.Cost, DictConfig]) -> None:
    told, _ = of_tiny
    assert min(told.building, told.training, told.judging) > 0 and told.training > told.steps * told.step / 2
    assert told.seconds == told.building + told.training + told.judging


@pytest.mark.parametrize("word", ["trainer.max_epochs=2", "trainer.max_steps=3", "trainer.accumulate_grad_batches=2"])
def test_steps_are_as_many_as_the_run_makes(photos: Path, tmp_path: Path, word: str) -> None:
    told = cost.cost_of(tiny(photos, tmp_path / "dry", word), "train")
    training.fit(tiny(photos, tmp_path / "run", word))
    assert told.steps == max(columns(tmp_path / "run")["step"]) + 1


def test_photos_of_a_step_are_those_of_all_its_batches(photos: Path, tmp_path: Path) -> None:
    told = cost.cost_of(tiny(photos, tmp_path / "run", "trainer.accumulate_grad_batches=2"), "train")
    assert told.photos == 2 * 4


def test_a_long_training_is_measured_by_a_few_steps(photos: Path, tmp_path: Path) -> None:
    parts = Parts.of(tiny(photos, tmp_path / "run", "trainer.max_epochs=1000", "+trainer.min_epochs=900"))
    measured.pace_of_steps(parts, 0, tmp_path)
    assert parts.trainer.global_step == 2 + measured.STEPS


def test_held_out_landmarks_are_described_before_training_and_after_each_epoch(photos: Path, tmp_path: Path) -> None:
    parts = Parts.of(tiny(photos, tmp_path / "run", "data.validation=2"))
    (look,) = measured.looks_while_training(parts, 7)
    assert (len(look.photos), look.resolution, look.times) == (10, 64, 8)


def test_a_benchmark_that_is_looked_at_while_training_is_counted(photos: Path, tmp_path: Path) -> None:
    words = ["callbacks=[default,evaluate]", "callbacks.evaluate.every=3"]
    (look,) = measured.looks_while_training(Parts.of(tiny(photos, tmp_path / "run", *words)), 7)
    assert (len(look.photos), look.resolution, look.times) == (20, 48, 3)


def test_tuples_are_measured_with_negatives_at_random(photos: Path, tmp_path: Path) -> None:
    told = cost.cost_of(in_tuples(photos, tmp_path / "run"), "train")
    assert told.photos == 2 * 4 and told.training > 0


def test_the_photos_that_are_mined_are_counted_once_an_epoch(photos: Path, tmp_path: Path) -> None:
    (look,) = measured.looks_while_training(Parts.of(in_tuples(photos, tmp_path / "run")), 5)
    assert (len(look.photos), look.times) == (20, 5)


def test_of_several_processes_one_is_measured_and_it_is_said(photos: Path, tmp_path: Path) -> None:
    words = ["trainer.devices=2", "trainer=fsdp", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    told = cost.table([tiny(photos, tmp_path / "run", *words)], [{}], "train")
    assert "runs of 2 processes were measured with one, which has the whole batch" in told


def test_jobs_that_differ_in_seed_alone_are_measured_once(photos: Path, tmp_path: Path) -> None:
    jobs = [(seed, tiny(photos, tmp_path / f"{seed}", f"seed={seed}")) for seed in (0, 1)]
    told = cost.table([cfg for _, cfg in jobs], [{"seed": seed} for seed, _ in jobs], "train").splitlines()
    first, second = (re.sub(r"^ *\d+ +\d+ +", "", line) for line in told[1:3])
    assert told[0].split()[:2] == ["job", "seed"] and first == second


def test_a_job_that_is_refused_says_why_and_the_others_go_on(photos: Path, tmp_path: Path) -> None:
    jobs = [tiny(photos, tmp_path / "run", *words) for words in (["seed=abc"], ["freeze_p=-1"], [])]
    _, bad, worse, good, last, *_ = cost.table(jobs, [{"seed": "abc"}, {"freeze_p": -1}, {}], "train").splitlines()
    assert bad.endswith("refused: seed must be a whole number, got 'abc'")
    assert worse.endswith("refused: freeze_p must be a whole number, at least 0, got -1")
    assert "0:0" in good and last.startswith("1 of 3 jobs, one after the other: 0:0")


@pytest.mark.parametrize("script", ["train", "eval"])
def test_a_folder_with_another_run_is_refused_as_the_run_would_be(photos: Path, tmp_path: Path, script: str) -> None:
    (tmp_path / "results.json").write_text("[]")
    words = ["backbone=timm", "backbone.name=test_resnet"]
    cfg = tiny(photos, tmp_path) if script == "train" else judged(photos, tmp_path, *words)
    with pytest.raises(InputError, match=r"holds another run \(results\.json\)"):
        cost.cost_of(cfg, script)


def test_judging_off_the_shelf_has_no_steps_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    cfg = judged(photos, tmp_path / "run", "backbone=timm", "backbone.name=test_resnet")
    told = cost.cost_of(cfg, "eval")
    assert told.steps == told.training == 0 and told.judging > 0 and not list(tmp_path.iterdir())


def test_poolings_of_one_pass_share_the_parameters_and_flops_of_their_backbone(photos: Path, tmp_path: Path) -> None:
    words = ["backbone=timm", "backbone.name=test_resnet", "evaluate.poolings=[gap,max]"]
    told = cost.cost_of(judged(photos, tmp_path / "run", *words), "eval")
    backbone = model("backbone.name=test_resnet", "pooling=gap")
    assert told.parameters == sum(weights.numel() for weights in backbone.parameters())
    assert told.flops == flops([backbone], Extract([48]))


def test_a_trained_run_keeps_its_files(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    training.fit(tiny(photos, run, "trainer.max_epochs=1"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    cost.cost_of(judged(photos, None, f"run={run}", f"cache={tmp_path}"), "eval")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_of_memory_is_told_on_a_gpu(photos: Path, tmp_path: Path) -> None:
    told = cost.cost_of(tiny(photos, tmp_path / "run", "trainer.accelerator=gpu"), "train")
    assert told.memory is not None and told.memory > 4 * told.parameters


@pytest.mark.parametrize("more", ["layer_decay=1.0", "layer_decay=0.9"])
def test_what_a_frozen_backbone_costs_is_told_without_describing_all_photos(
    photos: Path, tmp_path: Path, more: str
) -> None:
    steady = ["data.aspect=native", "data.crop=1", "data.flip=false", "data.jitter=0"]
    cost.cost_of(tiny(photos, tmp_path / "run", "lr_multipliers.backbone=0", *steady, more), "train")
    assert not (tmp_path / "features").exists()
