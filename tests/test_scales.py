"""Scales of a photo joined as the papers that are named join them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_embedder import described

from retrieval import embedder, extraction
from retrieval.data import tensors
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.scales import AGGREGATES, aggregation, exponent, multi_scale, rescaled

SCALES = [1.0, 2**-0.5, 0.5]


def model(pooling: str = "gem", backbone: str = "test_resnet", head: str = "none") -> Embedder:
    torch.manual_seed(0)
    return embedder.from_config(described(pooling, backbone, head)).eval()


@torch.no_grad()
def joined(network: Embedder, photos: torch.Tensor, aggregate: str, scales: list[float] = SCALES) -> np.ndarray:
    return multi_scale([network], photos, scales, aggregate)[0].numpy()


@torch.no_grad()
def outputs(network: Embedder, photos: torch.Tensor) -> np.ndarray:
    """(S, B, d): what the head gives of each scale."""
    at_scales = [network.backbone(rescaled(photos, scale, network.backbone.multiple)[0]) for scale in SCALES]
    return np.stack([network.project(features).numpy() for features in at_scales])


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_paper_joins_scales_with_the_learned_p_of_a_plain_gem_network() -> None:
    network, photos = model(), torch.rand(2, 3, 64, 80)
    with torch.no_grad():
        network.pooling.p.fill_(2.0)
    expected = unit(np.sqrt((unit(outputs(network, photos)) ** 2).mean(0)))
    assert np.allclose(joined(network, photos, "paper"), expected, atol=1e-6)


@pytest.mark.parametrize(("pooling", "head"), [("gem", "linear"), ("gap", "none")])
def test_paper_joins_other_networks_by_the_mean(pooling: str, head: str) -> None:
    network, photos = model(pooling, head=head), torch.rand(2, 3, 64, 80)
    assert exponent(network) == 1.0
    assert np.array_equal(joined(network, photos, "paper"), joined(network, photos, "cvnet"))


@pytest.mark.parametrize("head", ["none", "linear"])
def test_cvnet_is_the_direction_of_the_mean_of_unit_vectors(head: str) -> None:
    network, photos = model(head=head), torch.rand(2, 3, 64, 80)
    expected = unit(unit(outputs(network, photos)).mean(0))
    assert np.allclose(joined(network, photos, "cvnet"), expected, atol=1e-6)


def test_mean_weighs_a_scale_by_the_length_of_its_output() -> None:
    network, photos = model(head="linear"), torch.rand(2, 3, 64, 80)
    expected = unit(outputs(network, photos).mean(0))
    assert np.allclose(joined(network, photos, "mean"), expected, atol=1e-6)
    assert not np.allclose(joined(network, photos, "cvnet"), expected, atol=1e-6)


def test_max_is_the_largest_of_the_unit_vectors_in_each_dimension() -> None:
    network, photos = model(head="linear"), torch.rand(2, 3, 64, 80)
    expected = unit(unit(outputs(network, photos)).max(0))
    assert np.allclose(joined(network, photos, "max"), expected, atol=1e-6)


@given(st.sampled_from(sorted(AGGREGATES)), st.sampled_from(["none", "linear"]), st.permutations(SCALES))
def test_the_order_of_scales_changes_nothing(aggregate: str, head: str, scales: list[float]) -> None:
    network, photos = NETWORKS[head], torch.rand(1, 3, 48, 64)
    assert np.allclose(joined(network, photos, aggregate), joined(network, photos, aggregate, scales), atol=1e-5)


NETWORKS = {head: model(head=head) for head in ("none", "linear")}


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_one_scale_is_the_descriptor_itself(aggregate: str) -> None:
    network, photos = model(head="linear"), torch.rand(2, 3, 64, 80)
    with torch.no_grad():
        assert np.array_equal(joined(network, photos, aggregate, [1.0]), network(photos).numpy())


def test_a_scale_above_one_enlarges() -> None:
    assert rescaled(torch.rand(1, 3, 64, 96), 2**0.5, 1)[0].shape[-2:] == (90, 135)


def test_a_vits_scaled_sides_stay_multiples_of_its_patch() -> None:
    assert rescaled(torch.rand(1, 3, 64, 96), 0.6, multiple=16)[0].shape[-2:] == (32, 64)


@pytest.mark.parametrize("multiple", [1, 16])
@pytest.mark.parametrize("scale", [2**0.5, 2**-0.5, 0.5])
def test_a_padded_photo_is_resized_as_if_it_were_alone(scale: float, multiple: int) -> None:
    photos = [torch.rand(3, 48, 64), torch.rand(3, 64, 32)]
    small, sizes = rescaled(*tensors.padded(photos)[:1], scale, multiple, tensors.padded(photos).sizes)
    assert sizes is not None
    for photo, place, (height, width) in zip(photos, small, sizes.tolist(), strict=True):
        alone = rescaled(photo[None], scale, multiple)[0][0]
        assert torch.allclose(place[:, :height, :width], alone, atol=1e-6) and alone.shape[-2:] == (height, width)


def test_another_aggregate_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="must be one of paper, cvnet, mean, max, got 'sum'"):
        aggregation("sum")


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 2), st.sampled_from([1, 14]))
def test_a_side_keeps_a_pixel_at_every_scale(height: int, width: int, scale: float, multiple: int) -> None:
    small, _ = rescaled(torch.rand(1, 3, height * multiple, width * multiple), scale, multiple)
    assert min(small.shape[-2:]) >= multiple and not any(side % multiple for side in small.shape[-2:])


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "vgg11", "convnext_atto"])
def test_a_photo_thinner_than_the_backbone_takes_is_described_at_every_scale(backbone: str, tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((400, 3)).save(tmp_path / "thin.png")
    network = model(backbone=backbone)
    for aspect in ("native", "padded"):
        found = extraction.describe(network, [tmp_path / "thin.png"], 96, SCALES, aspect)
        assert np.isfinite(found).all() and np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
