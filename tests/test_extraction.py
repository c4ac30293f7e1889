"""Descriptors: exact whatever the batch, in the order given, at several scales."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_embedder import POOLINGS, described

from retrieval import config, embedder, extraction
from retrieval.data.images import Photo, UnreadablePhoto
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract, NotFinite, describe


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.jpg"))


def model(pooling: str = "gem", backbone: str = "test_resnet", head: str = "none") -> Embedder:
    torch.manual_seed(0)
    return embedder.from_config(described(pooling, backbone, head)).eval()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_batched_descriptors_are_those_of_each_photo_alone(paths: list[Path], pooling: str, backbone: str) -> None:
    if pooling in ("cls", "cls_gem") and backbone == "test_resnet":
        pytest.skip("a CNN has no class token")
    network = model(pooling, backbone)
    batched = describe(network, paths, 80, batch_size=16)
    with torch.no_grad():
        alone = torch.cat([network(network.preprocess(Image.open(path), 80)[None]) for path in paths])
    assert np.allclose(batched, alone.numpy(), atol=1e-5)


@pytest.mark.parametrize("scales", [(1.0,), (2**0.5, 1.0, 2**-0.5)])
@pytest.mark.parametrize("pooling", sorted(set(POOLINGS) - {"cls", "cls_gem"}))
def test_padding_counts_for_nothing_in_any_pooling(paths: list[Path], pooling: str, scales: tuple[float, ...]) -> None:
    network = model(pooling, "mobilenetv2_035")
    native, padded = (describe(network, paths, 96, scales, aspect, 8) for aspect in ("native", "padded"))
    assert np.allclose(native, padded, atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_describes_padded_photos_by_a_vit(paths: list[Path], pooling: str) -> None:
    network = model(pooling, "test_vit")
    native, padded = (describe(network, paths, 96, (1.0, 0.5), aspect, 8) for aspect in ("native", "padded"))
    assert (native * padded).sum(1).mean() > 0.9  # its position embedding is that of the padded grid


def test_padded_photos_share_batches_whatever_their_shapes(paths: list[Path]) -> None:
    photos = [Photo(str(path)) for path in paths]
    counts = [
        len(extraction.plan(model(), photos, 96, Extract(aspect=aspect, batch_size=20)))
        for aspect in ("native", "padded")
    ]
    assert counts == [4, 1]


def test_a_pooling_of_one_size_refuses_padded_photos(paths: list[Path]) -> None:
    with pytest.raises(InputError, match=r"MixVPR takes maps of 20 x 20 .*aspect = padded"):
        describe(model("mixvpr"), paths[:2], 96, aspect="padded")


def test_a_backbone_of_one_size_refuses_padded_photos(paths: list[Path]) -> None:
    with pytest.raises(InputError, match=r"'test_maxvit' takes one size only, 160 x 160"):
        describe(model(backbone="test_maxvit"), paths[:1], 160, aspect="padded")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_full(paths: list[Path], dtype: str) -> None:
    full, half = (describe(model(), paths[:4], 64, dtype=one) for one in ("float32", dtype))
    assert ((full * half).sum(1) > 0.999).all() and not np.array_equal(full, half)


def test_a_draft_describes_a_large_jpeg_nearly_as_it_is(paths: list[Path], tmp_path: Path) -> None:
    with Image.open(paths[0]) as image:
        image.resize((768, 512), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg")
    photos, network = [Photo(str(tmp_path / "large.jpg"))], model()
    whole, draft = (
        extraction.describe_each([network], photos, 96, Extract([96], workers=0, draft=draft))[0]
        for draft in (False, True)
    )
    assert (whole * draft).sum() > 0.99 and not np.array_equal(whole, draft)


def test_a_compiled_network_describes_as_it_does_otherwise(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # the default writes C++
    network, photos = model("gap"), [Photo(str(path)) for path in paths[:6]]
    plain, compiled = (
        extraction.describe_each([network], photos, 64, Extract([64], (1, 0.5), workers=0, compile=compile))[0]
        for compile in (False, True)
    )
    assert np.allclose(plain, compiled, atol=1e-5)


def test_a_network_is_left_as_it_was_after_compiling() -> None:
    backbone = model().backbone
    with backbone.compiled():
        assert "forward_features" in vars(backbone.model)
    assert "forward_features" not in vars(backbone.model)


def test_rows_come_in_the_order_given(paths: list[Path]) -> None:
    network, order = model(), np.random.default_rng(0).permutation(len(paths))
    forward, shuffled = describe(network, paths, 64), describe(network, [paths[i] for i in order], 64)
    assert np.allclose(forward[order], shuffled, atol=1e-6)


def test_worker_processes_change_nothing(paths: list[Path]) -> None:
    network = model()
    assert np.array_equal(describe(network, paths, 64, workers=0), describe(network, paths, 64, workers=2))


def test_rows_are_float32_unit_vectors(paths: list[Path]) -> None:
    rows = describe(model(), paths, 64, scales=(1.0, 2**-0.5))
    assert rows.dtype == np.float32 and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_describe_refuses_what_its_config_would(paths: list[Path]) -> None:
    with pytest.raises(InputError, match="one of float32, bfloat16, float16, got 'int8'"):
        describe(model(), paths, 64, dtype="int8")


def test_a_box_is_described_as_its_crop(paths: list[Path], tmp_path: Path) -> None:
    box = (10.0, 8.0, 58.0, 56.0)
    with Image.open(paths[0]) as image:
        image.crop((10, 8, 58, 56)).save(tmp_path / "crop.png")
    boxed = describe(model(), [Photo(str(paths[0]), box)], resolution=96)  # 96 * 48 / 96: not enlarged
    assert np.allclose(boxed, describe(model(), [tmp_path / "crop.png"], resolution=96), atol=1e-6)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_path_of_an_unreadable_photo_is_named(paths: list[Path], tmp_path: Path, workers: int) -> None:
    (tmp_path / "cut.jpg").write_bytes(paths[0].read_bytes()[:600])
    with pytest.raises(UnreadablePhoto, match=r"cut\.jpg") as refused:
        describe(model(), [*paths[:2], tmp_path / "cut.jpg"], 64, workers=workers)
    assert config.explain(refused.value).startswith("unreadable photo ")


def test_descriptors_that_are_not_finite_are_refused_by_path(paths: list[Path]) -> None:
    network = model("gap")
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(NotFinite, match=r"the descriptor of .*\.jpg is not finite, by GlobalAverage"):
        describe(network, paths[:2], 64)


def test_a_backbone_of_one_size_is_refused_by_name_at_native_ratio(paths: list[Path]) -> None:
    with pytest.raises(InputError, match=r"'test_maxvit' takes one size only, 160 x 160"):
        describe(model(backbone="test_maxvit"), paths[:1], 160)


def test_a_backbone_of_one_size_that_is_no_square_is_refused(paths: list[Path]) -> None:
    network = model(backbone="test_maxvit")
    network.backbone.fixed_size = (160, 192)
    with pytest.raises(InputError, match="160 x 192, and photos are squeezed to squares alone"):
        describe(network, paths[:1], 160, aspect="square")


def test_a_backbone_of_one_size_describes_squares(paths: list[Path]) -> None:
    network = model(backbone="test_maxvit")
    assert describe(network, paths[:1], 160, aspect="square").shape == (1, network.backbone.dim)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resolutions": []}, r"extract\.resolutions must be a list of positive whole numbers"),
        ({"resolutions": [224.5]}, r"extract\.resolutions must be a list of positive whole numbers"),
        ({"device": "mps"}, "device 'mps' is not one of"),
        ({"scales": [1, -1]}, r"extract\.scales must be a list of positive numbers"),
        ({"aspect": "wide"}, "one of native, square, padded, got 'wide'"),
        ({"aggregate": "median"}, r"extract\.aggregate must be one of paper, cvnet, mean, max, got 'median'"),
        ({"compile": "yes"}, r"extract\.compile must be true or false, got 'yes'"),
        ({"compile": True, "aspect": "padded"}, "takes extract.aspect=native or square, got padded"),
        ({"draft": 2}, r"extract\.draft must be true or false, got 2"),
        ({"dtype": "int8"}, "one of float32, bfloat16, float16, got 'int8'"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"batch_size": "many"}, "batch_size >= 1 and workers >= 0, got many and 2"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"device": "cuda:63"}, "this machine has"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Extract(**options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.9999), ("bfloat16", 0.99), ("float16", 0.999)])
def test_a_gpu_describes_as_the_cpu_does(paths: list[Path], dtype: str, least: float) -> None:
    on_cpu = describe(model(), paths, 96, (1.0, 0.7), device="cpu")
    on_gpu = describe(model(), paths, 96, (1.0, 0.7), device="cuda", dtype=dtype, workers=1)
    assert (on_cpu * on_gpu).sum(1).min() > least
