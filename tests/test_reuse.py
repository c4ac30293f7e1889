"""Descriptors are known again by the bytes of their photos, and by nothing else."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from retrieval import extraction, frozen, reuse
from retrieval.backbones import TimmBackbone
from retrieval.data.images import Photo, UnreadablePhoto
from retrieval.data.snapshot import Snapshot
from retrieval.descriptors import Rows
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.passes import Pass
from retrieval.poolings import GlobalMax
from retrieval.subjects import Subject

ABOUT = Subject("test_resnet", "max", "", "none", 0, True, None, "", None, None, None, None, None, None, "", "")


@pytest.fixture(scope="module")
def model() -> Embedder:
    backbone = TimmBackbone("test_resnet")
    return Embedder(backbone, GlobalMax(backbone.dim), nn.Identity()).eval()


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """A copy of the photos that may be changed."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def listed(folder: Path) -> list[Photo]:
    return [Photo(str(path)) for path in sorted(folder.rglob("*.jpg"))]


def described(model: Embedder, photos: Sequence[Photo], cache: Path, **how: object) -> tuple[Rows, int]:
    """Rows of the photos at 64 px, and how many were described for them."""
    extract = Extract([64], workers=0, batch_size=4, **how)  # pyright: ignore[reportArgumentType]
    one = Pass([model], [ABOUT], extract, cache, cache.parent)
    (rows,) = one.described({"photos": photos}, 64)
    return rows.all(), one.passed


def swap(one: Path, other: Path) -> None:
    """Put a file's bytes under the name, size and time of another, as `cp -p` and `rsync -t` can."""
    size, time = one.stat().st_size, one.stat().st_mtime_ns
    data = other.read_bytes()
    assert len(data) <= size
    part = one.with_suffix(".part")
    part.write_bytes(data + b"\0" * (size - len(data)))  # what stands behind a JPEG's end is no pixel
    os.utime(part, ns=(time, time))
    part.replace(one)


def bigger(folder: Path) -> tuple[Path, Path]:
    """Two photos of different landmarks and of one shape, the first of at least as many bytes."""
    one, other = folder / "arch/0.jpg", folder / "dome/0.jpg"
    return (one, other) if one.stat().st_size >= other.stat().st_size else (other, one)


@pytest.mark.parametrize("aspect", ["native", "padded", "square"])
def test_another_photo_under_the_same_name_size_and_time_is_described_and_no_other(
    model: Embedder, folder: Path, tmp_path: Path, aspect: str
) -> None:
    before, _ = described(model, listed(folder), tmp_path / "cache", aspect=aspect)
    swap(*bigger(folder))
    after, count = described(model, listed(folder), tmp_path / "cache", aspect=aspect)
    fresh, _ = described(model, listed(folder), tmp_path / "other", aspect=aspect)
    assert count == 1 and np.flatnonzero((before != after).any(1)).size == 1
    assert np.allclose(after, fresh, atol=1e-5)


def test_a_copy_with_other_times_on_another_path_is_not_described(
    model: Embedder, folder: Path, tmp_path: Path
) -> None:
    before, _ = described(model, listed(folder), tmp_path / "cache")
    (tmp_path / "restored").mkdir()
    for path in folder.rglob("*.jpg"):
        (tmp_path / "restored" / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / "restored" / path.parent.name / path.name).write_bytes(path.read_bytes())
    after, count = described(model, listed(tmp_path / "restored"), tmp_path / "cache")
    assert count == 0 and np.array_equal(before, after)


def test_what_is_unchanged_by_its_stamp_is_not_read(
    model: Embedder, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = described(model, listed(folder), tmp_path / "cache")
    monkeypatch.setattr("retrieval.data.contents.read", lambda path: pytest.fail(f"{path} is read"))
    monkeypatch.setattr("retrieval.data.images.full_size", lambda photo: pytest.fail(f"{photo} is opened"))
    after, count = described(model, listed(folder), tmp_path / "cache")
    assert count == 0 and np.array_equal(before, after)


def test_a_photo_that_is_added_is_described_and_no_other(model: Embedder, folder: Path, tmp_path: Path) -> None:
    some = listed(folder)
    described(model, some[:7], tmp_path / "cache")
    assert described(model, some[:8], tmp_path / "cache")[1] == 1


def test_rows_that_a_reader_opened_stay_as_they_are(model: Embedder, folder: Path, tmp_path: Path) -> None:
    extract = Extract([64], workers=0)
    (rows,) = Pass([model], [ABOUT], extract, tmp_path / "cache", tmp_path).described({"all": listed(folder)}, 64)
    before = rows.all()
    swap(*bigger(folder))
    described(model, listed(folder), tmp_path / "cache")
    assert np.array_equal(rows.all(), before)


def test_the_box_of_a_photo_has_a_row_of_its_own(model: Embedder, folder: Path, tmp_path: Path) -> None:
    whole = listed(folder)[0]
    described(model, [whole], tmp_path / "cache")
    rows, count = described(model, [whole, Photo(whole.path, (4, 4, 60, 40))], tmp_path / "cache")
    assert count == 1 and not np.allclose(*rows)


def test_a_photo_that_changes_while_photos_are_described_is_named(
    model: Embedder, folder: Path, tmp_path: Path
) -> None:
    files, photos = Snapshot(), listed(folder)
    extract = Extract([64], workers=0, batch_size=1)
    plan = extraction.plan(model, photos, 64, extract, None, files)
    rows = extraction.vectors([model], photos, plan, 64, extract, False, files)
    next(rows)
    last = Path(photos[plan[-1][0]].path)
    last.write_bytes((folder / "arch/0.jpg").read_bytes())
    with pytest.raises(InputError, match=f"{last} changed while it was described"):
        list(rows)


@pytest.mark.parametrize("data", [b"no photo", None])
def test_a_photo_that_cannot_be_decoded_has_a_row_of_nan_where_it_may_be_skipped(
    model: Embedder, folder: Path, tmp_path: Path, data: bytes | None
) -> None:
    photos, broken = listed(folder), folder / "castle/2.jpg"
    broken.write_bytes(data or broken.read_bytes()[:700])
    extract = Extract([64], workers=0, batch_size=4)
    for _ in range(2):  # described, then kept
        files = Snapshot([str(broken)])
        one = Pass([model], [ABOUT], extract, tmp_path / "cache", tmp_path, files)
        (rows,) = one.described({"all": photos}, 64)
        assert [photos[i].path for i in np.flatnonzero(np.isnan(rows.all()).any(1))] == [str(broken)]
        assert list(files.faults) == [str(broken)]
    with pytest.raises(UnreadablePhoto, match=r"castle/2\.jpg"):
        described(model, photos, tmp_path / "cache")


def test_a_photo_that_can_be_decoded_after_all_is_described(
    model: Embedder, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, extract = listed(folder), Extract([64], workers=0, batch_size=4)
    fresh, _ = described(model, photos, tmp_path / "other")
    size = max(path.stat().st_size for path in folder.rglob("*.jpg"))
    large = [photo.path for photo in photos if Path(photo.path).stat().st_size == size]
    with monkeypatch.context() as limited:  # a decoder that does not know one of them yet
        decode = extraction.images.decode

        def refusing(photo: Photo, *rest: object, **how: object) -> object:
            if photo.path in large:
                raise UnreadablePhoto(f"unreadable photo {photo.path}: of no known kind")
            return decode(photo, *rest, **how)  # pyright: ignore[reportArgumentType]

        limited.setattr("retrieval.data.images.decode", refusing)
        Pass([model], [ABOUT], extract, tmp_path / "cache", tmp_path, Snapshot(large)).described({"all": photos}, 64)
    rows, count = described(model, photos, tmp_path / "cache")
    assert count == len(large) and np.allclose(rows, fresh, atol=1e-6)


def test_kept_features_are_those_of_the_bytes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, photos = TimmBackbone("test_resnet"), listed(folder)
    network, extract = (
        Embedder(backbone, GlobalMax(backbone.dim), nn.Identity()),
        Extract([64], workers=0, batch_size=1),
    )
    before = extraction.describe_each([network], photos, 64, extract)[0]
    frozen.freeze(backbone, tmp_path / "features")
    extraction.describe_each([network], photos, 64, extract)
    swap(*bigger(folder))
    passed: list[int] = []
    forward = TimmBackbone.forward
    monkeypatch.setattr(TimmBackbone, "forward", lambda own, x, *rest: passed.append(len(x)) or forward(own, x, *rest))
    after = extraction.describe_each([network], photos, 64, extract)[0]
    assert passed == [1] and np.flatnonzero((before != after).any(1)).size == 1


def test_a_file_system_without_links_gets_copies(
    model: Embedder, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(reuse.os, "link", refusing)
    before, _ = described(model, listed(folder), tmp_path / "cache")
    for path in folder.rglob("*.jpg"):
        path.touch()
    after, count = described(model, listed(folder), tmp_path / "cache")
    assert count == 0 and np.array_equal(before, after)
