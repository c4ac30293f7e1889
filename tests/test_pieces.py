"""A batch pushed through in pieces gives what the whole batch gives, with the memory of one piece."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from retrieval.backbones import TimmBackbone
from retrieval.data.tensors import normalised
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.heads import Projection
from retrieval.pieces import embedded, refuse_pieces
from retrieval.poolings import GeM

SHAPES = [(3, 32, 48), (5, 48, 32), (1, 32, 32)]  # photos, height, width
PHOTOS = sum(count for count, _, _ in SHAPES)


def model(backbone: str = "test_resnet", frozen: bool = True, **kwargs: float) -> Embedder:
    torch.manual_seed(0)
    features = TimmBackbone(backbone, kwargs=kwargs)
    features.frozen_statistics = frozen
    return Embedder(features, GeM(features.dim), Projection(features.dim, 8)).train()


def batch(seed: int = 0) -> tuple[list[Tensor], Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    pixels = [torch.randint(256, (n, 3, h, w), generator=drawn, dtype=torch.uint8) for n, h, w in SHAPES]
    return pixels, torch.randperm(PHOTOS, generator=drawn)


def gradients(embedder: Embedder, rows: Tensor) -> dict[str, Tensor]:
    """Of a loss in which all rows meet."""
    embedder.zero_grad()
    (rows @ rows.T).square().triu(1).sum().backward()
    return {name: q.grad.clone() for name, q in embedder.named_parameters() if q.grad is not None}


def alike(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> bool:
    """Whether gradients differ by less than this part of the largest of each weight's."""
    far = [(one[name] - other[name]).abs().max() <= tolerance * one[name].abs().max() for name in one]
    return one.keys() == other.keys() and all(far)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("pieces", [1, 2, 4, 9])
def test_pieces_have_the_gradient_of_the_whole_batch(backbone: str, pieces: int) -> None:
    network, (pixels, order) = model(backbone), batch()
    whole = embedded(network, pixels, order)
    expected = gradients(network, whole)
    rows = embedded(network, pixels, order, pieces)
    assert torch.allclose(rows, whole, atol=1e-6) and alike(expected, gradients(network, rows), 1e-4)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), pieces=st.none() | st.integers(1, 5))
def test_rows_come_in_the_batchs_order(seed: int, pieces: int | None) -> None:
    network, (pixels, order) = model().eval(), batch(seed)
    with torch.no_grad():
        rows, place = embedded(network, pixels, order, pieces), iter(order)
        for photo in (one for of_one_shape in pixels for one in of_one_shape):
            alone = network(normalised(photo[None], network.backbone.mean, network.backbone.std))[0]
            assert torch.allclose(rows[next(place)], alone, atol=1e-5)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_what_is_computed_again_drops_the_same_paths(backbone: str) -> None:
    network, (pixels, order) = model(backbone, drop_path_rate=0.5), batch()
    found = []
    for one_by_one in (True, False):
        torch.manual_seed(1)
        if one_by_one:
            rows = embedded(network, pixels, order, 2)
        else:  # the same pieces, whose activations are all kept
            parts = [part for of_one_shape in pixels for part in of_one_shape.split(2)]
            rows = embedded(network, parts, order)
        found.append(gradients(network, rows))
    assert alike(found[1], found[0], 1e-6)


def test_pieces_have_the_gradient_of_the_whole_batch_in_mixed_precision() -> None:
    network, (pixels, order) = model(), batch()
    found = []
    for pieces in (None, 2):
        with torch.autocast("cpu", torch.bfloat16):
            rows = embedded(network, pixels, order, pieces)
        found.append(gradients(network, rows.float()))
    assert alike(found[0], found[1], 0.05)  # sums of bfloat16 gradients


def test_pieces_and_checkpointing_go_together() -> None:
    network, (pixels, order) = model("test_vit"), batch()
    expected = gradients(network, embedded(network, pixels, order))
    network.backbone.checkpoint_activations()
    assert alike(expected, gradients(network, embedded(network, pixels, order, 2)), 1e-4)


def test_between_the_passes_pieces_keep_their_bytes_alone() -> None:
    network, (pixels, order) = model(), batch()
    kept: dict[int, int] = {}

    def counted(tensor: Tensor) -> Tensor:
        held = tensor.untyped_storage()
        kept[held.data_ptr()] = 0 if isinstance(tensor, nn.Parameter) else held.nbytes()
        return tensor

    for pieces in (None, 2):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(counted, lambda tensor: tensor):
            embedded(network, pixels, order, pieces)
        few = sum(photos.nbytes for photos in pixels) + 10_000  # and the rows
        assert (sum(kept.values()) < few) == (pieces is not None)


def test_the_backward_pass_is_through_with_a_piece_before_it_computes_the_next() -> None:
    network, (pixels, order) = model(), batch()
    events: list[str] = []

    def computed(_: nn.Module, __: tuple[Tensor], out: Tensor) -> None:
        events.append("computed")
        out.register_hook(lambda _: events.append("through"))

    first = next(module for module in network.backbone.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(computed)
    rows = embedded(network, pixels, order, 2)
    events.clear()
    gradients(network, rows)
    assert events == ["computed", "through"] * 6  # 2 + 1, 2 + 2 + 1 and 1 photos


@pytest.mark.parametrize("pieces", [0, -1, 1.5, "all", True])
def test_pieces_that_are_no_number_of_photos_are_refused(pieces: object) -> None:
    with pytest.raises(InputError, match="at least 1, or null for the whole batch; got"):
        refuse_pieces(model(), pieces)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("pieces", "checkpointing"), [(4, False), (None, True)])
def test_batchnorm_that_learns_its_statistics_is_refused(pieces: int | None, checkpointing: bool) -> None:
    with pytest.raises(InputError, match=r"accepted: freeze_batchnorm=true, .*'test_resnet'"):
        refuse_pieces(model(frozen=False), pieces, checkpointing)


@pytest.mark.parametrize(("backbone", "frozen", "pieces"), [
    ("test_resnet", True, 4), ("test_vit", False, 4), ("test_resnet", False, None)
])  # fmt: skip
def test_what_learns_no_statistics_is_accepted(backbone: str, frozen: bool, pieces: int | None) -> None:
    refuse_pieces(model(backbone, frozen), pieces)
