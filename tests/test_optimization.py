"""Schedules follow their formulas, every parameter learns at one rate, and p can wait."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from retrieval.backbones import TimmBackbone
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.heads import Projection
from retrieval.optimization import hold_p, parameter_groups, warmup_cosine
from retrieval.poolings import GeM, NetVLAD

BACKBONES = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "mobilenetv2_035", "test_mambaout"]
MULTIPLIERS = {"backbone": 1, "pooling": 2, "p": 10, "head": 3, "loss": 5}
RATES = {"lr": 0.1, "weight_decay": 0.5}


class Trained(nn.Module):
    """An embedder and a loss with weights, as training holds them."""

    def __init__(self, backbone: str, pooling: type = GeM) -> None:
        super().__init__()
        model = TimmBackbone(backbone)
        pooled = pooling(model.dim)
        self.embedder = Embedder(model, pooled, Projection(pooled.out_dim, 4))
        self.objective = nn.Linear(4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.objective(self.embedder(pixels)).square().mean()


def rates_of(groups: list[dict[str, Any]], module: nn.Module) -> dict[str, float]:
    """The rate of each parameter by name."""
    of = {id(q): group["lr"] for group in groups for q in group["params"]}
    return {name: of[id(q)] for name, q in module.named_parameters()}


def schedule(name: str, optimizer: Optimizer | None = None, **keys: Any) -> Any:
    optimizer = optimizer or torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cfg = {**load_yaml(CONFIGS / "schedule" / f"{name}.yaml"), **keys}  # pyright: ignore[reportGeneralTypeIssues]
    return build(cfg, optimizer=optimizer, total_steps=20, steps_per_epoch=4)


def curve(scheduler: Any, steps: int) -> list[float]:
    """The first group's rate at each step."""
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    rates = [warmup_cosine(step, 10, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0 and rates[100] == pytest.approx(0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@given(rate=st.floats(0, 1))
def test_the_exponential_rate_falls_once_an_epoch(rate: float) -> None:
    expected = [math.exp(-rate * (step // 4)) for step in range(12)]
    assert curve(schedule("exponential", rate=rate), 12) == pytest.approx(expected)


def test_the_papers_rate_is_one_percent_an_epoch() -> None:
    assert curve(schedule("exponential"), 5)[-1] == pytest.approx(math.exp(-0.01))


def test_a_constant_rate_does_not_move() -> None:
    assert set(curve(schedule("constant"), 12)) == {1.0}


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("cosine", {"warmup": 1.0}, r"warmup is a share of the steps, in \[0, 1\), got 1.0"),
        ("cosine", {"warmup": -0.1}, "got -0.1"),
        ("cosine", {"warmup": math.nan}, "got nan"),
        ("exponential", {"rate": -0.01}, "rate is how fast the learning rate falls, at least 0, got -0.01"),
        ("exponential", {"rate": math.inf}, "got inf"),
        ("exponential", {"rate": "slow"}, "cannot be made of .*slow"),
        ("constant", {"factor": 2}, "between 0 and 1"),
    ],
)
def test_a_schedules_bad_values_are_refused(name: str, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        schedule(name, **keys)


def test_an_epoch_without_steps_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1 step of the optimizer, got 0"):
        build(
            load_yaml(CONFIGS / "schedule" / "exponential.yaml"),
            optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)]),
            steps_per_epoch=0,
        )


def test_every_group_follows_the_schedule_from_its_own_rate() -> None:
    groups = parameter_groups(Trained("test_vit"), RATES, MULTIPLIERS, 0.5)
    starts = [group["lr"] for group in groups]
    scheduler = schedule("exponential", torch.optim.AdamW(groups), rate=0.1)
    curve(scheduler, 4)
    assert scheduler.get_last_lr() == pytest.approx([math.exp(-0.1) * start for start in starts])


@pytest.mark.parametrize("backbone", BACKBONES)
@settings(max_examples=10)
@given(layer_decay=st.floats(0.1, 1))
def test_every_trainable_parameter_is_in_one_group(backbone: str, layer_decay: float) -> None:
    module = held(backbone)
    grouped = [id(q) for group in parameter_groups(module, RATES, MULTIPLIERS, layer_decay) for q in group["params"]]
    assert sorted(grouped) == sorted(id(q) for q in module.parameters() if q.requires_grad)


def held(backbone: str, modules: dict[str, Trained] = {}) -> Trained:  # noqa: B006
    """One for all examples, with a weight that is not trained."""
    if backbone not in modules:
        modules[backbone] = Trained(backbone)
        next(modules[backbone].embedder.backbone.parameters()).requires_grad_(False)
    return modules[backbone]


def test_each_group_has_a_name_of_its_own() -> None:
    names = [group["name"] for group in parameter_groups(Trained("test_vit"), RATES, MULTIPLIERS, 0.5)]
    assert len(set(names)) == len(names) and "backbone 6 below the top undecayed" in names


def test_p_has_its_own_rate_and_no_decay() -> None:
    groups = parameter_groups(Trained("test_resnet"), RATES, MULTIPLIERS)
    (p,) = [group for group in groups if group["name"].startswith("p ")]
    assert p["lr"] == pytest.approx(1.0) and p["weight_decay"] == 0 and len(p["params"]) == 1


@pytest.mark.parametrize(("name", "rate"), [("objective.weight", 0.5), ("embedder.head.weight", 0.3)])
def test_each_part_learns_at_its_multiple(name: str, rate: float) -> None:
    module = Trained("test_resnet")
    assert rates_of(parameter_groups(module, RATES, MULTIPLIERS), module)[name] == pytest.approx(rate)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_norms_biases_and_what_timm_spares_are_not_decayed(backbone: str) -> None:
    module = Trained(backbone, NetVLAD)
    spared = {
        id(dict(module.embedder.backbone.named_parameters())[name]) for name in module.embedder.backbone.undecayed()
    }
    for group in parameter_groups(module, RATES, MULTIPLIERS, 0.9):
        for q in group["params"]:
            assert (group.get("weight_decay") == 0) == (q.ndim <= 1 or id(q) in spared)


def test_a_vits_positions_and_class_token_are_not_decayed() -> None:
    assert {"model.pos_embed", "model.cls_token"} <= TimmBackbone("test_vit").undecayed()


def test_each_block_of_a_vit_learns_at_a_part_of_the_one_above_it() -> None:
    module = Trained("test_vit")
    rates = rates_of(parameter_groups(module, RATES, MULTIPLIERS, 0.75), module)
    path = "embedder.backbone.model."
    for name, depth in (("norm", 0), ("blocks.5.mlp.fc1", 0), ("blocks.4.attn.qkv", 1), ("blocks.0.norm1", 5)):
        assert rates[f"{path}{name}.weight"] == pytest.approx(0.1 * 0.75**depth)
    assert rates[f"{path}pos_embed"] == rates[f"{path}patch_embed.proj.weight"] == pytest.approx(0.1 * 0.75**6)
    assert rates["embedder.head.weight"] == pytest.approx(0.3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_last_layer_whose_result_is_pooled_learns_at_the_whole_rate(backbone: str) -> None:
    """A ConvNeXt's last norm follows the features: the block before it is the top."""
    module = Trained(backbone)
    rates = rates_of(parameter_groups(module, RATES, MULTIPLIERS, 0.5), module)
    used = [rates[f"embedder.backbone.model.{name}"] for name in module.embedder.backbone.used()]
    assert max(used) == pytest.approx(0.1) and min(used) < 0.01


@pytest.mark.parametrize("value", [0, -0.5, 1.1, math.nan])
def test_a_layer_decay_outside_its_range_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=rf"layer_decay .* in \(0, 1\], got {value}"):
        parameter_groups(held("test_resnet"), RATES, MULTIPLIERS, value)


def test_a_backbone_without_layers_in_order_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="timm gives none for 'poolformer_s12'; accepted: layer_decay=1.0"):
        TimmBackbone("poolformer_s12").depths()


def stepped(model: nn.Module, module: Trained, optimizer: Optimizer, held_back: bool) -> float:
    """One step as training makes it; the norm of the gradient that it may clip."""
    optimizer.zero_grad()
    torch.manual_seed(0)
    model(torch.randn(2, 3, 64, 96)).backward()
    if held_back:
        hold_p(module.embedder)
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1e9)
    optimizer.step()
    return float(norm)


def trained() -> tuple[Trained, Optimizer]:
    torch.manual_seed(0)
    module = Trained("test_resnet").eval()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.5)  # which would decay p too
    return module, optimizer


def test_a_held_p_neither_moves_nor_decays_nor_counts_in_clipping() -> None:
    module, optimizer = trained()
    norm, p = stepped(module, module, optimizer, True), module.embedder.pooling.p
    assert p.item() == 3.0 and not optimizer.state[p]
    module, optimizer = trained()
    whole, gradient = stepped(module, module, optimizer, False), module.embedder.pooling.p.grad
    assert gradient.item() and norm**2 == pytest.approx(whole**2 - gradient.item() ** 2, rel=1e-4)


def test_a_p_that_waited_starts_as_if_it_were_its_first_step() -> None:
    module, optimizer = trained()
    for held_back in (True, True, False):
        stepped(module, module, optimizer, held_back)
    p = module.embedder.pooling.p
    assert optimizer.state[p]["step"] == 1 and p.item() != 3.0
    assert p.item() == pytest.approx(3.0 * (1 - 0.01 * 0.5), abs=0.0101)  # Adam's first step is as long as its rate


@pytest.fixture
def process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_p_waits_among_processes_that_share_gradients(process: None) -> None:
    module, optimizer = trained()
    model = DistributedDataParallel(module)
    moved = []
    for held_back in (True, True, False, False):
        stepped(model, module, optimizer, held_back)
        moved.append(module.embedder.pooling.p.item())
    assert moved[0] == moved[1] == 3.0 and len(set(moved)) == 3


def test_holding_p_leaves_poolings_without_one_alone() -> None:
    hold_p(Trained("test_resnet", NetVLAD).embedder)
