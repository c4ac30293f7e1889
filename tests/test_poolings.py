"""Worked values and the laws that every pooling obeys."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from retrieval.backbones import TimmBackbone
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.errors import InputError
from retrieval.features import Features
from retrieval.poolings import CLS, Attention, GeM, GlobalAverage, MeanToken, SpatialPyramid, StridedConv
from retrieval.poolings import functional as F

FIXED = {"mixvpr"}  # takes one size of map
YAMLS = [y for y in sorted((CONFIGS / "pooling").glob("*.yaml")) if y.stem not in FIXED]
each_pooling = pytest.mark.parametrize("yaml", YAMLS, ids=lambda path: path.stem)


def column(values: list[float]) -> Tensor:
    """One channel, values along a row: (1, 1, 1, N)."""
    return torch.tensor(values)[None, None, None]


def alone(x: Tensor) -> Features:
    """The map with a class token before it."""
    return Features(x, prefix=x.mean((-2, -1))[:, None])


def padded(x: Tensor, height: int, width: int, fill: float) -> Features:
    """The map in the upper left of a larger one, the rest filled and masked."""
    b, d, h, w = x.shape
    larger, mask = torch.full((b, d, height, width), fill), torch.zeros(b, height, width, dtype=torch.bool)
    larger[:, :, :h, :w], mask[:, :h, :w] = x, True
    return Features(larger, alone(x).prefix, mask)


def shaken(pooling: nn.Module) -> nn.Module:
    """The pooling as if trained: its weights are no longer what they started from, and it drops nothing out."""
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter += 0.05 * torch.rand_like(parameter)
    return pooling.eval()


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([0.5, 0.2, 0.8, 0.1, 0.9, 0.3, 0.4, 0.6, 0.7], 0.5),
        ([2.1, 1.8, 2.3, 1.9, 2.5, 2.0, 1.7, 2.2, 2.4], 2.1),
        ([3.0] + [0.1] * 8, 0.42222),
    ],
)
def test_average_of_worked_values(values: list[float], mean: float) -> None:
    assert F.average(column(values)).item() == pytest.approx(mean, abs=1e-5)


def test_maximum_of_worked_values() -> None:
    assert F.maximum(column([0.1, 0.2, 0.8, 0.1])).item() == pytest.approx(0.8)


@pytest.mark.parametrize(("p", "expected"), [(1, 0.950), (3, 1.318), (10, 1.741), (1000, 2.0)])
def test_gem_of_worked_values(p: float, expected: float) -> None:
    assert F.generalised_mean(column([1.0, 0.5, 2.0, 0.3]), torch.tensor([float(p)])).item() == pytest.approx(
        expected, abs=3e-3
    )


@pytest.mark.parametrize(
    ("real", "expected"), [([True, True, True, False], [0.5667, 0.4333]), ([True] * 4, [0.45, 0.3375])]
)
def test_masked_mean_of_worked_values(real: list[bool], expected: list[float]) -> None:
    tokens = torch.tensor([[0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.1, 0.05]]).T[None, :, None]
    assert F.average(tokens, torch.tensor([[real]]))[0].tolist() == pytest.approx(expected, abs=1e-4)


MAPS = {
    "first": [[0.2, 0.8, 0.1, 0.9], [0.5, 0.3, 0.7, 0.4], [0.6, 0.1, 0.3, 0.5], [0.4, 0.9, 0.2, 0.8]],
    "second": [[1.2, 0.5, 3.1, 0.8], [0.3, 2.7, 0.1, 1.5], [0.9, 0.4, 2.3, 3.8], [1.1, 0.6, 0.7, 1.2]],
}


@pytest.mark.parametrize(
    ("name", "pool", "expected"),
    [
        ("first", F.local_maximum, [[0.8, 0.9], [0.9, 0.8]]),
        ("first", F.local_average, [[0.45, 0.525], [0.5, 0.45]]),
        ("second", F.local_maximum, [[2.7, 3.1], [1.1, 3.8]]),
    ],
)
def test_local_pooling_of_worked_values(name: str, pool: Callable, expected: list[list[float]]) -> None:
    assert torch.allclose(pool(torch.tensor(MAPS[name])[None, None], 2, 2), torch.tensor(expected))


def local_gradient(pool: Callable) -> Tensor:
    """Gradient of the second map for the worked gradient of its output."""
    x = torch.tensor(MAPS["second"])[None, None].requires_grad_()
    pool(x, 2, 2).backward(torch.tensor([[[[0.5, -0.3], [0.2, -0.1]]]]))
    assert x.grad is not None
    return x.grad[0, 0]


def test_the_gradient_of_local_max_goes_to_the_winners() -> None:
    expected = torch.zeros(4, 4)
    expected[1, 1], expected[0, 2], expected[3, 0], expected[2, 3] = 0.5, -0.3, 0.2, -0.1
    assert torch.equal(local_gradient(F.local_maximum), expected)


def test_the_gradient_of_local_average_is_shared_by_the_window() -> None:
    shares = torch.tensor([[0.5, -0.3], [0.2, -0.1]]) / 4
    assert torch.allclose(local_gradient(F.local_average), shares.repeat_interleave(2, 0).repeat_interleave(2, 1))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_local_pooling_has_the_worked_size(height: int, width: int, kernel: int, stride: int) -> None:
    if kernel <= min(height, width):
        size = ((height - kernel) // stride + 1, (width - kernel) // stride + 1)
        assert F.local_maximum(torch.rand(1, 1, height, width), kernel, stride).shape[2:] == size


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_adaptive_pooling_by_matrices_is_pytorchs(height: int, width: int, size: int) -> None:
    x, real = torch.randn(2, 3, height, width), torch.ones(2, height, width, dtype=torch.bool)
    average, maximum = F.adaptive_average(x, size, real), F.adaptive_maximum(x, size, real)
    assert torch.allclose(average, torch.nn.functional.adaptive_avg_pool2d(x, size), atol=1e-6)
    assert torch.equal(maximum, torch.nn.functional.adaptive_max_pool2d(x, size))


@given(st.integers(1, 9), st.integers(1, 9))
def test_rmac_is_the_sum_of_its_regions_directions(height: int, width: int) -> None:
    x = torch.rand(2, 3, height, width)
    assert torch.allclose(F.regional_maximum(x, 3), F.regional_mean(x, 3, F.maximum), atol=1e-6)


@pytest.mark.parametrize(
    ("length", "covered"), [(7, [[0, 1, 2, 3], [3, 4, 5, 6]]), (6, [[0, 1, 2], [3, 4, 5]]), (1, [[0], [0]])]
)
def test_adaptive_windows_of_worked_values(length: int, covered: list[list[int]]) -> None:
    windows = F.windows(length, 2, torch.arange(length))
    assert [row.nonzero().flatten().tolist() for row in windows] == covered


@pytest.mark.parametrize("reduce", ["average", "max"])
def test_a_pyramid_begins_with_the_whole_map(reduce: str) -> None:
    x = torch.rand(2, 4, 5, 6)
    whole = {"average": F.average, "max": F.maximum}[reduce](x)
    assert torch.allclose(SpatialPyramid(4, reduce=reduce)(Features(x))[:, :4], whole)


@pytest.mark.parametrize("reduce", ["average", "max"])
def test_a_padded_pyramid_is_that_of_the_map_alone(reduce: str) -> None:
    pooling, x = SpatialPyramid(4, reduce=reduce), torch.rand(2, 4, 5, 6)
    assert torch.allclose(pooling(padded(x, 8, 9, fill=50.0)), pooling(Features(x)), atol=1e-6)


@pytest.mark.parametrize("options", [{"sizes": []}, {"sizes": [0]}, {"sizes": [1.5]}, {"reduce": "sum"}])
def test_a_pyramid_of_no_grid_is_refused(options: dict) -> None:
    with pytest.raises(InputError, match="got"):
        SpatialPyramid(8, **options)


def test_gradient_of_the_average_is_spread_evenly() -> None:
    x = torch.rand(1, 1, 3, 4, requires_grad=True)
    F.average(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.full_like(x, 1 / 12))


def test_gradient_of_the_maximum_is_at_the_winner_alone() -> None:
    x = column([2.0, 5.0, 1.0]).requires_grad_()
    F.maximum(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "options", [{}, {"depthwise": True}, {"bottleneck": 2}, {"kernel": 2, "depth": 3}], ids=lambda o: str(o)
)
def test_strided_conv_gradients_agree_with_differences(options: dict) -> None:
    pooling = shaken(StridedConv(4, **options)).double()
    x = torch.rand(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pooling(Features(x)), (x,))


@given(st.floats(1, 12), st.integers(1, 5), st.integers(1, 5))
def test_gem_lies_between_average_and_maximum(p: float, height: int, width: int) -> None:
    x = torch.rand(2, 3, height, width)
    pooled = F.generalised_mean(x, torch.tensor([p]))
    assert (pooled >= F.average(x) - 1e-5).all()
    assert (pooled <= F.maximum(x) + 1e-5).all()


def test_gem_at_p_1_is_the_average() -> None:
    x = torch.rand(2, 8, 4, 5)
    assert torch.allclose(GeM(8, p=1)(Features(x)), GlobalAverage(8)(Features(x)), atol=1e-6)


def test_gem_per_channel_learns_one_p_for_each() -> None:
    assert GeM(6, p=2.5, per_channel=True).p.tolist() == [2.5] * 6


@pytest.mark.parametrize("options", [{}, {"depthwise": True}, {"bottleneck": 3}, {"kernel": 2}, {"kernel": 5}])
def test_an_untrained_strided_conv_averages_each_channel(options: dict) -> None:
    constant = torch.tensor([-2.0, 0.5, 3.0, 1.0, 0.0, 7.0])[None, :, None, None].expand(1, 6, 9, 7)
    assert torch.allclose(StridedConv(6, **options)(Features(constant)), constant[:, :, 0, 0], atol=1e-5)


def test_each_untrained_layer_is_the_average_of_its_window() -> None:
    x = torch.rand(1, 2, 7, 7)
    pooled = StridedConv(2, kernel=3, depth=1)(Features(x))
    windows = torch.nn.functional.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False)
    assert torch.allclose(pooled, windows.mean((-2, -1)), atol=1e-6)


@pytest.mark.parametrize("options", [{"kernel": 1}, {"depth": 0}, {"bottleneck": 8}, {"bottleneck": 2, "depthwise": 1}])
def test_strided_conv_refuses_options_that_make_no_sense(options: dict) -> None:
    with pytest.raises(ValueError, match="got"):
        StridedConv(8, **options)


@each_pooling
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 7), (5, 12)])
def test_any_map_gives_one_size_of_vector(yaml: Path, height: int, width: int) -> None:
    pooling = build(load_yaml(yaml), dim=8)
    assert pooling(alone(torch.rand(3, 8, height, width))).shape == (3, pooling.out_dim)


@each_pooling
def test_a_padded_map_pools_as_the_map_alone(yaml: Path) -> None:
    pooling = shaken(build(load_yaml(yaml), dim=4))
    x = torch.rand(2, 4, 5, 6)
    assert torch.allclose(pooling(padded(x, 9, 8, fill=50.0)), pooling(alone(x)), atol=1e-5)


@each_pooling
def test_what_stands_in_the_padding_has_no_gradient(yaml: Path) -> None:
    features = padded(torch.rand(1, 4, 3, 3), 5, 5, fill=2.0)
    x = features.patches.clone().requires_grad_()
    shaken(build(load_yaml(yaml), dim=4))(
        Features(x, x[:, :, :3, :3].mean((-2, -1))[:, None], features.mask)
    ).sum().backward()
    assert x.grad is not None
    assert (x.grad[:, :, 3:] == 0).all() and x.grad[:, :, :3, :3].abs().sum() > 0


@each_pooling
def test_channels_last_and_non_contiguous_maps_pool_alike(yaml: Path) -> None:
    pooling = build(load_yaml(yaml), dim=4).eval()
    x = torch.rand(2, 4, 6, 5)
    expected = pooling(alone(x))
    assert torch.allclose(pooling(alone(x.to(memory_format=torch.channels_last))), expected, atol=1e-6)
    assert torch.allclose(pooling(alone(x.transpose(2, 3).contiguous().transpose(2, 3))), expected, atol=1e-6)


@each_pooling
def test_autocast_leaves_the_result_in_float32(yaml: Path) -> None:
    pooling = build(load_yaml(yaml), dim=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert pooling(alone(torch.rand(2, 4, 6, 5).bfloat16())).dtype == torch.float32


@each_pooling
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_activations_up_to_1e4_give_finite_values_and_gradients(yaml: Path, dtype: torch.dtype, autocast: bool) -> None:
    pooling = shaken(build(load_yaml(yaml), dim=4))
    x = (torch.rand(2, 4, 5, 6) * 1e4).to(dtype)
    x[:, 0] = 0
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        pooled = pooling(alone(x))
    pooled.sum().backward()
    assert x.grad is not None and pooled.isfinite().all() and x.grad.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in pooling.parameters())


@each_pooling
def test_float16_features_give_float64s_descriptor(yaml: Path) -> None:
    pooling, x = shaken(build(load_yaml(yaml), dim=4)), (torch.rand(2, 4, 7, 7) * 100).half()
    half = pooling(Features(x, x[:, None, :, 0, 0])).double()
    exact = pooling.double()(Features(x.double(), x[:, None, :, 0, 0].double()))
    assert (half - exact).norm() <= 1e-3 * exact.norm()


@each_pooling
def test_an_item_pools_in_a_batch_as_by_itself(yaml: Path) -> None:
    pooling, x = shaken(build(load_yaml(yaml), dim=4)), torch.rand(3, 4, 5, 6)
    assert torch.allclose(pooling(alone(x))[1:2], pooling(alone(x[1:2])), atol=1e-6)


@pytest.mark.parametrize("name", ["mean_token", "max_token", "last_token", "cls", "attention", "gated", "gem", "gap"])
def test_one_token_is_its_own_pooling(name: str) -> None:
    pooling = build(load_yaml(CONFIGS / "pooling" / f"{name}.yaml"), dim=4)
    x = torch.rand(2, 4, 1, 1)
    features = Features(x, x.flatten(1)[:, None]) if name == "cls" else Features(x)
    assert torch.allclose(pooling(features), x.flatten(1), atol=1e-6)


TOKENS = torch.tensor([[0.5, 0.3], [0.8, -0.2], [0.1, 0.9], [-0.3, 0.5]])


def sequence(mask: list[bool] | None = None) -> Features:
    """The worked tokens h0 (the class token) to h3, the patches along a row."""
    real = None if mask is None else torch.tensor(mask)[None, None]
    return Features(TOKENS[1:].T[None, :, None], TOKENS[None, :1], real)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean_token", [0.275, 0.375]),
        ("max_token", [0.8, 0.9]),
        ("cls", [0.5, 0.3]),
        ("last_token", [-0.3, 0.5]),
        ("attention", [0.275, 0.375]),
        ("gated", [0.275, 0.375]),
    ],
)
def test_token_poolings_of_worked_values(name: str, expected: list[float]) -> None:
    pooling = build(load_yaml(CONFIGS / "pooling" / f"{name}.yaml"), dim=2, prefix=1)
    assert pooling(sequence())[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_mean_of_worked_tokens_in_three_dimensions() -> None:
    tokens = torch.tensor([[0.5, 0.3, -0.1], [0.8, -0.2, 0.4], [0.1, 0.9, 0.3], [-0.3, 0.5, 0.6]])
    pooled = MeanToken(3)(Features(tokens[1:].T[None, :, None], tokens[None, :1]))
    assert pooled[0].tolist() == pytest.approx([0.275, 0.375, 0.3])


def test_attention_of_worked_values() -> None:
    assert F.attention(TOKENS[None], torch.tensor([[0.7, -0.5]]))[0, 0].tolist() == pytest.approx(
        [0.404, 0.254], abs=1e-3
    )


def test_the_last_token_is_the_last_real_one() -> None:
    assert F.last_token(sequence([True, True, False]).tokens, sequence([True, True, False]).token_mask)[0].tolist() == (
        pytest.approx([0.1, 0.9])
    )


def test_gates_weigh_the_tokens() -> None:
    weight = torch.tensor([100.0, 0.0])
    open_gates = F.gated(TOKENS[None], weight, torch.tensor([-65.0]))[0]
    assert torch.allclose(open_gates, TOKENS[1], atol=0.02)


@pytest.mark.parametrize(("concatenate", "size"), [(True, 12), (False, 4)])
def test_several_queries_are_concatenated_or_averaged(concatenate: bool, size: int) -> None:
    pooling = Attention(4, seeds=3, concatenate=concatenate)
    assert pooling(alone(torch.rand(2, 4, 3, 3))).shape == (2, size) and pooling.out_dim == size


def test_cls_on_a_backbone_without_a_class_token_is_refused() -> None:
    with pytest.raises(InputError, match="needs a backbone with a class token"):
        CLS(8, prefix=0)


@pytest.mark.parametrize(("sharpness", "pooled"), [(1e-3, 0.3), (1e4, 0.8)])
def test_log_sum_exp_goes_from_average_to_maximum(sharpness: float, pooled: float) -> None:
    x = column([0.1, 0.2, 0.8, 0.1])
    assert F.log_sum_exp(x, sharpness).item() == pytest.approx(pooled, abs=1e-3)


@pytest.mark.parametrize(("height", "width", "count"), [(7, 7, 14), (7, 10, 20), (10, 7, 20), (1, 1, 14)])
def test_regions_of_rmac_lie_inside_and_overlap(height: int, width: int, count: int) -> None:
    squares = F.regions(height, width)
    assert len(squares) == count
    assert all(0 <= t <= height - side and 0 <= left <= width - side for t, left, side in squares)


LARGE = {"netvlad", "salad", "convap"}  # of thousands of values: made small in test_aggregations.py


@pytest.mark.parametrize("yaml", [y for y in YAMLS if y.stem not in LARGE], ids=lambda path: path.stem)
def test_gradients_agree_with_differences(yaml: Path) -> None:
    pooling = shaken(build(load_yaml(yaml), dim=3)).double()
    x = (torch.rand(2, 3, 3, 4, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: pooling(alone(x)), (x, *pooling.parameters()))


ORDERLESS = ["gap", "max", "gem", "cls_gem", "log_sum_exp", "cls", "mean_token", "max_token", "attention", "gated"]


@pytest.mark.parametrize("name", ORDERLESS)
def test_order_of_positions_does_not_matter(name: str) -> None:
    pooling = shaken(build(load_yaml(CONFIGS / "pooling" / f"{name}.yaml"), dim=4))
    x = torch.rand(2, 4, 3, 5)
    shuffled = x.flatten(2)[:, :, torch.randperm(15)].reshape(x.shape)
    assert torch.allclose(pooling(alone(x)), pooling(alone(shuffled)), atol=1e-6)


@pytest.fixture(scope="module", params=["test_resnet", "test_vit"])
def batched(request: pytest.FixtureRequest) -> tuple[Features, list[Features]]:
    """What a network gives of 16 photos, and of each by itself."""
    torch.manual_seed(0)
    network, photos = TimmBackbone(request.param).eval(), torch.randn(16, 3, 160, 160)
    with torch.no_grad():
        return network(photos), [network(photo[None]) for photo in photos]


@pytest.mark.parametrize("yaml", sorted((CONFIGS / "pooling").glob("*.yaml")), ids=lambda path: path.stem)
@torch.no_grad()
def test_batching_changes_a_unit_row_by_at_most_a_millionth(yaml: Path, batched: tuple) -> None:
    together, each = batched
    if not together.prefix.shape[1] and yaml.stem in ("cls", "cls_gem"):
        pytest.skip("a network without a class token")
    size = together.patches.shape[-2:]
    fixed = dict(zip(("height", "width"), size, strict=True)) if yaml.stem in FIXED else {}
    pooling = shaken(build(load_yaml(yaml), dim=together.patches.shape[1], **fixed))
    rows = torch.nn.functional.normalize(pooling(together), dim=-1)
    alone = torch.cat([torch.nn.functional.normalize(pooling(one), dim=-1) for one in each])
    assert (rows - alone).abs().max() <= 1e-6
