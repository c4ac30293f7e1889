"""Where a model looked: shares of positions in a similarity."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluation import off_the_shelf
from torch import Tensor

from retrieval import looking
from retrieval.backbones import TimmBackbone
from retrieval.benchmarks.folder import Folder
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.embedder import Embedder
from retrieval.extraction import Extract
from retrieval.features import Features
from retrieval.heads import Whitening
from retrieval.results import shown
from retrieval.tops import Tops

POOLINGS = sorted(path.stem for path in (CONFIGS / "pooling").glob("*.yaml"))
OF_TOKENS = {"attention", "gated", "last_token", "max_token", "mean_token"}  # the class token has a share too
ADD_MORE = {"convap", "log_sum_exp", "mixvpr", "netvlad", "salad"}  # biases, centroids, or not of degree one
WHOLE = [name for name in POOLINGS if name not in {"cls", "cls_gem", *ADD_MORE}]


def model_of(backbone: str, pooling: str) -> Embedder:
    features = TimmBackbone(backbone)
    height, width = features.map_size(64, 64)
    size = {"height": height, "width": width} if pooling == "mixvpr" else {}
    described = {**load_yaml(CONFIGS / "pooling" / f"{pooling}.yaml"), **size}
    return Embedder(features, build(described, dim=features.dim, prefix=features.prefix), torch.nn.Identity()).eval()


def maps(model: Embedder, seed: int = 0) -> list[Features]:
    """Of two images of noise, brighter in one half."""
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).cumsum(3) / 4
    with torch.no_grad():
        return [model.backbone(image[None]) for image in images]


def without_class_token(features: Features) -> Features:
    return Features(features.patches, features.prefix * 0, features.mask)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("pooling", WHOLE)
def test_shares_sum_to_the_similarity(pooling: str, backbone: str) -> None:
    model = model_of(backbone, pooling)
    query, photo = maps(model)
    if pooling in OF_TOKENS:
        query, photo = without_class_token(query), without_class_token(photo)
    found = looking.shares(model.describe, query, photo)
    expected = float((model.describe(query) @ model.describe(photo).mT).detach())
    assert found.similarity == pytest.approx(expected, abs=1e-6)
    assert [float(found.query.sum()), float(found.photo.sum())] == pytest.approx([expected] * 2, abs=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_shares_are_finite_and_as_many_as_positions(pooling: str) -> None:
    model = model_of("test_vit", pooling)
    query, photo = maps(model)
    found = looking.shares(model.describe, query, photo)
    assert found.query.shape == query.patches.shape[2:] and found.photo.isfinite().all()


def test_a_class_token_alone_leaves_the_positions_nothing() -> None:
    model = model_of("test_vit", "cls")
    assert not looking.shares(model.describe, *maps(model)).photo.any()


def test_what_a_class_token_adds_belongs_to_no_position() -> None:
    model = model_of("test_vit", "cls_gem")
    query, photo = maps(model)
    found, width = looking.shares(model.describe, query, photo), model.backbone.dim
    halves = (model.describe(query) * model.describe(photo)).detach()[0].split(width)
    assert float(found.photo.sum()) == pytest.approx(float(halves[1].sum()), abs=1e-5)


@pytest.mark.parametrize("pooling", ["gap", "max", "gem", "rmac", "regional_gem", "spatial_pyramid", "strided_conv"])
def test_padding_has_no_share(pooling: str) -> None:
    model = model_of("test_resnet", pooling)
    query, photo = maps(model)
    mask = torch.ones(1, *photo.patches.shape[2:], dtype=torch.bool)
    mask[:, -1], mask[..., -1] = False, False
    found = looking.shares(model.describe, query, Features(photo.patches, None, mask))
    assert not found.photo[~mask[0]].any() and float(found.photo.sum()) == pytest.approx(found.similarity, abs=1e-5)


def bright(row: int, column: int) -> Features:
    patches = torch.rand(1, 8, 5, 6, generator=torch.Generator().manual_seed(row))
    patches[..., row, column] += 2
    return Features(patches)


def test_the_maximum_looks_at_the_brightest_patch_alone() -> None:
    model = model_of("test_resnet", "max")
    found = looking.shares(model.describe, bright(1, 2), bright(3, 4))
    assert float(found.query[1, 2]) == pytest.approx(found.similarity)
    assert float(found.photo[3, 4]) == pytest.approx(found.similarity)


def test_the_average_shares_by_what_each_position_holds() -> None:
    model = model_of("test_resnet", "gap")
    query, photo = bright(1, 2), bright(3, 4)
    found = looking.shares(model.describe, query, photo)
    mean = photo.patches.mean((2, 3))
    by_hand = torch.einsum("bdhw,bd->hw", photo.patches, model.describe(query)) / 30 / mean.norm()
    assert torch.allclose(found.photo, by_hand.detach(), atol=1e-6)


def test_the_larger_p_is_the_more_the_brightest_patch_counts() -> None:
    model, shares = model_of("test_resnet", "gem"), []
    for p in (1.0, 3.0, 30.0):
        model.pooling.p.data.fill_(p)
        shares.append(float(looking.shares(model.describe, bright(1, 2), bright(3, 4)).photo[3, 4]))
    assert shares == sorted(shares) and shares[-1] > 2 * shares[0]


def test_a_whitening_is_looked_through_and_its_bias_belongs_to_no_position() -> None:
    model, rng = model_of("test_resnet", "gap"), np.random.default_rng(0)
    white = Whitening.of(rng.normal(size=(4, model.dim)), rng.normal(size=4))
    query, photo = maps(model)

    def described(features: Features) -> Tensor:
        return white(model.describe(features))

    found = looking.shares(described, query, photo)
    rows = [model.describe(features)[0].detach() for features in (query, photo)]
    before = [torch.nn.functional.linear(row, white.weight, white.bias).detach() for row in rows]
    bias = float(white.bias.detach() @ before[0]) / float(before[0].norm() * before[1].norm())
    assert float(found.photo.sum()) == pytest.approx(found.similarity - bias, abs=1e-5)


def test_looking_changes_no_value_and_leaves_no_gradient() -> None:
    model = model_of("test_resnet", "gem")
    query, photo = maps(model)
    before = model.describe(query)
    looking.shares(model.describe, query, photo)
    assert torch.equal(model.describe(query), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_of_a_descriptor_that_has_no_gradient_no_position_has_a_share() -> None:
    model = model_of("test_resnet", "gap")
    found = looking.shares(torch.no_grad()(model.describe), *maps(model))
    assert not found.photo.any() and found.similarity > 0


def test_shown_queries_are_looked_at_at_the_largest_resolution_alone(photos: Path, tmp_path: Path) -> None:
    off_the_shelf(photos, tmp_path, "extract.resolutions=[96,48]", "pooling=gap")
    entries = json.loads((tmp_path / "rankings.json").read_text())
    assert {entry["resolution"] for entry in entries if "looked" in entry["top"][0]} == {96}
    for item in (item for entry in entries if entry["resolution"] == 96 for item in entry["top"][: looking.FIRST]):
        assert item["looked"]["similarity"] == pytest.approx(item["score"], abs=1e-4)
        assert np.sum(item["looked"]["photo"]) == pytest.approx(item["score"], abs=1e-3)


def test_a_whitened_evaluation_is_looked_at_through_its_whitening(photos: Path, tmp_path: Path) -> None:
    words = ["whitening=pca", "whitening.dim=4", "whitening_set=folder", f"whitening_set.root={photos}"]
    off_the_shelf(photos, tmp_path, "extract.resolutions=[48]", "pooling=gap", *words)
    for entry in json.loads((tmp_path / "rankings.json").read_text()):
        assert entry["top"][0]["looked"]["similarity"] == pytest.approx(entry["top"][0]["score"], abs=1e-4)


def test_a_model_is_looked_at_as_it_was_found(photos: Path) -> None:
    model = model_of("test_resnet", "salad").train()
    benchmark, extract = Folder(str(photos)), Extract([48], workers=0)
    tops = Tops(np.tile(np.arange(10), (20, 1)), np.ones((20, 10), np.float32))
    entries = [{"top": [{}, {}, {}, {}]} for _ in shown(benchmark)]
    looking.look(entries, model, benchmark, tops, 48, extract)
    assert model.training and [len(item) for item in entries[0]["top"]] == [1, 1, 1, 0]
