"""GeM in one autograd function, below zero, and the bounds of p."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from retrieval.features import Features
from retrieval.poolings import CLSGeM, GeM, GlobalAverage, GlobalMax, RegionalGeM, power_mean
from retrieval.poolings import functional as F
from retrieval.poolings.power_mean import PowerMean

NEGATIVE = ["clamp", "shift", "softplus", "signed"]
each_way = pytest.mark.parametrize("negative", NEGATIVE)
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def with_gradients(function, x: Tensor, p: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:  # noqa: ANN001
    """Value, and gradients by x and p of a weighted sum of it."""
    x, p = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(), p.detach().clone().requires_grad_()
    out = function(x, p, 1e-6, mask)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out))
    assert x.grad is not None and p.grad is not None
    return out.detach(), x.grad, p.grad


def lower_right_padding(batch: int, height: int, width: int) -> Tensor:
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[:, : height - 1, : width - 2] = True
    return mask


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels last"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("block", [1, 64, 2**17])
def test_block_by_block_it_is_the_formula(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format, per_channel: bool, masked: bool, block: int
) -> None:
    monkeypatch.setattr(power_mean, "BLOCK", block)
    x = (torch.rand(3, 5, 4, 6, dtype=torch.float64) * 3 - 0.5).to(memory_format=layout)
    p = 1 + 3 * torch.rand(5 if per_channel else 1, dtype=torch.float64)
    mask = lower_right_padding(3, 4, 6) if masked else None
    ours = with_gradients(PowerMean.apply, x, p, mask)
    formula = with_gradients(F.scaled_power_mean, x, p, mask)
    assert all(torch.allclose(one, other, rtol=1e-10) for one, other in zip(ours, formula, strict=True))


def test_the_gradient_keeps_the_maps_memory_layout() -> None:
    x = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    GeM(3)(Features(x)).sum().backward()
    assert x.grad is not None and x.grad.is_contiguous(memory_format=torch.channels_last)


def test_it_keeps_nothing_of_the_maps_size_but_the_map() -> None:
    x, kept = torch.rand(2, 3, 40, 50, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        GeM(3)(Features(x))
    assert sum(t.numel() for t in kept if t.data_ptr() != x.data_ptr()) <= 4 * 2 * 3


def test_what_the_padding_holds_reaches_neither_value_nor_gradient() -> None:
    x, p, mask = torch.rand(2, 3, 4, 6), torch.tensor([2.5]), lower_right_padding(2, 4, 6)
    clean = with_gradients(PowerMean.apply, x, p, mask)
    x[:, :, ~mask[0]] = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(4)[: int((~mask[0]).sum())]
    assert all(torch.equal(a, b) for a, b in zip(with_gradients(PowerMean.apply, x, p, mask), clean, strict=True))


@each_way
def test_a_nan_in_the_map_is_not_hidden(negative: str) -> None:
    x = torch.rand(1, 2, 3, 3)
    x[0, 1, 1, 1] = torch.nan
    assert GeM(2, negative=negative)(Features(x)).isnan().tolist() == [[False, True]]


@each_way
@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_agree_with_differences_below_zero_too(negative: str, per_channel: bool) -> None:
    x = (torch.rand(2, 3, 3, 4, dtype=torch.float64) * 2 - 0.7).requires_grad_()
    pooling = GeM(3, p=2.7, per_channel=per_channel, negative=negative).double()
    assert torch.autograd.gradcheck(lambda x, _: pooling(Features(x)), (x, pooling.p))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("p", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("top", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@each_way
def test_value_and_gradients_are_finite(
    negative: str, dtype: torch.dtype, top: float, p: float, autocast: bool
) -> None:
    x = (torch.rand(2, 4, 5, 5) * top).to(dtype)
    x[0, 0] = 0
    x.requires_grad_()
    pooling = GeM(4, p=p, negative=negative)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        pooled = pooling(Features(x))
    pooled.sum().backward()
    assert x.grad is not None and pooling.p.grad is not None
    assert pooled.isfinite().all() and x.grad.isfinite().all() and pooling.p.grad.isfinite().all()


@each_way
def test_float16_features_give_float64s_value(negative: str) -> None:
    x = (torch.rand(2, 16, 7, 7) * 1e4).half()
    exact = GeM(16, negative=negative).double()(Features(x.double()))
    assert torch.allclose(GeM(16, negative=negative)(Features(x)).double(), exact, rtol=1e-3)


@pytest.mark.parametrize("negative", ["shift", "signed"])
def test_p_1_is_the_average_whatever_the_signs(negative: str) -> None:
    x = torch.randn(2, 8, 4, 5)
    assert torch.allclose(GeM(8, p=1, negative=negative)(Features(x)), GlobalAverage(8)(Features(x)), atol=1e-5)


def test_shifted_gem_tends_to_the_maximum_of_negative_maps() -> None:
    x = -torch.rand(2, 8, 4, 5)
    pooled = GeM(8, p=1000, negative="shift")(Features(x))
    assert torch.allclose(pooled, GlobalMax(8)(Features(x)), atol=1e-2)


def test_signed_gem_tends_to_the_value_furthest_from_zero() -> None:
    x = torch.tensor([0.5, -3.0, 2.0, 1.0])[None, None, None]
    assert GeM(1, p=200, negative="signed")(Features(x)).item() == pytest.approx(-3, rel=0.01)


@given(st.floats(1, 10))
def test_signed_gem_of_the_opposite_is_the_opposite(p: float) -> None:
    x, power = torch.randn(1, 3, 4, 4), torch.tensor([p])
    assert torch.allclose(F.signed_mean(-x, power), -F.signed_mean(x, power), atol=1e-6)


def test_softplus_gem_tells_maps_below_zero_apart() -> None:
    low, high = torch.full((1, 1, 2, 2), -2.0), torch.full((1, 1, 2, 2), -1.0)
    soft = GeM(1, negative="softplus")
    assert soft(Features(low)) < soft(Features(high))


@each_way
def test_a_masked_map_below_zero_pools_as_the_map_alone(negative: str) -> None:
    x, mask = torch.randn(2, 3, 5, 6), lower_right_padding(2, 5, 6)
    x[:, :, ~mask[0]] = 70.0
    pooling = GeM(3, negative=negative)
    assert torch.allclose(pooling(Features(x, mask=mask)), pooling(Features(x[:, :, :4, :4])), atol=1e-6)


def test_clamping_more_than_half_warns_once() -> None:
    pooling = GeM(2)
    with pytest.warns(UserWarning, match="clamps .* of this backbone's activations.*pooling.negative=shift"):
        pooling(Features(-torch.rand(1, 2, 3, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pooling(Features(-torch.rand(1, 2, 3, 3)))


@pytest.mark.parametrize(("negative", "sign"), [("clamp", 1), ("shift", -1), ("softplus", -1), ("signed", -1)])
def test_nothing_is_said_where_nothing_is_lost(negative: str, sign: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GeM(2, negative=negative)(Features(sign * torch.rand(1, 2, 3, 3).relu()))


def test_padding_is_not_counted_as_clamped() -> None:
    x, mask = torch.rand(1, 2, 3, 4), torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[:, :, 0] = True
    x[:, :, :, 1:] = -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GeM(2)(Features(x, mask=mask))


def test_a_fixed_p_is_not_trained() -> None:
    assert not GeM(4, learned=False).p.requires_grad


def test_p_does_not_fall_below_its_bound() -> None:
    pooling = GeM(4, p=1.2, p_min=1.0)
    torch.optim.SGD([pooling.p], lr=1e3).zero_grad()
    pooling.p.grad = torch.ones(1)
    torch.optim.SGD([pooling.p], lr=1e3).step()
    x = torch.rand(1, 4, 3, 3)
    assert torch.allclose(pooling(Features(x)), GeM(4, p=1)(Features(x)))
    pooling.project()
    assert pooling.p.item() == 1.0


def test_p_leaves_its_bound_again() -> None:
    pooling = GeM(1, p=1.0, p_min=1.0)
    pooling(Features(torch.tensor([[[[0.1, 0.9]]]]))).sum().backward()
    assert pooling.p.grad is not None and pooling.p.grad.item() != 0


@pytest.mark.parametrize(
    "options", [{"p": 0}, {"p": -1}, {"p": float("inf")}, {"eps": 0}, {"p_min": 4}, {"p_min": 0}, {"negative": "abs"}]
)
def test_settings_that_make_no_power_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="got"):
        GeM(8, **options)


def test_regional_gem_tends_to_rmac() -> None:
    x = torch.rand(2, 4, 5, 8)
    rmac = F.regional_maximum(x, 3)
    assert torch.allclose(RegionalGeM(4, p=2000)(Features(x)), rmac, rtol=1e-2)


def test_cls_gem_is_both_of_unit_length() -> None:
    x, cls = torch.rand(2, 4, 3, 3), torch.randn(2, 1, 4)
    pooled = CLSGeM(4)(Features(x, cls))
    assert torch.allclose(pooled[:, :4], torch.nn.functional.normalize(cls[:, 0]), atol=1e-6)
    assert torch.allclose(pooled[:, 4:], torch.nn.functional.normalize(GeM(4)(Features(x))), atol=1e-6)


KERNELS = """
import torch
from retrieval.poolings import power_mean, power_mean_gpu
torch.manual_seed(0)
for layout in (torch.contiguous_format, torch.channels_last):
    for power in (torch.tensor([2.7]), 1 + 3 * torch.rand(70)):
        for masked in (False, True):
            x = (torch.rand(2, 70, 5, 9) * 3 - 0.5).to(memory_format=layout)
            mask = None
            if masked:
                mask = torch.zeros(2, 5, 9, dtype=torch.bool)
                mask[:, :4, :7] = True
                x[:, :, ~mask[0]] = 50.0
            grad = torch.rand(2, 70)
            out, slope = power_mean.blockwise_value(x, power, 1e-6, mask, True)
            expected = out, slope, power_mean.blockwise_gradient(x, power, 1e-6, mask, out, grad)
            value = power_mean_gpu.value(x, power, 1e-6, mask, True)
            got = *value, power_mean_gpu.gradient(x, power, 1e-6, mask, out, grad)
            assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(got, expected)), (layout, masked)
"""


def test_the_gpu_kernels_in_tritons_interpreter_agree_with_the_cpu() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", KERNELS], cwd=root, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


COMMON = {"p": "*fp32", "mask": "*u8", "out": "*fp32", "eps": "fp32", "channels": "i32", "positions": "i32"}
STRIDES = ("item", "channel", "position")


@pytest.mark.parametrize("layout", ["position", "channel"], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kernel", ["value_kernel", "gradient_kernel"])
def test_the_gpu_kernels_compile_without_a_gpu(kernel: str, dtype: str, layout: str) -> None:
    triton = pytest.importorskip("triton")
    from retrieval.poolings import power_mean_gpu

    function = getattr(power_mean_gpu, kernel)
    own = {"x": f"*{dtype}", "dx": f"*{dtype}", "slope": "*fp32", "share": "*fp32", **COMMON}
    strides = {f"{prefix}{stride}": "i32" for prefix in ("", "dx_") for stride in STRIDES}
    settings = {"per_channel": True, "masked": True, "with_slope": True, "rows": 32, "columns": 64}
    fixed = {name: value for name, value in settings.items() if name in function.arg_names}
    fixed |= {name: 1 for name in (layout, f"dx_{layout}") if name in function.arg_names}
    signature = {name: "constexpr" if name in fixed else {**own, **strides}[name] for name in function.arg_names}
    source = triton.compiler.ASTSource(function, signature, fixed)
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    assert triton.compile(source, target=target).asm["cubin"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels last"])
@pytest.mark.parametrize("shape", [(3, 70, 1, 1), (3, 70, 7, 7), (2, 2048, 33, 47)])
def test_a_gpu_gives_the_cpus_numbers(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x, p = torch.rand(shape).to(memory_format=layout), torch.tensor([2.7])
    there = with_gradients(lambda x, p, *rest: F.generalised_mean(x.cuda(), p.cuda(), *rest).cpu(), x, p, None)
    here = with_gradients(F.generalised_mean, x, p, None)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-8) for a, b in zip(there, here, strict=True))
