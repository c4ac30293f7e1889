"""NetVLAD, SALAD, ConvAP and MixVPR: their formulas, the laws they obey, and how they get centroids and map sizes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_runs import tiny
from torch import Tensor, nn

from retrieval import config, embedder, evaluation, search, training
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.data.folder import read
from retrieval.data.images import Photo
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.features import Features
from retrieval.poolings import SALAD, ConvAP, MixVPR, NetVLAD, aggregations
from retrieval.vocabulary import local_features

OFF_THE_SHELF = ["backbone=timm", "backbone.name=test_resnet", "benchmark=folder", "extract.workers=0"]
SQUARE = ["extract.aspect=square", "extract.resolutions=[64]"]


def small(name: str, dim: int = 4) -> nn.Module:
    """The aggregation with few weights, in evaluation mode."""
    torch.manual_seed(1)
    made = {
        "netvlad": lambda: NetVLAD(dim, clusters=3),
        "salad": lambda: SALAD(dim, clusters=3, cluster_dim=2, token_dim=2),
        "convap": lambda: ConvAP(dim, channels=3),
        "mixvpr": lambda: MixVPR(dim, height=4, width=5, channels=3, depth=1, rows=2),
    }
    return made[name]().eval()


def softer(pooling: nn.Module) -> nn.Module:
    """The NetVLAD with an assignment that is not nearly hard, as it would be after training."""
    if isinstance(pooling, NetVLAD):
        with torch.no_grad():
            pooling.weight /= 50
            pooling.bias /= 50
    return pooling


def padded(x: Tensor, height: int, width: int, fill: float) -> Features:
    larger = torch.full((*x.shape[:2], height, width), fill, dtype=x.dtype)
    mask = torch.zeros(x.shape[0], height, width, dtype=torch.bool)
    larger[:, :, : x.shape[2], : x.shape[3]], mask[:, : x.shape[2], : x.shape[3]] = x, True
    return Features(larger, None, mask)


any_map = pytest.mark.parametrize("name", ["netvlad", "salad", "convap"])
each = pytest.mark.parametrize("name", ["netvlad", "salad", "convap", "mixvpr"])


@pytest.mark.parametrize(("name", "size"), [("netvlad", 64 * 6), ("salad", 8448), ("convap", 2048), ("mixvpr", 4096)])
def test_published_sizes(name: str, size: int) -> None:
    pooling = build(load_yaml(CONFIGS / "pooling" / f"{name}.yaml"), dim=6)
    assert pooling(Features(torch.rand(1, 6, 20, 20))).shape == (1, size) and pooling.out_dim == size


@each
def test_gradients_agree_with_differences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregations, "HIDDEN", 4)
    pooling = softer(small(name, dim=3)).double()
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: pooling(Features(x)), (x, *pooling.parameters()))


@any_map
def test_gradients_of_a_padded_map_agree_with_differences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregations, "HIDDEN", 4)
    pooling, mask = softer(small(name, dim=3)).double(), torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[0, :3, :2], mask[1, :1, :4] = True, True
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pooling(Features(x, None, mask)), (x,))


@any_map
@pytest.mark.parametrize("fill", [7.0, math.inf, math.nan])
def test_nothing_leaks_out_of_the_padding(name: str, fill: float) -> None:
    pooling, x = small(name), torch.rand(2, 4, 3, 4)
    larger = padded(x, 6, 5, fill)
    patches = larger.patches.clone().requires_grad_()
    pooled = pooling(Features(patches, None, larger.mask))
    pooled.square()[:, ::2].sum().backward()
    assert patches.grad is not None and larger.mask is not None
    assert torch.allclose(pooled, pooling(Features(x)), atol=1e-5)
    inside = larger.mask[:, None].expand_as(patches)
    assert (patches.grad[~inside] == 0).all() and patches.grad[inside].isfinite().all()


@any_map
def test_items_of_a_batch_with_paddings_of_their_own_pool_as_alone(name: str) -> None:
    pooling, shapes = small(name), [(3, 4), (5, 2), (6, 6)]
    items = [torch.rand(1, 4, *shape) for shape in shapes]
    batch = [padded(item, 6, 6, 9.0) for item in items]
    masks = torch.cat([one.mask for one in batch if one.mask is not None])
    together = pooling(Features(torch.cat([one.patches for one in batch]), None, masks))
    assert torch.allclose(together, torch.cat([pooling(Features(item)) for item in items]), atol=1e-5)


@each
def test_a_batch_of_one_pools_as_the_item_in_its_batch(name: str) -> None:
    pooling, x = small(name), torch.rand(3, 4, 4, 5)
    assert torch.allclose(pooling(Features(x[1:2])), pooling(Features(x))[1:2], atol=1e-6)


@pytest.mark.parametrize("name", ["netvlad", "salad"])
def test_order_of_positions_does_not_matter(name: str) -> None:
    pooling, x = small(name), torch.rand(2, 4, 3, 5)
    shuffled = x.flatten(2)[:, :, torch.randperm(15)].reshape(x.shape)
    assert torch.allclose(pooling(Features(x)), pooling(Features(shuffled)), atol=1e-5)


@each
@pytest.mark.parametrize("top", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_activations_give_finite_values_and_gradients(name: str, top: float, dtype: torch.dtype) -> None:
    pooling = small(name)
    x = (torch.rand(2, 4, 4, 5) * top).to(dtype).requires_grad_()
    pooled = pooling(Features(x))
    pooled[:, ::2].sum().backward()
    assert x.grad is not None and pooled.dtype == torch.float32 and pooled.isfinite().all()
    assert all(q.grad is not None and q.grad.isfinite().all() for q in pooling.parameters()) and x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["netvlad", "salad", "convap"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (7, 7), (8, 8)])
def test_few_positions_give_finite_values_and_gradients(name: str, height: int, width: int) -> None:
    """Fewer than, or as many as, the 64 clusters of the published defaults."""
    pooling = build(load_yaml(CONFIGS / "pooling" / f"{name}.yaml"), dim=6)
    x = torch.rand(2, 6, height, width, requires_grad=True)
    pooled = pooling(Features(x))
    pooled[:, ::2].sum().backward()
    assert x.grad is not None and pooled.isfinite().all() and x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert all(q.grad is None or q.grad.isfinite().all() for q in pooling.parameters())


@each
def test_bfloat16_autocast_changes_nothing(name: str) -> None:
    pooling, x = small(name), torch.rand(2, 4, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = pooling(Features(x))
    assert torch.equal(inside, pooling(Features(x)))


class Mapped(nn.Module):
    """A pooling as a function of maps and masks."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, patches: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.pooling(Features(patches, None, mask))


SIZES = [(2, 4, 5), (3, 9, 6), (5, 2, 11)]  # batch, height, width
ANY = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
ANY_MASK = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}


@any_map
def test_an_exported_program_with_masks_agrees_at_other_sizes(name: str) -> None:
    eager = Mapped(small(name)).eval()
    example = padded(torch.rand(2, 4, 3, 4), 6, 7, 0.0)
    program = torch.export.export(eager, (example.patches, example.mask), dynamic_shapes=(ANY, ANY_MASK)).module()
    for b, h, w in SIZES:
        one = padded(torch.rand(b, 4, h - 1, w - 2), h, w, 3.0)
        assert torch.allclose(program(one.patches, one.mask), eager(one.patches, one.mask), atol=1e-6)


def test_netvlad_of_worked_values() -> None:
    """Descriptors (1, 0), (0.6, 0.8), centroids (1, 0), (0, 1), assignment by exp(ln 2 * x): shares 2/3, 1/3 and
    2^0.6 / (2^0.6 + 2^0.8) = 0.465."""
    pooling = NetVLAD(2, clusters=2)
    with torch.no_grad():
        pooling.centroids.copy_(torch.eye(2))
        pooling.weight.copy_(math.log(2) * torch.eye(2))
        pooling.bias.zero_()
    pooled = pooling(Features(torch.tensor([[2.0, 0.6], [0.0, 0.8]])[None, :, None]))[0]
    share = 2**0.6 / (2**0.6 + 2**0.8)
    first = np.array([share * (0.6 - 1), share * 0.8])  # the first descriptor lies on the first centroid
    second = np.array([1 / 3 + (1 - share) * 0.6, -1 / 3 + (1 - share) * (0.8 - 1)])
    expected = np.concatenate([v / np.linalg.norm(v) for v in (first, second)]) / math.sqrt(2)
    assert pooled.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_netvlad_with_a_hard_assignment_is_vlad() -> None:
    """Classical VLAD: residuals to the nearest centroid alone (Jegou et al., CVPR 2010), in NumPy."""
    rng = np.random.default_rng(0)
    x, centroids = rng.normal(size=(40, 5)), rng.normal(size=(4, 5)) / 3
    pooling = NetVLAD(5, clusters=4).double()
    with torch.no_grad():
        pooling.centroids.copy_(torch.from_numpy(centroids))
        pooling.weight.copy_(2e5 * pooling.centroids)
        pooling.bias.copy_(-1e5 * pooling.centroids.square().sum(1))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    nearest = ((x[:, None] - centroids) ** 2).sum(2).argmin(1)
    sums = np.stack([(x[nearest == k] - centroids[k]).sum(0) for k in range(4)])
    expected = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).ravel() / 2
    assert np.allclose(pooling(Features(torch.from_numpy(x.T)[None, :, None]))[0].detach(), expected, atol=1e-6)


def test_the_assignment_starts_as_that_of_the_centroids_and_the_data() -> None:
    """alpha: over the data the nearest centroid weighs exp(alpha * mean gap) = 100 times the second."""
    centroids, x = torch.rand(3, 5), aggregations.unit(torch.rand(50, 5))
    pooling = NetVLAD(5, clusters=3)
    pooling.initialise(centroids, x)
    d = ((x[:, None] - centroids) ** 2).sum(2).sort(1).values
    alpha = math.log(100) / (d[:, 1] - d[:, 0]).mean().item()
    squares = -alpha * ((x[:, None] - centroids) ** 2).sum(2)
    logits = x @ pooling.weight.mT + pooling.bias
    assert pooling.fitted and torch.allclose(logits.softmax(1), squares.softmax(1), atol=1e-4)


def test_a_dead_position_adds_its_residual_and_no_gradient() -> None:
    x = torch.rand(1, 4, 1, 3)
    x[..., 1] = 0
    x.requires_grad_()
    small("netvlad")(Features(x))[:, ::2].sum().backward()
    assert x.grad is not None and (x.grad[..., 1] == 0).all() and x.grad.abs().max() < 1e3


def test_centroids_of_kmeans_are_the_means_of_all_vectors_nearest_to_them() -> None:
    """Of all: of more than 256 a cluster faiss would draw a sample."""
    vectors = np.random.default_rng(0).normal(size=(3000, 2)).astype(np.float32)
    found = search.kmeans(vectors, 3, seed=0)
    nearest = ((vectors[:, None] - found) ** 2).sum(2).argmin(1)
    means = np.stack([vectors[nearest == k].mean(0) for k in range(3)])
    assert np.allclose(found, means, atol=1e-3)


def test_kmeans_of_as_many_vectors_as_clusters_is_the_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = search.kmeans(vectors, 5, seed=0)
    assert np.allclose(found[found[:, 0].argsort()], vectors[vectors[:, 0].argsort()], atol=1e-6)


def test_local_features_are_unit_vectors_of_the_photos_a_seed_draws_again(photos: Path, tmp_path: Path) -> None:
    model = embedder.from_config(tiny(photos, tmp_path))
    some = [Photo(str(path)) for path in sorted(photos.rglob("*.jpg"))[:6]]
    first, again, other = (local_features(model, some, 96, 2, seed, Extract(workers=0)) for seed in (3, 3, 4))
    assert first.shape == (12, model.backbone.dim) and np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_training_hands_in_centroids_that_the_loaded_run_keeps(photos: Path, tmp_path: Path) -> None:
    words = ["pooling=netvlad", "pooling.clusters=5", "trainer.max_steps=1", "optimizer.lr=1e-9"]
    cfg = tiny(photos, tmp_path / "run", *words, "evaluate_untrained=true", "data.resolution=96")
    rows = training.fit(cfg)
    torch.manual_seed(0)
    random = embedder.from_config(cfg).pooling.centroids
    held = load_file(tmp_path / "run" / "model.safetensors")["pooling.centroids"]
    model = embedder.load(tmp_path / "run")
    local = local_features(model, read(photos).photos, 96, 100, 0, Extract(workers=0))
    squares = ((local[:, None] - held.numpy()) ** 2).sum(2)
    assert model.pooling.fitted and not torch.allclose(random, held)
    means = np.stack([local[squares.argmin(1) == k].mean(0) for k in range(5)])  # where k-means ends
    assert np.allclose(means, held, atol=1e-3)
    assert [row["untrained"] for row in rows] == [True, False]


def test_a_seed_finds_the_same_centroids(photos: Path, tmp_path: Path) -> None:
    held = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        words = ["pooling=netvlad", "pooling.clusters=3", "trainer.max_steps=1", f"seed={seed}", "data.resolution=96"]
        training.fit(tiny(photos, tmp_path / name, *words))
        held.append(load_file(tmp_path / name / "model.safetensors")["pooling.centroids"])
    assert torch.equal(held[0], held[1]) and not torch.equal(held[0], held[2])


def test_too_few_local_features_are_refused_with_the_counts(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match=r"20 training photos at 32 px gave 20 for pooling\.clusters = 64"):
        training.fit(tiny(photos, out, "pooling=netvlad", "data.resolution=32"))
    assert not out.exists()


def test_netvlad_off_the_shelf_without_centroids_is_refused(photos: Path, tmp_path: Path) -> None:
    cfg = config.compose("eval", [*OFF_THE_SHELF, f"benchmark.folder.root={photos}", "pooling=netvlad"], tmp_path / "m")
    with pytest.raises(InputError, match=r"accepted: run=DIR .* pooling\.centroids=FILE\.npy of shape \(64, \d+\)"):
        evaluation.from_config(cfg, set())
    assert not (tmp_path / "m").exists()


def test_centroids_of_a_file_are_judged_and_the_model_loads_without_the_file(photos: Path, tmp_path: Path) -> None:
    dim = embedder.from_config(tiny(photos, tmp_path)).backbone.dim
    centroids = np.random.default_rng(0).normal(size=(3, dim))
    np.save(tmp_path / "c.npy", centroids)
    words = ["pooling=netvlad", "pooling.clusters=3", f"pooling.centroids={tmp_path / 'c.npy'}"]
    words += ["extract.resolutions=[48]", f"benchmark.folder.root={photos}"]
    cfg = config.compose("eval", [*OFF_THE_SHELF, *words], tmp_path / "model")
    assert evaluation.from_config(cfg, set())
    (tmp_path / "c.npy").unlink()
    held = embedder.load(tmp_path / "model").pooling
    assert held.fitted and np.allclose(held.centroids.detach(), centroids, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 5)), r"of shape \(clusters, channels\) = \(4, 5\), got \(3, 5\)"),
        (np.full((4, 5), np.nan), "needs finite centroids"),
        (np.array([{}], dtype=object), "no .npy of plain floats at"),
        (None, "no file at"),
    ],
)
def test_a_file_that_holds_no_fitting_centroids_is_refused(array: np.ndarray | None, said: str, tmp_path: Path) -> None:
    if array is not None:
        np.save(tmp_path / "c.npy", array)
    with pytest.raises(InputError, match=said):
        NetVLAD(5, clusters=4, centroids=str(tmp_path / "c.npy"))


def test_local_features_that_are_all_alike_are_refused() -> None:
    with pytest.raises(InputError, match="needs local features that differ: all 6"):
        NetVLAD(3, clusters=2).initialise(torch.ones(2, 3), torch.ones(6, 3))


# SALAD


@pytest.mark.parametrize("count", [3, 5, 30])
def test_sinkhorn_meets_the_masses_of_rows_and_columns(count: int) -> None:
    rows = aggregations.masses(torch.full((2,), float(count)), 5)
    plan = aggregations.sinkhorn(torch.randn(2, 6, count), rows, torch.ones(2, count, dtype=torch.bool), 200).exp()
    assert torch.allclose(plan.sum(1), torch.ones(2, count), atol=1e-4)
    assert torch.allclose(plan.sum(2), rows.exp(), atol=1e-3)


@pytest.mark.parametrize(("count", "each", "rest"), [(8.0, 1.0, 4.0), (4.0, 1.0, 0.0), (1.0, 0.25, 0.0)])
def test_masses_are_the_published_ones_and_never_negative(count: float, each: float, rest: float) -> None:
    assert aggregations.masses(torch.tensor([count]), 4).exp()[0].tolist() == pytest.approx([each] * 4 + [rest])


def test_the_published_three_iterations() -> None:
    """Probabilities in place of their logarithms: K of ones and a dustbin of e^1, scaled in turn."""
    scores = torch.cat([torch.randn(1, 3, 7), torch.ones(1, 1, 7)], 1).double()
    plan, rows = scores[0].exp().numpy(), np.array([1.0, 1.0, 1.0, 4.0])
    for _ in range(3):
        plan = plan * (rows / plan.sum(1))[:, None]
        plan = plan / plan.sum(0)
    found = aggregations.sinkhorn(scores, torch.from_numpy(np.log(rows))[None], torch.ones(1, 7, dtype=torch.bool))
    assert np.allclose(found[0].exp(), plan)


def test_masked_positions_carry_no_mass_and_leave_the_plan_of_the_others() -> None:
    mask, scores = torch.tensor([[True, True, False, True, False]]), 5 * torch.randn(1, 4, 5)
    rows = aggregations.masses(mask.sum(1), 3)
    plan = aggregations.sinkhorn(scores, rows, mask).exp()
    real = aggregations.sinkhorn(scores[..., mask[0]], rows, mask[:, mask[0]]).exp()
    assert (plan[..., ~mask[0]] == 0).all() and torch.allclose(plan[..., mask[0]], real, atol=1e-6)


def test_the_global_token_is_the_class_token_or_the_average() -> None:
    pooling, x = small("salad"), torch.rand(2, 4, 3, 3)
    assert torch.allclose(pooling(Features(x)), pooling(Features(x, x.mean((-2, -1))[:, None])), atol=1e-6)
    assert not torch.allclose(pooling(Features(x)), pooling(Features(x, torch.rand(2, 1, 4))), atol=1e-3)


def test_salad_drops_out_while_training_alone() -> None:
    pooling, x = small("salad"), Features(torch.rand(1, 4, 3, 3))
    assert torch.equal(pooling(x), pooling(x))
    assert not torch.equal(pooling.train()(x), pooling(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: NetVLAD(4, clusters=1),
        lambda: SALAD(4, clusters=0),
        lambda: SALAD(4, dropout=1.0),
        lambda: ConvAP(4, size=0),
        lambda: MixVPR(4, height=-1),
        lambda: MixVPR(4, ratio=0.0),
    ],
)
def test_options_that_make_no_sense_are_refused(make) -> None:  # noqa: ANN001
    with pytest.raises(InputError, match="got"):
        make()


# ConvAP


def test_convap_is_a_convolution_then_adaptive_averages() -> None:
    pooling, x = small("convap"), torch.rand(2, 4, 7, 5)
    assert isinstance(pooling, ConvAP)
    convolved = nn.functional.conv2d(x, pooling.project.weight[..., None, None], pooling.project.bias)
    expected = nn.functional.adaptive_avg_pool2d(convolved, 2).flatten(1)
    assert torch.allclose(pooling(Features(x)), expected, atol=1e-6)


# MixVPR


def test_mixvpr_of_its_layers() -> None:
    pooling, x = MixVPR(4, height=2, width=3, channels=3, depth=1, ratio=2, rows=2), torch.rand(1, 4, 2, 3)
    (mixer,) = pooling.mixers
    norm, first, _, last = mixer.mix  # pyright: ignore
    mixed = x[0].flatten(1)
    mixed = mixed + last(first(norm(mixed)).relu())  # (channels, positions)
    channels = pooling.project_channels.weight @ mixed + pooling.project_channels.bias[:, None]
    assert torch.allclose(pooling(Features(x)), (channels @ pooling.project_rows.weight.mT).flatten()[None], atol=1e-6)


def test_mixvpr_refuses_another_map_naming_both() -> None:
    with pytest.raises(InputError, match=r"maps of 4 x 5 positions and takes no other, got 5 x 4"):
        small("mixvpr")(Features(torch.rand(1, 4, 5, 4)))


def test_mixvpr_refuses_a_mask() -> None:
    with pytest.raises(InputError, match="takes no mask"):
        small("mixvpr")(Features(torch.rand(1, 4, 4, 5), None, torch.ones(1, 4, 5, dtype=torch.bool)))


def test_mixvpr_trains_on_the_map_of_the_crops_and_loads_with_it(photos: Path, tmp_path: Path) -> None:
    words = ["pooling=mixvpr", "data.resolution=96", "extract.aspect=square", "extract.resolutions=[96]"]
    training.fit(tiny(photos, tmp_path / "run", *words, "data.validation=2", "trainer.max_epochs=1"))
    described, model = load_yaml(tmp_path / "run" / "config.yaml"), embedder.load(tmp_path / "run")
    assert (described.pooling.height, described.pooling.width) == model.map_size == (3, 3)


@pytest.mark.parametrize("word", ["extract.aspect=native", "extract.scales=[1.0,0.5]", "extract.resolutions=[64,96]"])
def test_photos_of_several_sizes_are_refused_at_the_start(photos: Path, tmp_path: Path, word: str) -> None:
    accepted = r"maps of 2 x 2 positions only.*accepted: extract\.aspect=square extract\.resolutions=\[64\] extract\.s"
    with pytest.raises(InputError, match=accepted):
        training.fit(tiny(photos, tmp_path / "run", "pooling=mixvpr", *SQUARE, word))
    assert not (tmp_path / "run").exists()


def test_crops_that_do_not_fit_a_given_map_are_refused(photos: Path, tmp_path: Path) -> None:
    words = ["pooling=mixvpr", "pooling.height=3", "pooling.width=3", *SQUARE, "extract.resolutions=[96]"]
    said = r"64 gives 2 x 2; accepted: data\.resolution=96, or pooling\.height=2 pooling\.width=2"
    with pytest.raises(InputError, match=said):
        training.fit(tiny(photos, tmp_path / "run", *words))


def test_mixvpr_off_the_shelf_takes_the_map_of_the_resolution_asked_for(photos: Path, tmp_path: Path) -> None:
    words = [*OFF_THE_SHELF, f"benchmark.folder.root={photos}", "pooling=mixvpr", *SQUARE]
    assert evaluation.from_config(config.compose("eval", words, tmp_path / "model"), set())
    assert embedder.load(tmp_path / "model").map_size == (2, 2)


def test_a_photo_is_squeezed_to_the_square_that_mixvpr_takes(photos: Path, tmp_path: Path) -> None:
    model = embedder.from_config(tiny(photos, tmp_path, "pooling=mixvpr"), 64).eval()
    pixels = model.preprocess(Image.new("RGB", (90, 40)), 64)
    assert pixels.shape == (3, 64, 64) and model(pixels[None]).shape == (1, 4096)
