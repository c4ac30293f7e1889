"""Whitening does to descriptors what its formulas say, at any size, and refuses what it cannot do."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import save_file

from retrieval import config, embedder, evaluation, extraction, heads, vocabulary, whitening
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.data.images import Photo, full_size
from retrieval.data.pairs import FolderPairs, SfM120kWhitening
from retrieval.descriptors import Descriptors
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.heads import Whitening
from retrieval.whitening import PCA, Learned, Published, fit, fit_learned, fit_pca

D = 6
LEFT, RIGHT = np.arange(0, 40), np.arange(40, 80)


def drawn(seed: int, count: int = 200, dim: int = D) -> NDArray[np.float64]:
    """Unit rows that are correlated and off centre; row i + 40 resembles row i."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)) + 2 * rng.normal(size=dim)
    rows[40:80] = rows[:40] + 0.3 * rng.normal(size=(40, dim)) @ rng.normal(size=(dim, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def unit(rows: NDArray) -> NDArray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def before_l2(layer: Whitening, rows: NDArray) -> NDArray[np.float64]:
    weight, bias = (tensor.detach().double().numpy() for tensor in (layer.weight, layer.bias))
    return rows @ weight.T + bias


def slow_learned(rows: NDArray) -> NDArray[np.float64]:
    """The protocol a pair and a row at a time, with general eigenvectors; signs are those that eig happens to give."""
    mean = sum(rows[i] for i in LEFT) / len(LEFT)
    within = sum(np.outer(rows[q] - rows[p], rows[q] - rows[p]) for q, p in zip(LEFT, RIGHT, strict=True)) / len(LEFT)
    projection = np.linalg.inv(np.linalg.cholesky(within))
    projected = [projection @ (row - mean) for row in rows]
    values, vectors = np.linalg.eig(sum(np.outer(row, row) for row in projected))
    return np.stack([vectors[:, np.argsort(-values)].T @ row for row in projected])


@given(seed=st.integers(0, 1000), dim=st.integers(1, D))
def test_learned_whitening_is_the_protocols(seed: int, dim: int) -> None:
    rows = drawn(seed)
    expected, found = unit(slow_learned(rows)[:, :dim]), fit_learned(rows, LEFT, RIGHT, dim)(rows)
    signs = np.sign((expected * found).sum(axis=0))
    assert found.shape == (200, dim) and np.allclose(found, expected * signs, atol=2e-4)


@given(seed=st.integers(0, 1000))
def test_learned_whitening_makes_differences_within_pairs_white(seed: int) -> None:
    rows = drawn(seed)
    out = before_l2(fit_learned(rows, LEFT, RIGHT), rows)
    within = out[LEFT] - out[RIGHT]
    assert np.allclose(within.T @ within / len(LEFT), np.eye(D), atol=1e-4)


@given(seed=st.integers(0, 1000))
def test_learned_whitening_centres_on_the_queries_and_sorts_by_spread(seed: int) -> None:
    rows = drawn(seed)
    out = before_l2(fit_learned(rows, LEFT, RIGHT), rows)
    moment = out.T @ out / len(rows)
    assert np.allclose(out[LEFT].mean(axis=0), 0, atol=1e-3)
    assert np.all(np.diff(moment.diagonal()) <= 1e-4) and np.allclose(
        moment, np.diag(moment.diagonal()), atol=1e-4 * moment.max()
    )


@given(seed=st.integers(0, 1000))
def test_pca_gives_identity_covariance(seed: int) -> None:
    rows = drawn(seed)
    out = before_l2(fit_pca(rows), rows)
    assert np.allclose(out.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(np.cov(out.T, bias=True), np.eye(D), atol=1e-3)


@given(seed=st.integers(0, 1000), shrinkage=st.floats(0, 1))
def test_shrinkage_leaves_a_power_of_each_spread(seed: int, shrinkage: float) -> None:
    rows = drawn(seed)
    spread = np.sort(np.linalg.eigvalsh(np.cov(rows.T, bias=True)))[::-1]
    out = before_l2(fit_pca(rows, shrinkage=shrinkage), rows)
    assert np.allclose(np.cov(out.T, bias=True), np.diag(spread ** (1 - shrinkage)), atol=1e-3)


@given(seed=st.integers(0, 1000), dim=st.integers(1, D))
def test_fewer_dimensions_are_the_first_of_all(seed: int, dim: int) -> None:
    rows = drawn(seed)
    for some, every in [
        (fit_pca(rows, dim), fit_pca(rows)),
        (fit_learned(rows, LEFT, RIGHT, dim), fit_learned(rows, LEFT, RIGHT)),
    ]:
        assert torch.equal(some.weight, every.weight[:dim]) and torch.equal(some.bias, every.bias[:dim])
        assert torch.equal(every.first(dim).weight, some.weight)


def test_blocks_and_shards_give_what_one_array_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = drawn(0).astype(np.float32)
    whole = fit_pca(rows), fit_learned(rows, LEFT, RIGHT)
    np.save(tmp_path / "rest.npy", rows[90:])
    monkeypatch.setattr(fit, "BLOCK", 7)
    held = Descriptors([rows[:90], tmp_path / "rest.npy"])
    for one, other in zip(whole, (fit_pca(held), fit_learned(held, LEFT, RIGHT)), strict=True):
        assert torch.allclose(one.weight, other.weight, atol=1e-4) and torch.allclose(one.bias, other.bias, atol=1e-4)


def test_each_direction_points_where_its_largest_part_is_positive() -> None:
    _, vectors = whitening.eigen(np.cov(drawn(0).T))
    assert (vectors[np.abs(vectors).argmax(axis=0), range(D)] > 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_give_arrays_and_tensors_tensors(dtype: type) -> None:
    rows, layer = drawn(0).astype(dtype), fit_pca(drawn(0), 4)
    out = layer(rows)
    assert isinstance(out, np.ndarray) and out.dtype == dtype and np.allclose(np.linalg.norm(out, axis=1), 1)
    assert np.allclose(layer(rows[::-1]), out[::-1], atol=1e-5)
    tensors = layer(torch.from_numpy(rows))
    assert isinstance(tensors, torch.Tensor) and np.array_equal(tensors.detach().numpy(), out)


def test_descriptors_are_mapped_by_it() -> None:
    rows, layer = drawn(0).astype(np.float32), fit_pca(drawn(0), 4)
    mapped = Descriptors([rows]).mapped(layer, layer.out_features)
    assert mapped.dim == 4 and np.array_equal(mapped.take([3, 1]), layer(rows[[3, 1]]))


@pytest.mark.parametrize("dim", [0, -1, D + 1, 2.5])
def test_dimensions_that_there_are_not_are_refused(dim: int) -> None:
    for fitted in (lambda: fit_pca(drawn(0), dim), lambda: fit_learned(drawn(0), LEFT, RIGHT, dim)):
        with pytest.raises(InputError, match=f"keeps 1 to 6 dimensions here, got {dim}"):
            fitted()


@pytest.mark.parametrize("count", [2, 4, 6])
def test_pca_refuses_dimensions_beyond_the_rank_and_names_it(count: int) -> None:
    rows = drawn(0)[:count].astype(np.float32)
    with pytest.raises(
        InputError, match=f"{count} descriptors spread in {count - 1} of 6: accepted are 1 to {count - 1}"
    ):
        fit_pca(rows)
    assert np.isfinite(fit_pca(rows, count - 1)(rows)).all()


def test_pca_refuses_a_direction_that_rounding_alone_fills() -> None:
    rows = drawn(0)
    rows[:, 5] = rows[:, 0] + rows[:, 1]
    with pytest.raises(InputError, match="spread in 5 of 6"):
        fit_pca(rows.astype(np.float32))


@pytest.mark.parametrize("pairs", [1, 3, 5])
def test_learned_whitening_of_few_pairs_warns_and_stays_finite(pairs: int) -> None:
    rows = drawn(0)
    with pytest.warns(UserWarning, match=f"{pairs} pairs do not span 6 dimensions; 1e-10 was added"):
        layer = fit_learned(rows, LEFT[:pairs], RIGHT[:pairs])
    assert np.isfinite(layer(rows)).all()


def test_a_dead_dimension_is_regularised_as_the_protocol_does() -> None:
    rows = drawn(0)
    rows[:, 2] = 0
    with pytest.warns(UserWarning, match="1e-10 was added"):
        out = fit_learned(rows, LEFT, RIGHT)(rows)
    alive = fit_learned(np.delete(rows, 2, axis=1), LEFT, RIGHT)(np.delete(rows, 2, axis=1))
    assert np.allclose(np.abs(out[:, :5]), np.abs(alive), atol=1e-3) and np.allclose(out[:, 5], 0, atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused(value: float) -> None:
    rows = drawn(0)
    rows[7, 2] = value
    for fitted in (lambda: fit_pca(rows), lambda: fit_learned(rows, LEFT, RIGHT)):
        with pytest.raises(InputError, match="must be finite to whiten them, row 7 is not"):
            fitted()


@pytest.mark.parametrize(
    ("queries", "positives", "said"),
    [
        ([0, 1], [2], "each query needs one positive, and one pair is the least: got 2 and 1"),
        ([], [], "list of row numbers|one pair is the least"),
        ([0], [200], "positives must be rows 0 to 199, got 200 to 200"),
        ([-1], [0], "queries must be rows 0 to 199, got -1 to -1"),
        ([0.5], [0], "queries must be a list of row numbers, got float64"),
    ],
)
def test_pairs_that_are_none_are_refused(queries: list, positives: list, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fit_learned(drawn(0), queries, positives)


@pytest.mark.parametrize("shrinkage", [-0.1, 1.5])
def test_a_shrinkage_outside_its_range_is_refused(shrinkage: float) -> None:
    with pytest.raises(InputError, match=f"between 0 .only rotates. and 1 .whitens., got {shrinkage}"):
        fit_pca(drawn(0), shrinkage=shrinkage)


def test_a_saved_whitening_loads_with_what_it_was_fitted_on(tmp_path: Path) -> None:
    layer = fit_pca(drawn(0), 4)
    layer.label = "pca 4, folder train (200 photos)"
    whitening.save(layer, tmp_path / "w.safetensors")
    again = whitening.load(tmp_path / "w.safetensors")
    assert torch.equal(again.weight, layer.weight) and torch.equal(again.bias, layer.bias)
    assert again.label == layer.label


def test_a_file_that_is_no_whitening_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, tmp_path / "unlike.safetensors")
    for name, said in (("text", "holds no whitening"), ("unlike", r"has \(3, 2\) and \(2,\)"), ("absent", "no whiten")):
        with pytest.raises(InputError, match=said):
            whitening.load(tmp_path / f"{name}.safetensors")


def described(weights: Path | None, out_dim: int | None = None) -> DictConfig:
    groups = {"backbone": "timm", "pooling": "gem", "head": "whitening"}
    cfg = OmegaConf.create({group: load_yaml(CONFIGS / group / f"{name}.yaml") for group, name in groups.items()})
    cfg.backbone.name, cfg.head.weights, cfg.head.out_dim = "test_resnet", weights and str(weights), out_dim
    return cfg


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A whitening of test_resnet's 96 dimensions."""
    whitening.save(fit_pca(drawn(0, 300, 96)), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("out_dim", [None, 5])
def test_the_layer_in_a_network_is_the_function_after_it(stored: Path, out_dim: int | None) -> None:
    cfg = described(stored, out_dim)
    model = embedder.from_config(cfg).eval()
    plain = embedder.Embedder(model.backbone, model.pooling, torch.nn.Identity())
    images = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        expected = whitening.load(stored).first(out_dim)(plain(images).numpy())
        assert np.allclose(model(images).numpy(), expected, atol=1e-5)
    assert model.dim == (out_dim or 96)


@pytest.mark.parametrize("out_dim", [None, 5])
def test_a_run_with_the_layer_loads_without_its_file(stored: Path, tmp_path: Path, out_dim: int | None) -> None:
    cfg, images = described(stored, out_dim), torch.rand(1, 3, 64, 64)
    model = embedder.from_config(cfg).eval()
    embedder.save(model, cfg, tmp_path / "run")
    stored.unlink()
    assert torch.equal(embedder.load(tmp_path / "run")(images), model(images))


def test_the_layer_can_be_trained(stored: Path) -> None:
    model = embedder.from_config(described(stored))
    model(torch.rand(2, 3, 64, 64))[0].sum().backward()
    assert isinstance(model.head, Whitening) and model.head.weight.grad.abs().sum() > 0  # pyright: ignore


def test_a_layer_for_other_descriptors_is_refused(stored: Path) -> None:
    with pytest.raises(InputError, match="whitens 96 dimensions, the pooling gives 8"):
        heads.Whitening(8, weights=str(stored))


def unfitted(start: str, out_dim: int, shrinkage: float = 1.0) -> Embedder:
    cfg = described(None, out_dim)
    cfg.head.start, cfg.head.shrinkage = start, shrinkage
    return embedder.from_config(cfg)


def layer(model: Embedder) -> Whitening:
    assert isinstance(model.head, Whitening)
    return model.head


@pytest.mark.parametrize(("start", "shrinkage"), [("learned", 1.0), ("pca", 1.0), ("pca", 0.5)])
@pytest.mark.filterwarnings("ignore:learned whitening")
def test_a_layer_starts_from_what_is_fitted_to_training_photos(photos: Path, start: str, shrinkage: float) -> None:
    model, pairs = unfitted(start, 5, shrinkage), FolderPairs(str(photos))
    plain = Embedder(model.backbone, model.pooling, torch.nn.Identity())
    rows = extraction.describe(plain, pairs.photos, 48)
    whitening.initialise(model, pairs.photos, pairs.queries, pairs.positives, 48, Extract(scales=(1, 0.5), workers=0))
    learned = start == "learned"
    expected = fit_learned(rows, pairs.queries, pairs.positives, 5) if learned else fit_pca(rows, 5, shrinkage)
    head = layer(model)
    assert head.fitted and model.training and head.weight.requires_grad
    assert torch.allclose(head.weight, expected.weight) and torch.allclose(head.bias, expected.bias)
    assert np.allclose(extraction.describe(model, pairs.photos, 48), expected(rows), atol=1e-4)


def test_a_layer_says_what_it_was_fitted_to(photos: Path) -> None:
    model, pairs = unfitted("pca", 3, 0.5), FolderPairs(str(photos))
    some = np.array([1, 2, 11]), np.array([2, 1, 14])
    whitening.initialise(model, pairs.photos, *some, 48, Extract(workers=0))
    assert layer(model).label == "pca 3 shrinkage=0.5, 3 pairs of 4 training photos at 48 px"


def test_the_photos_of_pairs_alone_are_described(photos: Path) -> None:
    pairs, absent = FolderPairs(str(photos)), Photo("absent.jpg")
    first, second = unfitted("pca", 3), unfitted("pca", 3)
    second.load_state_dict(first.state_dict())
    layer(second).fitted = False
    indices = np.array([0, 3, 9]), np.array([1, 4, 8])
    whitening.initialise(first, pairs.photos, *indices, 48, Extract(workers=0))
    listed = [photo if i in np.stack(indices) else absent for i, photo in enumerate(pairs.photos)]
    whitening.initialise(second, listed, *indices, 48, Extract(workers=0))
    assert torch.equal(layer(first).weight, layer(second).weight)


def test_a_layer_of_a_file_stays_as_it_is(stored: Path, photos: Path) -> None:
    model, pairs = embedder.from_config(described(stored, 5)), FolderPairs(str(photos))
    whitening.initialise(model, pairs.photos, pairs.queries, pairs.positives, 48, Extract(workers=0))
    assert torch.equal(layer(model).weight, whitening.load(stored).weight[:5])


def test_a_layer_of_more_directions_than_its_photos_span_is_refused_before_they_are_described() -> None:
    with pytest.raises(
        InputError, match=r"PCA whitening of 3 photos knows at most 2 directions of 96: .*head\.out_dim"
    ):
        whitening.initialise(unfitted("pca", 3), [Photo("absent.jpg")] * 3, [0, 1], [1, 2], 48, Extract(workers=0))


@pytest.mark.parametrize(("start", "shrinkage"), [("random", 1.0), ("pca", 1.5)])
def test_a_start_that_is_none_is_refused(start: str, shrinkage: float) -> None:
    said = f"head.start must be learned or pca and head.shrinkage between 0 and 1, got '{start}' and {shrinkage}"
    with pytest.raises(InputError, match=said):
        unfitted(start, 3, shrinkage)


def test_a_layer_that_nothing_was_fitted_to_is_not_judged(photos: Path, tmp_path: Path) -> None:
    words = ["backbone=timm", "backbone.name=test_resnet", "head=whitening", "benchmark=folder"]
    cfg = config.compose("eval", [*words, f"benchmark.folder.root={photos}"], tmp_path / "model")
    with pytest.raises(InputError, match=r"head=whitening is not fitted yet, .*head\.weights=FILE"):
        evaluation.from_config(cfg, set())
    assert not (tmp_path / "model").exists()


def test_a_run_with_a_fitted_layer_loads_and_may_be_judged(photos: Path, tmp_path: Path) -> None:
    cfg, pairs, images = described(None, 4), FolderPairs(str(photos)), torch.rand(1, 3, 64, 64)
    cfg.head.start = "pca"
    model = embedder.from_config(cfg)
    whitening.initialise(model, pairs.photos, pairs.queries, pairs.positives, 48, Extract(workers=0))
    embedder.save(model, cfg, tmp_path / "run")
    again = embedder.load(tmp_path / "run")
    vocabulary.refuse_unfitted(again)
    assert torch.equal(again(images), model.eval()(images))


def test_pairs_of_a_folder_are_two_photos_of_a_landmark_and_the_same_each_time(photos: Path) -> None:
    found = FolderPairs(str(photos), seed=3)
    landmarks = np.array([Path(photo.path).parent.name for photo in found.photos])
    assert found.name.startswith(f"folder {photos.name} (20 photos, ") and list(found.queries) == list(range(20))
    assert (landmarks[found.queries] == landmarks[found.positives]).all()
    assert (found.queries != found.positives).all()
    assert np.array_equal(found.positives, FolderPairs(str(photos), seed=3).positives)
    other = FolderPairs(str(photos), seed=4)
    assert not np.array_equal(found.positives, other.positives) and found.name != other.name


@pytest.fixture
def sfm(tmp_path: Path) -> Path:
    """The published whitening set in small: photos where their names' last six characters say."""
    for folder in ("ef/cd/ab", "21/43/65"):
        (tmp_path / "ims" / folder).mkdir(parents=True)
    for name in ("ef/cd/ab/0000abcdef", "21/43/65/0000654321"):
        Image.new("RGB", (8, 6)).save(tmp_path / "ims" / name, "JPEG")
    pairs = {"cids": ["0000abcdef", "0000654321"], "qidxs": np.array([1]), "pidxs": np.array([0])}
    (tmp_path / "retrieval-SfM-120k-whiten.pkl").write_bytes(pickle.dumps(pairs))
    return tmp_path


def test_the_published_set_is_read_where_it_lies(sfm: Path) -> None:
    cfg = load_yaml(CONFIGS / "whitening_set/sfm120k.yaml")
    cfg.root = str(sfm)
    found = build(cfg)
    assert [full_size(photo) for photo in found.photos] == [(8, 6), (8, 6)]
    assert found.photos[0].path.endswith("ims/ef/cd/ab/0000abcdef") and not found.photos[0].upright
    assert (found.queries.tolist(), found.positives.tolist()) == ([1], [0])
    assert found.name.startswith("retrieval-SfM-120k (2 photos, ")


def test_a_published_set_that_lacks_photos_or_keys_is_refused(sfm: Path, tmp_path: Path) -> None:
    (sfm / "ims/ef/cd/ab/0000abcdef").unlink()
    with pytest.raises(InputError, match="1 photos are not there: .*abcdef.*ims.tar.gz"):
        SfM120kWhitening(str(sfm))
    (sfm / "retrieval-SfM-120k-whiten.pkl").write_bytes(pickle.dumps({"cids": []}))
    with pytest.raises(InputError, match="must hold cids, qidxs and pidxs, it lacks qidxs, pidxs"):
        SfM120kWhitening(str(sfm))
    with pytest.raises(InputError, match="no retrieval-SfM-120k-whiten.pkl in"):
        SfM120kWhitening(str(sfm / "ims"))


def test_configs_fit_to_a_set_and_say_so(photos: Path) -> None:
    cfg = OmegaConf.create({"whitening_set": load_yaml(CONFIGS / "whitening_set/folder.yaml")})
    cfg.whitening_set.root = str(photos)
    labels, rows = [], drawn(1)[:20]
    for name, dim in (("pca", 3), ("pca_shrinkage", 3), ("learned", 4)):
        cfg.whitening = load_yaml(CONFIGS / "whitening" / f"{name}.yaml")
        cfg.whitening.dim = dim
        method, pairs = whitening.from_config(cfg, {}, [1.0]) or (None, None)
        assert method is not None and pairs is not None
        method.check(D, pairs)
        labels.append(method.fit(rows, pairs).label)
    of = FolderPairs(str(photos)).name
    assert labels == [f"pca 3, {of}", f"pca 3 shrinkage=0.7, {of}", f"learned 4, {of}"]


def test_no_whitening_is_none() -> None:
    cfg = OmegaConf.create({"whitening": load_yaml(CONFIGS / "whitening/none.yaml"), "whitening_set": None})
    assert whitening.from_config(cfg, {}, [1.0]) is None


def test_a_whitening_without_a_set_is_refused_with_the_choices() -> None:
    cfg = OmegaConf.create({"whitening": load_yaml(CONFIGS / "whitening/pca.yaml"), "whitening_set": None})
    with pytest.raises(InputError, match="'pca' is fitted to photos: say which, as whitening_set=folder"):
        whitening.from_config(cfg, {}, [1.0])


def test_too_few_photos_for_pca_are_refused_before_they_are_described(photos: Path) -> None:
    with pytest.raises(InputError, match="PCA whitening of 20 photos knows at most 19 directions of 64"):
        PCA().check(64, FolderPairs(str(photos)))
    PCA(19).check(64, FolderPairs(str(photos)))
    with pytest.raises(InputError, match="keeps 1 to 64 dimensions here, got 65"):
        Learned(65).check(64, FolderPairs(str(photos)))


def test_a_published_whitening_is_that_of_the_scales() -> None:
    own = {"ss": fit_pca(drawn(0)), "ms": fit_pca(drawn(1))}
    for key, scales in (("ss", [1.0]), ("ms", [1.0, 0.5])):
        method = build(load_yaml(CONFIGS / "whitening/published.yaml"), whitenings=own, scales=scales)
        assert isinstance(method, Published) and torch.equal(method.fit(None, None).weight, own[key].weight)
    with pytest.raises(InputError, match=r"no whitening for scales \[1\.0\]: accepted are whitening=learned or pca"):
        Published({}, [1.0])
