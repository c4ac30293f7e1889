"""A published checkpoint gives, here, the descriptors of the network that it was saved from; a hostile one nothing."""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from retrieval import embedder, evaluation, published, whitening
from retrieval.config import CONFIGS, compose, load_yaml
from retrieval.data import sources, truth
from retrieval.errors import InputError
from retrieval.poolings import RMAC
from retrieval.scales import multi_scale
from retrieval.subjects import subject

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
CLASSIC, WITH_LAYER = [1, 1 / 2**0.5, 1 / 2], [1, 2**0.5, 1 / 2**0.5]


class Reference(nn.Module):
    """The network of Radenovic et al. (TPAMI 2019), written down from the paper over torchvision's layers."""

    def __init__(self, architecture: str = "resnet18", pooling: str = "gem", layer: int | None = None) -> None:
        super().__init__()
        self.pooling = pooling
        self.features = nn.Sequential(*convolutions(architecture))
        self.dim = 2048 if architecture == "resnet50" else 512
        self.pool = nn.Module()
        if pooling in ("gem", "gemmp"):
            self.pool.p = nn.Parameter(2.5 + torch.rand(1 if pooling == "gem" else self.dim))
        self.whiten = None if layer is None else nn.Linear(self.dim, layer)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.1, 0.1)  # pyright: ignore[reportArgumentType]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # pyright: ignore[reportArgumentType]
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        vectors = F.normalize(self.pooled(self.features(images)), dim=1)
        return F.normalize(self.whiten(vectors), dim=1) if self.whiten else vectors

    def pooled(self, x: Tensor) -> Tensor:
        if self.pooling == "mac":
            return x.amax((2, 3))
        if self.pooling == "spoc":
            return x.mean((2, 3))
        p: Any = self.pool.p
        return x.clamp(min=1e-6).pow(p[:, None, None]).mean((2, 3)).pow(1 / p)

    def at(self, images: Tensor, scales: Sequence[float]) -> Tensor:
        """Section 4.3: the generalised mean over scales, m = p for GeM alone at more than one scale."""
        m = self.pool.p.item() if self.pooling == "gem" and self.whiten is None and len(scales) > 1 else 1
        sizes = [F.interpolate(images, scale_factor=s, mode="bilinear", align_corners=False) for s in scales]
        return F.normalize(torch.stack([self(size).pow(m) for size in sizes]).mean(0).pow(1 / m), dim=1)


def convolutions(architecture: str) -> list[nn.Module]:
    if architecture == "vgg11":
        return list(torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"]))[:-1]
    return list(getattr(torchvision.models, architecture)().children())[:-2]


def checkpoint(network: Reference, architecture: str = "resnet18", **meta: Any) -> dict[str, Any]:
    whitened = network.whiten is not None
    about = {"architecture": architecture, "pooling": network.pooling, "whitening": whitened, "regional": False}
    sizes = {"outputdim": network.dim, "mean": MEAN, "std": STD, "local_whitening": False}
    return {"meta": {**about, **sizes, **meta}, "state_dict": network.state_dict()}


def learned(dim: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"m": rng.normal(size=(dim, 1)).astype(np.float32) / 20, "P": rng.normal(size=(dim, dim)) / 8}


def whitened(vectors: np.ndarray, by: dict[str, np.ndarray]) -> np.ndarray:
    """P (x - m) of each column, then L2."""
    out = by["P"] @ (vectors.T - by["m"])
    return (out / np.linalg.norm(out, axis=0)).T


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(held: Any, **how: Any) -> Path:
        torch.save(held, tmp_path / "net.pth", **how)
        return tmp_path / "net.pth"

    return save


def ours(found: published.Published, images: Tensor, scales: Sequence[float]) -> Tensor:
    with torch.no_grad():
        return multi_scale([found.embedder], images, scales)[0]


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "vgg11"])
def test_gem_gives_the_references_descriptors(saved: Callable[..., Path], architecture: str) -> None:
    reference, images = Reference(architecture), torch.randn(2, 3, 96, 128)
    found = published.load(saved(checkpoint(reference, architecture)))
    for scales in ([1], CLASSIC):
        assert torch.allclose(ours(found, images, scales), reference.at(images, scales), atol=1e-5)
    assert found.scales == pytest.approx(CLASSIC)


@pytest.mark.parametrize("scales", [[1], WITH_LAYER], ids=["one scale", "three scales"])
def test_a_whitening_layer_gives_the_references_descriptors(saved: Callable[..., Path], scales: list[float]) -> None:
    reference, images = Reference(layer=512), torch.randn(2, 3, 96, 128)
    found = published.load(saved(checkpoint(reference)))
    assert torch.allclose(ours(found, images, scales), reference.at(images, scales), atol=1e-5)
    assert found.scales == pytest.approx(WITH_LAYER) and found.embedder.dim == 512


@pytest.mark.parametrize("pooling", ["gemmp", "mac", "spoc"])
def test_other_poolings_give_the_references_descriptors(saved: Callable[..., Path], pooling: str) -> None:
    reference, images = Reference(pooling=pooling), torch.randn(2, 3, 96, 128)
    found = published.load(saved(checkpoint(reference)))
    for scales in ([1], CLASSIC):
        assert torch.allclose(ours(found, images, scales), reference.at(images, scales), atol=1e-5)


def test_its_own_whitening_is_that_of_one_scale_or_of_several(saved: Callable[..., Path], reference: Reference) -> None:
    images = torch.randn(2, 3, 96, 96)
    stored = {"ss": learned(512, 0), "ms": learned(512, 1)}
    found = published.load(saved(checkpoint(reference, Lw={published.WHITENED_ON: stored})))
    for key, scales in (("ss", [1.0]), ("ms", CLASSIC)):
        layer = whitening.Published(found.whitenings, scales).fit(None, None)
        expected = whitened(reference.at(images, scales).double().numpy(), stored[key])
        assert np.allclose(layer(ours(found, images, scales).numpy()), expected, atol=1e-5)


def test_pixels_are_normalised_as_its_meta_says(saved: Callable[..., Path], reference: Reference) -> None:
    backbone = published.load(saved(checkpoint(reference))).embedder.backbone
    assert backbone.mean == pytest.approx(MEAN) and backbone.std == pytest.approx(STD)


@pytest.mark.parametrize("layer", [None, 512])
def test_a_run_of_it_loads_as_any_other(saved: Callable[..., Path], tmp_path: Path, layer: int | None) -> None:
    stored = {published.WHITENED_ON: {"ss": learned(512, 0), "ms": learned(512, 1)}}
    path = saved(checkpoint(Reference(layer=layer), Lw=stored))
    found = published.load(path)
    path.unlink()
    found.save(tmp_path / "run")
    again, images = embedder.load(tmp_path / "run"), torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images), found.embedder(images))
    assert again.backbone.mean == pytest.approx(MEAN)
    kept = whitening.of_run(tmp_path / "run")
    assert kept.keys() == {"ss", "ms"} and torch.equal(kept["ms"].weight, found.whitenings["ms"].weight)
    assert kept["ms"].label == "learned, retrieval-SfM-120k (published)"


def test_its_rows_name_the_checkpoint_and_count_as_trained(saved: Callable[..., Path], tmp_path: Path) -> None:
    first, path = saved(checkpoint(Reference(layer=512))), tmp_path / "other.pth"
    path.write_bytes(first.read_bytes())
    one, other = (subject(published.load(file).cfg, False, "its authors") for file in (first, path))
    assert (one.backbone, one.pooling, one.head, one.options) == ("resnet18", "gem", "whitening", "")
    assert one.trained_on == "as published in net.pth" and one.settings != other.settings


@pytest.mark.parametrize("names", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_numpy_1_and_2_are_read_in_the_older_format(saved: Callable[..., Path], names: str) -> None:
    stored = learned(512, 0)
    held = checkpoint(Reference(), mean=np.array(MEAN), Lw={published.WHITENED_ON: {"ms": stored}})
    path = saved(held, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    assert b"numpy._core.multiarray" in written
    path.write_bytes(written.replace(b"numpy._core.multiarray", names.encode()))
    found = published.load(path)
    rows = np.random.default_rng(0).normal(size=(3, 512))
    assert found.embedder.backbone.mean == pytest.approx(MEAN)
    assert np.allclose(found.whitenings["ms"](rows), whitened(rows, stored), atol=1e-5)


def test_weights_without_counters_of_batches_are_whole(saved: Callable[..., Path], reference: Reference) -> None:
    held = checkpoint(reference)
    held["state_dict"] = {key: value for key, value in held["state_dict"].items() if "num_batches" not in key}
    assert published.load(saved(held)).embedder.dim == 512


class Runs:
    """What a pickle runs when it is loaded as Python loads them."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class CallsNumpy:
    """An array of objects made of bytes: pointers that the file chooses."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.ndarray, ((1,), np.dtype("O"), b"\1" * 8)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["meta", "state_dict"])
def test_a_checkpoint_that_would_run_a_command_is_refused(
    saved: Callable[..., Path], tmp_path: Path, place: str, zipped: bool
) -> None:
    held = {"meta": {}, "state_dict": {}, place: Runs(f"touch {tmp_path / 'ran'}")}
    path = saved(held, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"tensors and plain data.*system"):
        published.load(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("held", [CallsNumpy(), np.array([3], dtype=object), np.array([Path("x")], dtype=object)])
def test_arrays_of_objects_are_refused_without_asking_numpy(saved: Callable[..., Path], held: Any) -> None:
    with pytest.raises(InputError, match="is not read"):
        published.load(saved({"meta": {"Lw": held}, "state_dict": {}}))


def test_only_stand_ins_of_numpy_are_ever_called() -> None:
    assert all(function.__module__ == truth.__name__ for function in truth.NUMPY.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "alexnet"}, "architecture 'alexnet', which has no form here: .*resnet101"),
        ({"architecture": "densenet121"}, "architecture 'densenet121', which has no form here"),
        ({"pooling": "crow"}, "pooling 'crow', which has no form here: .*gem, gemmp, mac, rmac, spoc"),
        ({"regional": True}, r"whitens each region or position before pooling \(regional\)"),
        ({"local_whitening": True}, r"whitens each region or position before pooling \(local_whitening\)"),
        ({"mean": [0.5, 0.5]}, "needs a mean of three numbers, got"),
        ({"std": None}, "needs a std of three numbers, got None"),
    ],
)
def test_what_has_no_form_here_is_refused(
    saved: Callable[..., Path], reference: Reference, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        published.load(saved({**checkpoint(reference, **change), "state_dict": {}}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "resnet34"}, "Missing key.*layer3.5"),
        ({"whitening": True}, "Missing key.*head.weight"),
        ({"pooling": "mac"}, "Unexpected key.*pooling.p"),
    ],
)
def test_weights_of_another_network_than_the_meta_says_are_refused(
    saved: Callable[..., Path], reference: Reference, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=f"(?s)not hold the weights of what its meta describes.*{said}"):
        published.load(saved(checkpoint(reference, **change)))


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"ms": {"m": np.zeros(4), "P": np.zeros((4, 4))}}, r"Lw retrieval-SfM-120k ms needs .*\(4, 4\) and \(4,\)"),
        ({"ss": {"m": np.zeros((4, 1)), "P": np.full((4, 4), np.nan)}}, "ss needs a finite P"),
        ({"ss": {"P": np.zeros((4, 4))}}, "ss needs a finite P"),
        (3, "must hold ss and ms under retrieval-SfM-120k"),
    ],
)
def test_a_whitening_of_another_form_is_refused(stored: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        published.whitenings({"Lw": {published.WHITENED_ON: stored}}, Path("net.pth"))


def test_rmac_is_ours(saved: Callable[..., Path], reference: Reference) -> None:
    held = checkpoint(reference, pooling="rmac")
    held["state_dict"] = {key: value for key, value in held["state_dict"].items() if key != "pool.p"}
    found = published.load(saved(held))
    assert isinstance(found.embedder.pooling, RMAC) and found.cfg.names.pooling == "rmac"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("features.7.1.bn2.bias", None, "Missing key.*layer4.1.bn2.bias"),
        ("features.8.weight", torch.zeros(1), "Unexpected key.*features.8.weight"),
        ("whiten.weight", torch.zeros(1, 512), "Unexpected key.*head.weight"),
        ("features.0.weight", torch.zeros(64, 3, 3, 3), "size mismatch.*conv1.weight"),
    ],
)
def test_every_weight_has_a_place_and_every_place_a_weight(
    saved: Callable[..., Path], reference: Reference, name: str, value: Tensor | None, said: str
) -> None:
    held = checkpoint(reference)
    state = {key: tensor for key, tensor in held["state_dict"].items() if key != name}
    held["state_dict"] = state if value is None else {**state, name: value}
    with pytest.raises(InputError, match=f"(?s){said}"):
        published.load(saved(held))


def test_other_files_are_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "noise.pth").write_bytes(b"no network here")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"meta": {}, "state_dict": {}}, protocol=2))
    for path in (tmp_path / "noise.pth", tmp_path / "pickle.pth"):
        with pytest.raises(InputError, match=f"{path.name} (is not read|must hold)"):
            published.load(path)
    with pytest.raises(InputError, match="must hold meta and state_dict"):
        published.load(saved({"conv1.weight": torch.zeros(1)}))


def test_a_name_is_the_file_that_was_fetched(saved: Callable[..., Path], reference: Reference, tmp_path: Path) -> None:
    name, folder = "retrievalSfM120k-resnet101-gem", tmp_path / "networks"
    file = sources.SOURCES[name].files[0].name
    (folder / ".fetched").mkdir(parents=True)
    saved(checkpoint(reference)).rename(folder / file)
    (folder / ".fetched" / f"{file}.json").write_text(json.dumps({"last": file}))
    assert published.load(name, tmp_path).cfg.backbone.weights == file


def test_an_unknown_name_is_refused_with_near_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a file or a published name, got 'resnet101-gem': did you mean"):
        published.load("resnet101-gem", tmp_path)
    with pytest.raises(InputError, match="say where the published network gl18-tl-resnet50-gem-w is to be kept"):
        published.load("gl18-tl-resnet50-gem-w")


RECIPES = sorted((CONFIGS / "experiment" / "eval").glob("radenovic2018_*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_describe_at_the_authors_scales(path: Path) -> None:
    recipe = load_yaml(path)
    layer = path.stem.endswith("_w")
    assert recipe.extract.resolutions == [1024]
    assert recipe.extract.scales == pytest.approx(WITH_LAYER if layer else CLASSIC)
    assert {"override /whitening": "none" if layer else "published"} in recipe.defaults
    assert recipe.network in sources.NETWORKS


def test_there_are_recipes_for_the_networks_of_the_paper_and_its_layer() -> None:
    names = {path.stem.removeprefix("radenovic2018_") for path in RECIPES}
    assert names == {"vgg16", "resnet101", "resnet50_w", "resnet101_w", "resnet152_w"}


def test_the_recipe_judges_a_checkpoint_as_its_authors_do(
    saved: Callable[..., Path], reference: Reference, photos: Path, tmp_path: Path
) -> None:
    path = saved(checkpoint(reference, Lw={published.WHITENED_ON: {"ss": learned(512, 0), "ms": learned(512, 1)}}))
    recipe = ["experiment=radenovic2018_resnet101", f"network={path}", f"benchmark.folder.root={photos}"]
    cfg = compose("eval", [*recipe, "benchmark=[folder]", "extract.workers=0"], tmp_path / "run")
    (row,) = evaluation.from_config(cfg, set())
    assert (row["backbone"], row["untrained"]) == ("resnet18", False)
    assert row["scales"] == pytest.approx(CLASSIC) and row["aggregate"] == "paper"
    assert row["whitening"] == "learned, retrieval-SfM-120k (published)"
    again = compose("eval", [f"run={tmp_path / 'run'}", "whitening=published", *recipe[2:], "benchmark=[folder]"])
    again.extract.update(resolutions=[1024], scales=CLASSIC, workers=0)
    assert evaluation.from_config(again, set())[0]["metrics"] == pytest.approx(row["metrics"])


@pytest.mark.parametrize("beside", [["run=DIR"], ["evaluate.poolings=[gap]"]])
def test_a_network_is_a_whole_model(beside: list[str], tmp_path: Path) -> None:
    cfg = compose("eval", ["network=net.pth", *beside], tmp_path)
    with pytest.raises(InputError, match=r"network=net\.pth is a whole model"):
        evaluation.from_config(cfg, set())


def test_another_call_does_not_take_the_folder_of_a_network_that_was_judged(
    saved: Callable[..., Path], reference: Reference, photos: Path, tmp_path: Path
) -> None:
    path = saved(checkpoint(reference))
    words = [f"network={path}", "benchmark=[folder]", f"benchmark.folder.root={photos}", "extract.workers=0"]
    evaluation.from_config(compose("eval", [*words, "extract.resolutions=[48]"], tmp_path / "run"), set())
    before = (tmp_path / "run" / "results.json").read_text()
    with pytest.raises(InputError, match="holds another run"):
        evaluation.from_config(compose("eval", [*words, "extract.resolutions=[48,64]"], tmp_path / "run"), set())
    assert (tmp_path / "run" / "results.json").read_text() == before
