"""A file that gives what its model gives passes; any other is refused with the reason, and gets no name."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from small_exports import Normalised, save_onnx, save_pt2, small, spec_of
from torch import Tensor, nn

from retrieval.errors import InputError
from retrieval.export import checks
from retrieval.export.checks import Checked, FailedCheck, check, checked_into, inputs
from retrieval.spec import Spec

SAVE = {".onnx": save_onnx, ".pt2": save_pt2}


@dataclass
class Saved:
    net: Normalised
    spec: Spec
    folder: Path

    def checked(self, suffix: str, spec: Spec | None = None, net: Normalised | None = None) -> Checked:
        return check(self.folder / f"model{suffix}", spec or self.spec, (net or self.net).rows)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    net, folder = small(), tmp_path_factory.mktemp("export")
    for suffix, save in SAVE.items():
        save(net, spec_of(net), folder / f"model{suffix}")
    return Saved(net, spec_of(net), folder)


@pytest.mark.parametrize("suffix", SAVE)
def test_a_good_file_passes_at_three_sizes_of_two_aspects_alone_and_five_at_once(saved: Saved, suffix: str) -> None:
    found = saved.checked(suffix)
    assert found.cosine >= 0.99999
    assert len({shape[1:] for shape in found.shapes}) == 6
    assert {shape[0] for shape in found.shapes} == {1, 5}


def test_a_file_with_another_p_fails(saved: Saved) -> None:
    with pytest.raises(FailedCheck, match=r"1 x 3 x \d+ x \d+: a row has cosine 0\.\d+ .* accepted .* is 0\.99999"):
        saved.checked(".onnx", net=small(p=2.5))


def test_a_file_with_other_weights_fails(saved: Saved) -> None:
    other = small()
    next(other.model.backbone.parameters()).mul_(-1)
    with pytest.raises(FailedCheck, match="a row has cosine"):
        saved.checked(".onnx", net=other)


class Mean(nn.Module):
    """The mean colour of photos as unit rows, which a function then changes."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda rows: rows) -> None:
        super().__init__()
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(F.normalize(images.float().mean((2, 3)), dim=1))


MEAN = Spec("mean", 3, 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 96)


def mean(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        return Mean()(torch.from_numpy(pixels)).numpy()


@pytest.mark.parametrize("suffix", SAVE)
def test_a_file_that_runs_at_one_size_alone_fails_where_its_spec_says_any(tmp_path: Path, suffix: str) -> None:
    SAVE[suffix](Mean(), MEAN, tmp_path / f"model{suffix}", dynamic=False)
    with pytest.raises(FailedCheck, match=rf"model{suffix} does not run on photos of 1 x 3 x \d+ x \d+ in a process"):
        check(tmp_path / f"model{suffix}", MEAN, mean)


def test_a_file_of_one_size_and_number_passes_where_its_spec_says_so(tmp_path: Path) -> None:
    spec = replace(MEAN, size=(96, 128), batch=2)
    save_onnx(Mean(), spec, tmp_path / "model.onnx", dynamic=False)
    assert check(tmp_path / "model.onnx", spec, mean).shapes == ((2, 96, 128),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows / (rows - rows), "hold NaN or infinity"),
        (lambda rows: 2 * rows, r"length of a row differs from 1 by 1, accepted is 0\.0001"),
        (lambda rows: rows[:, 1:], "rows are float32 of 1 x 2, expected float32 of 1 x 3"),
        (lambda rows: rows.double(), "rows are float64 of 1 x 3, expected float32"),
        (lambda rows: rows.flip(1), "1 x 3 x .*: a row has cosine"),
        (lambda rows: rows[:1].expand(rows.shape), "photos of 5 x 3 x .*: a row has cosine"),
    ],
)
def test_rows_that_are_not_the_models_fail(tmp_path: Path, change: Callable[[Tensor], Tensor], reason: str) -> None:
    save_onnx(Mean(change), MEAN, tmp_path / "model.onnx")
    with pytest.raises(FailedCheck, match=reason):
        check(tmp_path / "model.onnx", MEAN, mean)


def test_a_file_whose_spec_is_another_fails(saved: Saved) -> None:
    with pytest.raises(FailedCheck, match=r'says of itself .*"resolution": 96.* expected .*"resolution": 128'):
        saved.checked(".onnx", replace(saved.spec, resolution=128))


def test_where_the_graph_does_not_normalise_the_photos_are_before(tmp_path: Path) -> None:
    spec = replace(MEAN, normalised=False, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    save_onnx(Mean(), spec, tmp_path / "model.onnx")

    def normalised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        center, spread = (torch.tensor(x)[:, None, None] for x in (spec.mean, spec.std))
        return Mean()((torch.from_numpy(pixels) / 255 - center) / spread).numpy()

    assert check(tmp_path / "model.onnx", spec, normalised).cosine >= 0.99999


@torch.library.custom_op("testing::twice", mutates_args=())
def twice(rows: Tensor) -> Tensor:
    return 2 * rows


twice.register_fake(torch.empty_like)


def test_a_file_that_needs_code_of_this_process_fails(tmp_path: Path) -> None:
    save_pt2(Mean(lambda rows: twice(rows) / 2), MEAN, tmp_path / "model.pt2")
    with pytest.raises(FailedCheck, match=r"(?s)does not run in a process of its own:.*Error: .*testing"):
        check(tmp_path / "model.pt2", MEAN, mean)


@pytest.mark.parametrize(("suffix", "foreign"), [(".onnx", {"retrieval", "torch"}), (".pt2", {"retrieval"})])
def test_the_process_imports_nothing_of_this_package(
    saved: Saved, tmp_path: Path, suffix: str, foreign: set[str]
) -> None:
    np.savez(tmp_path / "photos.npz", inputs(saved.spec)[0])
    files = [saved.folder / f"model{suffix}", tmp_path / "photos.npz", tmp_path / "rows.npz"]
    words = [sys.executable, "-X", "importtime", "-I", checks.FRESH, *files, saved.spec.input, saved.spec.output]
    told = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stderr
    imported = {line.split("|")[2].strip().split(".")[0] for line in told.splitlines() if line.count("|") == 2}
    assert "numpy" in imported
    assert not imported & foreign


def test_a_process_that_takes_too_long_is_ended(saved: Saved) -> None:
    with pytest.raises(FailedCheck, match=r"ran for more than 0\.01 seconds"):
        check(saved.folder / "model.onnx", saved.spec, saved.net.rows, seconds=0.01)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a \.onnx or a \.pt2, got .*model\.bin"):
        check(tmp_path / "model.bin", spec_of(small()), lambda pixels: pixels)


@pytest.mark.parametrize("multiple", [1, 14, 16, 32, 64])
@pytest.mark.parametrize("resolution", [32, 224, 1024])
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5)])
def test_inputs_are_of_three_sizes_and_two_aspects(multiple: int, resolution: int, scales: tuple[float, ...]) -> None:
    spec = Spec("any", 8, 8, (0, 0, 0), (1, 1, 1), resolution, multiple, scales=scales)
    sizes = checks.sizes_of(spec)
    assert [height < width for height, width in sizes] == [True, False] * 3
    assert len({max(size) for size in sizes[::2]}) == len({max(size) for size in sizes[1::2]}) == 3
    assert min(map(min, sizes)) * min(scales) > 32
    assert all(side % multiple == 0 and (multiple > 1 or side % 2) for size in sizes for side in size)


def test_inputs_are_bytes_that_vary_and_always_the_same() -> None:
    assert all(pixels.dtype == np.uint8 and pixels.std() > 20 for pixels in inputs(MEAN))
    assert all(np.array_equal(a, b) for a, b in zip(inputs(MEAN), inputs(MEAN), strict=True))


def test_photos_given_are_squeezed_to_the_inputs_sizes() -> None:
    grey = [np.full((3, 40, 60), value, np.uint8) for value in (10, 20)]
    noise, real = inputs(MEAN), inputs(MEAN, grey)
    assert [pixels.shape for pixels in real] == [pixels.shape for pixels in noise]
    assert real[1][:, 0, 0, 0].tolist() == [20, 10, 20, 10, 20]


def test_int8_is_checked_on_photos_alone() -> None:
    with pytest.raises(InputError, match="int8 is checked on photos"):
        check(Path("model.onnx"), replace(MEAN, dtype="int8"), mean)


def test_a_file_gets_its_name_after_its_check(tmp_path: Path) -> None:
    final = tmp_path / "new" / "model.onnx"

    def seen(path: Path) -> str:
        assert path.suffix == ".onnx" and path.parent == final.parent and not final.exists()
        return path.read_text()

    assert checked_into(final, lambda path: path.write_text("good"), seen) == "good"
    assert final.read_text() == "good"


@pytest.mark.parametrize("error", [FailedCheck, KeyboardInterrupt])
@pytest.mark.parametrize("older", [None, "older"])
def test_what_fails_its_check_leaves_nothing_and_an_older_file_as_it_was(
    tmp_path: Path, error: type[BaseException], older: str | None
) -> None:
    final = tmp_path / "model.onnx"
    if older:
        final.write_text(older)

    def failing(path: Path) -> None:
        raise error

    with pytest.raises(error):
        checked_into(final, lambda path: path.write_text("bad"), failing)
    assert [path.read_text() for path in tmp_path.iterdir()] == ([older] if older else [])
