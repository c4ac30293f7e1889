"""Training photos straight from tar archives."""

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_sets import table

from retrieval.backbones import TimmBackbone
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.data.archives import BrokenArchive
from retrieval.data.loading import TrainingBatch
from retrieval.data.module import refuse_sizes
from retrieval.data.shards import Landmarks
from retrieval.data.stream import ShardLoader, StreamedData, found
from retrieval.errors import InputError

LISTED = [f"{i:03x}0" for i in range(40)]  # ten in each of four archives
OTHERS = [f"{i:03x}0" for i in range(0xF00, 0xF08)]


def jpeg(name: str) -> bytes:
    """A photo of one colour, which its name says."""
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (int(name[:3], 16) % 256, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def pack(archive: Path, photos: Iterable[tuple[str, bytes]], front: str = "") -> Path:
    """A tar as Google's, of (id, content); front: folders before the names."""
    with tarfile.open(archive, "w") as tar:
        for name, content in photos:
            member = tarfile.TarInfo(f"{front}{'/'.join(name[:3])}/{name}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four archives, each of ten photos that the table lists and two that it does not."""
    for i in range(4):
        names = [*OTHERS[2 * i : 2 * i + 2], *LISTED[10 * i : 10 * i + 10]]
        pack(tmp_path / f"images_{i:03d}.tar", ((name, jpeg(name)) for name in names), ("", "./", "train/", "a.b/")[i])
    rows = [(landmark, " ".join(LISTED[landmark::8])) for landmark in range(8)]
    table(tmp_path / "train_clean.csv", ("landmark_id", "images"), *rows)
    return tmp_path


def data(root: Path, **changed: object) -> StreamedData:
    cfg = load_yaml(CONFIGS / "data" / "gldv2_stream.yaml")
    small = {"size": 4, "buffer": 6, "resolution": 16, "jitter": 0, "flip": False, "workers": 0}
    cfg.update({"shards": f"{root}/*.tar", "table": f"{root}/train_clean.csv", "cache": f"{root}/cache"})
    cfg.update({**small, **changed})
    return build(cfg, seed=3)


def ids(batches: Iterable[TrainingBatch]) -> list[str]:
    return [Path(path).stem for batch in batches for path in batch.paths]


def test_no_photo_comes_twice_in_an_epoch_and_none_that_is_not_listed(root: Path) -> None:
    for workers in (0, 2):
        seen = ids(data(root, workers=workers).train_dataloader())
        assert len(seen) == len(set(seen)) > 0 and set(seen) <= set(LISTED)


def test_one_process_without_workers_leaves_out_less_than_a_batch(root: Path) -> None:
    assert len(ids(data(root, size=3).train_dataloader())) == 36


def test_labels_are_those_of_the_table(root: Path) -> None:
    made = data(root)
    for batch in made.train_dataloader():
        assert [LISTED.index(Path(path).stem) % 8 for path in batch.paths] == batch.labels.tolist()
    assert made.num_classes == 8 and sorted(made.labels) == sorted(list(range(8)) * 5)
    assert made.train.landmarks == sorted(map(str, range(8)))


def test_a_batch_is_of_squares_in_its_order(root: Path) -> None:
    for batch in data(root).train_dataloader():
        assert [part.shape for part in batch.pixels] == [(4, 3, 16, 16)] and batch.order.tolist() == [0, 1, 2, 3]
        reds = batch.pixels[0].float().mean((2, 3))[:, 0].tolist()
        assert reds == pytest.approx([int(name[:3], 16) for name in ids([batch])], abs=3)


def test_batches_draw_one_of_the_resolutions(root: Path) -> None:
    made = data(root, resolutions=[8, 16])
    assert {batch.pixels[0].shape[-1] for batch in made.train_dataloader()} == {8, 16}
    assert made.resolution == 16 and made.resolutions == [8, 16]


def test_epochs_have_the_same_length_and_other_orders(root: Path) -> None:
    loader = data(root, workers=2).train_dataloader()
    epochs = [ids(loader) for _ in range(3)]
    assert {len(epoch) for epoch in epochs} == {4 * len(loader)}
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_seed_reproduces_every_pixel(root: Path) -> None:
    first, again = (list(data(root, workers=2).train_dataloader()) for _ in range(2))
    assert ids(first) == ids(again)
    assert all(torch.equal(a.pixels[0], b.pixels[0]) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_where_another_stood(root: Path, workers: int) -> None:
    whole = data(root, workers=workers).train_dataloader()
    expected = [ids([batch]) for _ in range(2) for batch in whole]
    one, other = (data(root, workers=workers).train_dataloader() for _ in range(2))
    stopped = len(one) + 2
    before = [ids([batch]) for batch in one]
    for batch in one:
        before.append(ids([batch]))
        if len(before) == stopped:
            break
    other.load_state_dict(one.state_dict())
    assert one.state_dict() == {"epoch": 1, "position": 2}
    assert before + [ids([batch]) for batch in other] == expected


def test_a_loader_that_stood_at_the_end_begins_the_next_epoch(root: Path) -> None:
    whole, other = (data(root).train_dataloader() for _ in range(2))
    epochs = [ids(whole) for _ in range(2)]
    other.load_state_dict({"epoch": 0, "position": len(other)})
    assert ids(other) == epochs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_photo_is_named_and_counted_and_the_epoch_keeps_its_length(
    root: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = LISTED[:4]
    pack(root / "images_000.tar", ((name, b"no photo" if name in broken else jpeg(name)) for name in LISTED[:10]))
    loader = data(root, size=2, workers=workers).train_dataloader()
    seen = [ids(loader) for _ in range(2)]
    assert {len(epoch) for epoch in seen} == {2 * len(loader)} and not set(seen[0] + seen[1]) & set(broken)
    assert len(loader.skipped) == 4
    said = capsys.readouterr().out
    assert said.count("skipped: unreadable photo") == 4 and "images_000.tar/0/0/0/0000.jpg" in said


def test_an_archive_that_fails_while_it_is_read_is_named_and_the_others_are_gone_through(root: Path) -> None:
    made = data(root, size=2)
    whole = (root / "images_001.tar").read_bytes()
    (root / "images_001.tar").write_bytes(whole[:3000])
    loader = made.train_dataloader()
    assert len(ids(loader)) == 2 * len(loader)
    assert any("images_001.tar" in fault for fault in loader.skipped)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_with_unequal_archives_share_the_photos_and_end_together(
    root: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(root / "images_004.tar", ((name, jpeg(name)) for name in OTHERS))  # one process gets more archives
    monkeypatch.setenv("WORLD_SIZE", "2")
    lengths, seen = [], []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        batches = list(data(root, workers=workers).train_dataloader())
        lengths.append([batch.pixels[0].shape[0] for batch in batches])
        seen += ids(batches)
    assert lengths[0] == lengths[1] == [2] * len(lengths[0]) and len(seen) == len(set(seen)) > 0


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9), st.integers(0, 3), st.integers(1, 5), st.integers(1, 3))
def test_no_process_has_fewer_batches_than_an_epoch(
    photos: Sequence[int], workers: int, share: int, processes: int
) -> None:
    shards = [str(i) for i in range(len(photos))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(processes))
        patch.setenv("RANK", "0")
        loader = ShardLoader(shards, photos, None, share * processes, 1, workers)  # pyright: ignore
        try:
            length = len(loader)
        except InputError:
            return
    for epoch in range(20):
        order = np.random.default_rng([epoch]).permutation(len(photos))
        for rank in range(processes):
            mine = [photos[i] for i in order[rank::processes]]
            consumers = [mine[w :: max(1, workers)] for w in range(max(1, workers))]
            assert sum(sum(each) // share for each in consumers) >= length


def test_an_archive_that_is_cut_off_is_refused_at_the_start(root: Path) -> None:
    whole = (root / "images_002.tar").read_bytes()
    for length in (700, 3000):
        (root / "images_002.tar").write_bytes(whole[:length])
        with pytest.raises(BrokenArchive, match=r"images_002\.tar is no whole tar archive"):
            data(root)


def test_photos_are_counted_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = data(root).batches.photos
    monkeypatch.setattr("retrieval.data.shards._count", lambda *_: pytest.fail("counted again"))
    assert data(root).batches.photos == counts == [10, 10, 10, 10]


def test_archives_that_changed_are_counted_again(root: Path) -> None:
    data(root)
    pack(root / "images_000.tar", ((name, jpeg(name)) for name in LISTED[:5]))
    assert data(root).batches.photos == [5, 10, 10, 10]


def test_braces_stars_and_lists_name_archives(root: Path) -> None:
    every = [str(root / f"images_{i:03d}.tar") for i in range(4)]
    assert found(f"{root}/images_{{000..003}}.tar") == found(f"{root}/*.tar") == found(every) == every


def test_archives_that_are_absent_or_named_twice_are_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"nothing at .*images_004\.tar, .*images_006\.tar, 3 of 7 patterns"):
        found(f"{root}/images_{{000..006}}.tar")
    with pytest.raises(InputError, match="may name an archive once, 4 are named again"):
        found([f"{root}/*.tar", f"{root}/images*"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"size": 64}, "4 archives with 40 photos of the table are too few for data.size = 64 on 1 processes"),
        ({"size": 1}, "data.size must be at least 2"),
        ({"buffer": 0}, "data.buffer at least 1"),
        ({"crop": 0}, "data.crop must be in"),
        ({"resolutions": []}, "data.resolutions must be a list"),
        ({"least": 6}, "has no landmark with data.least = 6 photos"),
    ],
)
def test_what_cannot_be_streamed_is_refused(root: Path, changed: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        data(root, **changed)


def test_crops_that_the_backbone_cannot_take_are_refused(root: Path) -> None:
    streamed = data(root, resolution=24)
    with pytest.raises(InputError, match="multiples of 16, got data.resolution = 24; nearest: 32"):
        refuse_sizes(streamed.augment, streamed.resolutions, TimmBackbone("test_vit"))


@given(st.dictionaries(st.text("0123456789abcdef", min_size=1, max_size=16), st.sampled_from("xyz"), min_size=1))
def test_the_landmark_of_a_photo_is_found_by_its_id(held: dict[str, str]) -> None:
    known = Landmarks(list(held), list(held.values()))
    for name, label in held.items():
        assert known.landmarks[known.number(f"a/b.c/{name}.JPG")] == label
    assert known.number("a/zz.jpg") is None and known.number(f"{next(iter(held))}.txt") is None
