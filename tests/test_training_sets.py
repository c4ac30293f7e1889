"""Sets of photos to train on, small ones of the published form."""

import hashlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image
from small_sets import jpegs, table
from test_download import Site, serving, tar

from retrieval.config import CONFIGS, build, load_yaml
from retrieval.data import download, google, listed, sfm
from retrieval.data.images import UnreadablePhoto, decode
from retrieval.data.module import LandmarkData
from retrieval.errors import InputError

TRAIN = [f"{i:010x}" for i in range(0xABCDE0, 0xABCDE8)]  # clusters of four, two, one and one photos
CLUSTERS = [7, 7, 7, 7, 12, 12, 30, 31]
VAL = [f"{i:010x}" for i in range(0x123450, 0x123455)]
SAMPLER = {"_target_": "retrieval.data.batching.BalancedBatches", "size": 2}


def lies(cid: str) -> str:
    return f"ims/{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}"


def stored() -> dict[str, Any]:
    train = {
        "cids": list(TRAIN),
        "cluster": list(CLUSTERS),
        "qidxs": [0, 1, 5],
        "pidxs": [1, 3, 4],
        "bbxs": [(2.0, 1.0, 20.4, 15.0), *[None] * 7],
    }
    val = {"cids": VAL, "cluster": [3, 3, 4, 4, 5], "qidxs": np.array([0, 2]), "pidxs": np.array([1, 3]), "bbxs": []}
    return {"train": train, "val": val}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """retrieval-SfM-120k in small."""
    folder = tmp_path / "sfm120k"
    for cid in (*TRAIN, *VAL):
        (folder / lies(cid)).parent.mkdir(parents=True)
        Image.new("RGB", (24, 16)).save(folder / lies(cid), "JPEG")
    (folder / sfm.TRUTH).write_bytes(pickle.dumps(stored(), protocol=2))
    return tmp_path


@pytest.fixture
def landmarks(tmp_path: Path) -> Path:
    """The training part of Google Landmarks v2 in small."""
    names = ["aaa1", "aab2", "abc3", "bbb4", "bcd5", "ccc6"]
    jpegs(tmp_path / "gldv2/train", [f"{'/'.join(name[:3])}/{name}.jpg" for name in names])
    rows = zip(names, (7, 7, 8, 8, 8, 9), strict=True)
    table(tmp_path / "gldv2/train.csv", ("id", "url", "landmark_id"), *((name, "http", label) for name, label in rows))
    table(
        tmp_path / "gldv2/train_clean.csv",
        ("landmark_id", "images"),
        (7, "aaa1 aab2"),
        (8, "abc3 bbb4 bcd5"),
        (9, "ccc6"),
    )
    return tmp_path


def configured(name: str, **changed: Any) -> DictConfig:
    cfg = load_yaml(CONFIGS / "data" / f"{name}.yaml")
    cfg.update({"workers": 0, **changed})
    return cfg


def made(cfg: DictConfig) -> LandmarkData:
    return build(cfg, seed=0, sampler=SAMPLER, multiple=1)


def names(photos: Any) -> list[str]:
    return [Path(photo.path).stem for photo in photos.photos]


def rewrite(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    held = stored()
    change(held)
    (root / "sfm120k" / sfm.TRUTH).write_bytes(pickle.dumps(held, protocol=2))


# --- retrieval-SfM-120k ---


def test_photos_and_clusters_come_with_their_pairs(root: Path) -> None:
    photos, (queries, positives), held_out = sfm.read(str(root))
    assert names(photos) == TRAIN and photos.labels == list(map(str, CLUSTERS))
    assert (queries.tolist(), positives.tolist()) == ([0, 1, 5], [1, 3, 4])
    assert names(held_out) == VAL and held_out.labels == ["3", "3", "4", "4", "5"]
    assert all(decode(photo).size == (24, 16) and not photo.upright for photo in photos.photos)


def test_the_papers_training_takes_whole_photos_at_their_own_shape(root: Path) -> None:
    data = made(configured("sfm120k", root=str(root)))
    assert [part.shape[2:] for part in next(iter(data.train_dataloader())).pixels] == [(16, 24)]
    assert data.resolutions == [362] and data.num_classes == 4


def test_landmarks_are_held_out_of_the_sets_own_validation_part(root: Path) -> None:
    data = made(configured("sfm120k", root=str(root), validation=2))
    assert data.validation is not None and set(names(data.validation)) < set(VAL)
    assert names(data.train) == TRAIN and len(data.validation.landmarks) == 2


def test_boxes_cut_photos_where_asked(root: Path) -> None:
    rewrite(root, lambda held: held["val"].update(bbxs=[None] * 5))
    photos, _, _ = sfm.read(str(root), boxes=True)
    assert [decode(photo).size for photo in photos.photos[:2]] == [(18, 14), (24, 16)]
    assert all(photo.box is None for photo in sfm.read(str(root))[0].photos)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held.pop("val"), "'val' must hold cids, cluster, qidxs, pidxs; there is no such dictionary"),
        (lambda held: held["train"].pop("pidxs"), "'train' must hold .*; it lacks pidxs"),
        (lambda held: held["train"]["cluster"].pop(), "'train' has 8 cids and 7 cluster, one must be for each"),
        (lambda held: held["train"]["qidxs"].pop(), "'train' has 2 qidxs and 3 pidxs, one must be for each"),
        (lambda held: held["train"]["pidxs"].append(8), "'train' must have whole numbers from 0 to 7 in pidxs"),
        (lambda held: held["train"].update(qidxs=[0, 1, -1]), "whole numbers from 0 to 7 in qidxs"),
        (lambda held: held["train"].update(qidxs=[0, 1, 0.5]), "whole numbers from 0 to 7 in qidxs"),
        (lambda held: held["train"].update(qidxs=["a"] * 3), "whole numbers from 0 to 7 in qidxs"),
        (lambda held: held["train"]["cids"].__setitem__(0, "../../x"), "six characters or more in cids, got '../../x'"),
        (lambda held: held["train"]["cids"].__setitem__(0, 5), "six characters or more in cids, got 5"),
    ],
)
def test_what_does_not_fit_together_is_refused(root: Path, change: Callable[[dict], object], said: str) -> None:
    rewrite(root, change)
    with pytest.raises(InputError, match=said):
        sfm.read(str(root))


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((0, 0, 24), "left, top, right, bottom of at least a pixel in bbxs"),
        ((9, 0, 9, 5), "got \\(9, 0, 9, 5\\)"),
    ],
)
def test_boxes_that_are_none_are_refused(root: Path, box: tuple[float, ...], said: str) -> None:
    rewrite(root, lambda held: held["train"]["bbxs"].__setitem__(3, box))
    with pytest.raises(InputError, match=said):
        sfm.read(str(root), boxes=True)


def test_fewer_boxes_than_photos_are_refused(root: Path) -> None:
    with pytest.raises(InputError, match="'val' has 5 cids and 0 bbxs"):
        sfm.read(str(root), boxes=True)


def test_absent_photos_are_counted_and_said_where_they_come_from(root: Path) -> None:
    for cid in (*TRAIN[:3], *VAL[:2]):
        (root / "sfm120k" / lies(cid)).unlink()
    with pytest.raises(InputError, match=r"5 photos are not there: .*abcde0.* and 2 more\. .*ims\.tar\.gz, from http"):
        sfm.read(str(root))


def test_an_absent_set_is_refused_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sfm120k/retrieval-SfM-120k\.pkl is not there\..*train/dbs/.*download=true"):
        made(configured("sfm120k", root=str(tmp_path)))


def test_a_pickle_that_would_run_code_is_not_read(root: Path) -> None:
    (root / "sfm120k" / sfm.TRUTH).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"plain data alone .*os\.system"):
        sfm.read(str(root))


# --- Google Landmarks v2 ---


@pytest.mark.parametrize("train", ["train.csv", "train_clean.csv"])
def test_either_table_says_what_photos_show(landmarks: Path, train: str) -> None:
    data = made(configured("gldv2", root=str(landmarks), train=train, least=1))
    assert names(data.train) == ["aaa1", "aab2", "abc3", "bbb4", "bcd5", "ccc6"]
    assert data.train.labels == ["7", "7", "8", "8", "8", "9"] and data.labels == [0, 0, 1, 1, 1, 2]
    assert not any(photo.upright for photo in data.train.photos)


def test_landmarks_with_few_photos_are_left_out_aloud(landmarks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert google.read(str(landmarks)).landmarks == ["7", "8"]
    assert "1 landmarks with fewer than 2 photos are left out, 1 photos" in capsys.readouterr().out
    assert google.read(str(landmarks), least=3).landmarks == ["8"]


def test_a_number_of_photos_that_leaves_nothing_is_refused(landmarks: Path) -> None:
    with pytest.raises(InputError, match="has no landmark with data.least = 4 photos or more"):
        google.read(str(landmarks), least=4)
    with pytest.raises(InputError, match="data.least.* must be at least 1, got 0"):
        google.read(str(landmarks), least=0)


def test_photos_that_were_not_unpacked_are_counted(landmarks: Path) -> None:
    (landmarks / "gldv2/train/b/b/b/bbb4.jpg").unlink()
    with pytest.raises(InputError, match=r"1 photos are not there: .*/b/b/b/bbb4\.jpg\. .*cvdfoundation.*500 GB"):
        google.read(str(landmarks))


def test_photos_of_landmarks_that_are_left_out_may_be_absent(landmarks: Path) -> None:
    (landmarks / "gldv2/train/c/c/c/ccc6.jpg").unlink()
    assert len(google.read(str(landmarks)).photos) == 5


# --- from the official addresses ---


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server in place of the official ones."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as site:
        for module in (sfm, google):
            monkeypatch.setattr(module, "prepare", lambda name, root: download.prepare(name, root, site.base))
        yield site


def test_sfm120k_is_fetched_where_asked(site: Site, root: Path, tmp_path: Path) -> None:
    photos = {f"./{lies(cid).removeprefix('ims/')}": (root / "sfm120k" / lies(cid)).read_bytes() for cid in TRAIN + VAL}
    base = "/cmp.felk.cvut.cz/cnnimageretrieval/data/train"
    site.files[f"{base}/ims/ims.tar.gz"] = tar(photos)
    for name in ("retrieval-SfM-120k", "retrieval-SfM-120k-whiten", "retrieval-SfM-30k-whiten"):
        site.files[f"{base}/dbs/{name}.pkl"] = (root / "sfm120k" / sfm.TRUTH).read_bytes()
    data = made(configured("sfm120k", root=str(tmp_path / "elsewhere"), download=True))
    assert names(data.train) == TRAIN


def test_google_landmarks_are_fetched_where_asked(
    site: Site, landmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = download.SOURCES["gldv2_train"]
    few = [file for file in source.files if not file.unpack or file.name == "images_000.tar"]
    monkeypatch.setitem(download.SOURCES, "gldv2_train", type(source)(source.folder, tuple(few), source.terms))
    folder = landmarks / "gldv2/train"
    photos = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jpg")}
    for file in few:
        path = landmarks / "gldv2" / file.name
        content = tar(photos, ".tar") if file.unpack else path.read_bytes() if path.exists() else b"id\n"
        site.files[f"/{file.url.partition('://')[2]}"] = content
        if file.md5_at:
            site.files[f"/{file.md5_at.partition('://')[2]}"] = hashlib.md5(content).hexdigest().encode()
    data = made(configured("gldv2", root=str(tmp_path / "elsewhere"), download=True))
    assert names(data.train) == ["aaa1", "aab2", "abc3", "bbb4", "bcd5"]


# --- a CSV file ---


def test_listed_photos_are_below_the_files_folder(tmp_path: Path) -> None:
    jpegs(tmp_path, ["x/a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    rows = [("arch", "x/a.jpg"), ("dome", "b.jpg"), ("arch", "c.jpg"), ("dome", "d.jpg")]
    file = table(tmp_path / "photos.csv", ("landmark", "path", "taken"), *((*row, 2020) for row in rows))
    data = made(configured("csv", file=str(file)))
    assert names(data.train) == ["a", "b", "c", "d"] and data.train.labels == ["arch", "dome", "arch", "dome"]


def test_listed_photos_may_be_below_another_folder(photos: Path, tmp_path: Path) -> None:
    rows = [(path.relative_to(photos), path.parent.name) for path in sorted(photos.rglob("*.jpg"))]
    file = table(tmp_path / "photos.csv", ("path", "landmark"), *rows)
    data = made(configured("csv", file=str(file), root=str(photos), validation=2))
    assert len(data.train.photos) == 10 and data.validation is not None


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_csv_may_have_a_byte_order_mark_and_spaces_around_fields(ends: str, tmp_path: Path) -> None:
    lines = ["path , landmark", " a.jpg , arch ", "b.jpg,arch", "  ", "c.jpg ,  dome"]
    (tmp_path / "photos.csv").write_bytes(b"\xef\xbb\xbf" + ends.join(lines).encode())
    for name in ("a.jpg", "b.jpg", "c.jpg "):
        (tmp_path / name).touch()
    found = listed.read(tmp_path / "photos.csv")
    assert [photo.path for photo in found.photos] == [f"{tmp_path}/{name}" for name in ("a.jpg", "b.jpg", "c.jpg ")]
    assert found.labels == ["arch", "arch", "dome"]


def test_unreadable_listed_photos_are_refused_or_skipped_and_counted(tmp_path: Path) -> None:
    jpegs(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    (tmp_path / "e.jpg").write_bytes(b"no photo")
    rows = [(f"{name}.jpg", "arch" if name in "abe" else "dome") for name in "abcde"]
    file = table(tmp_path / "photos.csv", ("path", "landmark"), *rows)
    with pytest.raises(UnreadablePhoto, match=r"e\.jpg"):
        made(configured("csv", file=str(file), verify=True))
    data = made(configured("csv", file=str(file), on_unreadable="skip", verify=True))
    assert len(data.train.photos) == 4 and data.summary == "4 photos of 2 landmarks, 1 photos skipped"


def test_a_listed_landmark_with_one_photo_is_refused(tmp_path: Path) -> None:
    jpegs(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    file = table(tmp_path / "photos.csv", ("path", "landmark"), ("a.jpg", "arch"), ("b.jpg", "arch"), ("c.jpg", "dome"))
    with pytest.raises(InputError, match=r"photos\.csv needs at least two readable photos; too few in dome \(1\)"):
        made(configured("csv", file=str(file)))


def test_listed_photos_that_are_absent_are_counted(tmp_path: Path) -> None:
    file = table(tmp_path / "photos.csv", ("path", "landmark"), ("a.jpg", "arch"), ("b.jpg", "arch"))
    with pytest.raises(InputError, match="2 photos are not there"):
        listed.read(file)
