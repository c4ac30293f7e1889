"""Photos are found by a photo, with an ONNX model and no torch; what is damaged or a stranger's trap is refused."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image, ImageOps
from playwright.sync_api import sync_playwright

from retrieval import faiss_index
from retrieval.data.contents import hash_file, stamp
from retrieval.embed import Described, describe, load
from retrieval.embed.filling import fill
from retrieval.errors import InputError
from retrieval.index import Index, files, page
from retrieval.index.__main__ import main
from retrieval.spec import KEY, Spec

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
ROOT = Path(__file__).parent.parent
SPEC = Spec("thumbnails", 48, 48, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 64)
FACTORIES = ["Flat", "SQ8", "HNSW16", "IVF8,Flat", "IVF8,PQ8x4", "OPQ8,PQ8", "PQ16x4fs", "PCA12,SQ8", "IVF8,SQ4,RFlat"]


def thumbnails(path: Path, mean: float = 128) -> Path:
    """An ONNX model whose row of a photo is its thumbnail of 4 x 4, less a grey."""
    constants = {"grey": np.array([mean], np.float32), "four": np.array([4, 4]), "flat": np.array([0, -1])}
    nodes = [
        helper.make_node("Cast", [SPEC.input], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Resize", ["pixels", "", "", "four"], ["small"], mode="linear", antialias=1, axes=[2, 3]),
        helper.make_node("Sub", ["small", "grey"], ["centred"]),
        helper.make_node("Reshape", ["centred", "flat"], ["rows"]),
        helper.make_node("LpNormalization", ["rows"], [SPEC.output], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "thumbnails",
        [helper.make_tensor_value_info(SPEC.input, TensorProto.UINT8, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info(SPEC.output, TensorProto.FLOAT, ["b", 48])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {KEY: SPEC.json()})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return thumbnails(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def index(model: Path, photos: Path) -> Index:
    return Index.build(model, photos)


@pytest.fixture
def saved(index: Index, tmp_path: Path) -> Path:
    manifest = {k: v for k, v in index.manifest.items() if k not in files.NAMES}
    Index(index.rows, index.images, manifest, index.contents).save(folder := tmp_path / "saved")
    return folder


def rows(count: int, seed: int = 0, dim: int = 16) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def described(of: np.ndarray, start: int = 0, **others: Any) -> Described:
    """Rows as if photos had been described by a model that nobody has."""
    manifest = {"model": "gone", "fingerprint": "f" * 64, "name": "none", "dim": of.shape[1], "resolution": 64}
    paths = [f"/photos/{i}.jpg" for i in range(start, start + len(of))]
    return Described(of, paths, {**manifest, "scales": [1.0], **others})


def test_three_lines_find_a_photo_by_a_photo(model: Path, photos: Path) -> None:
    index = Index.build(model, photos)
    found = index.search(photos / "dome" / "2.jpg", k=5)
    assert found[0] == (pytest.approx(1, abs=1e-5), str(photos / "dome" / "2.jpg"))
    assert {Path(path).parent.name for _, path in found} == {"dome"}


def test_what_is_saved_and_opened_finds_the_same(index: Index, saved: Path, photos: Path) -> None:
    query = photos / "arch" / "0.jpg"
    assert Index.open(saved).search(query, 20) == index.search(query, 20)


def test_descriptors_give_the_index_that_their_photos_give(
    index: Index, model: Path, photos: Path, tmp_path: Path
) -> None:
    fill(tmp_path / "rows", load(model), [str(photos)])
    made = Index.build(None, tmp_path / "rows")
    assert made.images == index.images
    assert made.search(photos / "arch" / "0.jpg") == index.search(photos / "arch" / "0.jpg")


def test_photos_and_descriptors_are_added_and_those_that_are_there_counted(
    index: Index, model: Path, photos: Path
) -> None:
    made = Index.build(model, [photos / "arch", photos / "dome" / "0.jpg"])
    assert made.add([describe(load(model), photos / "arch"), photos / "dome", photos / "castle"]) == 9
    assert made.left_out.already == 6
    made.add(photos)
    assert sorted(made.images) == index.images and made.rows.ntotal == len(index.images)
    assert made.search(photos / "dome" / "3.jpg", 3) == index.search(photos / "dome" / "3.jpg", 3)


def test_a_photo_that_two_sources_have_comes_once(model: Path, photos: Path) -> None:
    made = Index.build(model, [describe(load(model), photos / "arch"), photos / "arch"])
    assert (len(made.images), made.left_out.already) == (5, 5)


def test_photos_that_cannot_be_read_are_listed_and_the_others_come_in(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "cut.jpg").write_bytes((photos / "arch" / "0.jpg").read_bytes()[:300])
    made = Index.build(model, [photos / "arch", tmp_path / "cut.jpg"])
    assert len(made.images) == 5
    assert [one["path"] for one in made.left_out.unreadable] == [str(tmp_path / "cut.jpg")]


@pytest.mark.parametrize("factory", FACTORIES)
def test_any_index_of_inner_products_finds_its_rows_also_when_added_and_opened(factory: str, tmp_path: Path) -> None:
    held = rows(600)
    made = Index.build(None, described(held[:500]), factory)
    made.add(described(held[500:], 500))
    made.save(tmp_path / "index")
    found = Index.open(tmp_path / "index").nearest(held[::40], 5)
    first = [of_query[0][1] for of_query in found]
    assert np.mean([path == f"/photos/{i}.jpg" for path, i in zip(first, range(0, 600, 40), strict=True)]) >= 0.8
    assert all(scores == sorted(scores, reverse=True) for scores in ([s for s, _ in of_query] for of_query in found))


def test_a_flat_index_scores_by_inner_product() -> None:
    held, asked = rows(300), rows(1, seed=1)[0]
    scores = held @ asked
    found = Index.build(None, described(held)).search(asked, 7)
    assert [path for _, path in found] == [f"/photos/{i}.jpg" for i in np.argsort(-scores)[:7]]
    np.testing.assert_allclose([score for score, _ in found], np.sort(scores)[::-1][:7], atol=1e-6)


@pytest.mark.parametrize("factory", ["Flat", "SQ8", "HNSW16"])
@pytest.mark.parametrize("k", [1, 4, 9, 40])
def test_of_equal_scores_the_photo_that_came_first_is_first(factory: str, k: int) -> None:
    alike = np.eye(16, dtype=np.float32)[np.arange(40) % 4]  # rounding cannot tell them apart
    found = Index.build(None, described(alike), factory).search(alike[1], k)
    expected = sorted(range(40), key=lambda i: (i % 4 != 1, i))[:k]
    assert [path for _, path in found][:10] == [f"/photos/{i}.jpg" for i in expected][:10]


def test_a_graph_finds_as_many_as_are_asked_for() -> None:
    found = Index.build(None, described(rows(400)), "HNSW16").search(rows(1, seed=1)[0], 300)
    assert len({path for _, path in found}) == 300


def test_more_than_there_are_gives_all(index: Index, photos: Path) -> None:
    assert len(index.search(photos / "arch" / "0.jpg", 1000)) == 20


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_k_is_a_whole_number_from_1(index: Index, k: Any) -> None:
    with pytest.raises(InputError, match=f"k must be a whole number from 1, got {k}"):
        index.search(rows(1, dim=48)[0], k)


def test_rows_of_another_length_are_refused(index: Index) -> None:
    with pytest.raises(InputError, match=re.escape("rows must be (n, 48), as those of the index, got (1, 16)")):
        index.search(rows(1)[0])


def test_photos_without_a_model_are_refused(photos: Path) -> None:
    with pytest.raises(InputError, match="photos need a model that describes them"):
        Index.build(None, photos)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("IVF64,Flat", "factory 'IVF64,Flat' trains 64 clusters and needs as many images, the gallery has 20"),
        ("IVF1k,Flat", "trains 1024 clusters"),
        ("PQ7", "factory 'PQ7' is no faiss index of inner products in 48 dimensions"),
        ("Foo", "could not parse index string Foo; accepted: Flat, SQ8"),
        ("NSG16", "it is of IndexNSGFlat"),
        ("HNSW16_PQ8", "it is of IndexHNSWPQ"),
    ],
)
def test_an_index_that_cannot_be_made_is_refused(model: Path, photos: Path, factory: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Index.build(model, photos, factory)


def test_rows_of_two_models_are_refused(index: Index, photos: Path, tmp_path: Path) -> None:
    other = thumbnails(tmp_path / "other.onnx", mean=100)
    with pytest.raises(InputError, match="an index is of one model at one size: fingerprint"):
        Index.build(None, [describe(load(path), photos / "arch") for path in (other, index.manifest["model"])])
    with pytest.raises(InputError, match="other.onnx is another model"):
        Index.build(other, [describe(load(index.manifest["model"]), photos / "arch"), photos / "dome"])


@pytest.mark.parametrize(
    ("others", "said"), [({"resolution": 32}, "resolution 64 of"), ({"scales": [1.0, 0.5]}, "scales [1.0] of")]
)
def test_rows_of_two_sizes_are_refused(others: dict, said: str) -> None:
    made = Index.build(None, described(rows(5)))
    with pytest.raises(InputError, match=re.escape(said)):
        made.add(described(rows(5), 5, **others))
    assert made.rows.ntotal == len(made.images) == 5


def test_a_model_is_named_where_it_moved_and_no_other_is_taken(model: Path, photos: Path, tmp_path: Path) -> None:
    before = shutil.copy(model, tmp_path / "before.onnx")
    Index.build(before, photos).save(tmp_path / "index")
    after = Path(before).rename(tmp_path / "after.onnx")
    query = photos / "arch" / "0.jpg"
    with pytest.raises(InputError, match="before.onnx"):
        Index.open(tmp_path / "index").search(query)
    assert Index.open(tmp_path / "index", after).search(query)[0][1] == str(query)
    with pytest.raises(InputError, match="other.onnx is another model"):
        Index.open(tmp_path / "index", thumbnails(tmp_path / "other.onnx", mean=100)).search(query)


def test_no_score_is_above_1_and_of_those_cut_to_1_the_first_photo_is_first() -> None:
    made = Index.build(None, described(np.repeat(held := rows(300), 2, axis=0) * np.float32(1 + 1e-6)))
    assert faiss_index.nearest(made.rows, held, 1)[0].max() > 1
    found = made.nearest(held, 2)
    assert all(-1 <= score <= 1 for of_query in found for score, _ in of_query)
    assert [path for of_query in found for _, path in of_query] == made.images
    assert all(-1 <= score <= 1 for score, _ in made.nearest(-held[:1], 600)[0])


# Photos that change, go and come


@pytest.fixture
def own(photos: Path, tmp_path: Path) -> Path:
    """Photos that a test may change."""
    return Path(shutil.copytree(photos, tmp_path / "own"))


def overwrite(photo: Path, other: Path) -> None:
    """The mirror image of another photo, under the same name and time of change."""
    before = photo.stat()
    with Image.open(other) as image:
        ImageOps.mirror(image).save(photo)
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))


def assert_finds_as(made: Index, wanted: Index) -> None:
    asked = rows(20, seed=2, dim=made.rows.d)
    for found, expected in zip(made.nearest(asked, 9), wanted.nearest(asked, 9), strict=True):
        assert [path for _, path in found] == [path for _, path in expected]
        np.testing.assert_allclose([score for score, _ in found], [score for score, _ in expected], atol=1e-6)


@pytest.mark.parametrize("factory", ["Flat", "IVF2,Flat"])
def test_a_photo_that_was_overwritten_is_renewed(model: Path, own: Path, factory: str) -> None:
    made = Index.build(model, own, factory)
    overwrite(own / "arch" / "0.jpg", own / "dome" / "0.jpg")
    assert made.add(own) == 0
    assert (made.renewed, made.left_out.already, len(made.images), made.rows.ntotal) == (1, 19, 20, 20)
    found = made.search(own / "arch" / "0.jpg", 1)
    assert found == [(pytest.approx(1, abs=1e-6), str(own / "arch" / "0.jpg"))]
    if factory == "Flat":
        assert_finds_as(made, Index.build(model, own))


def test_copies_with_other_stamps_are_not_described_again(model: Path, own: Path) -> None:
    made = Index.build(model, own)
    shutil.move(own, own.with_name("before"))
    shutil.copytree(own.with_name("before"), own)
    os.utime(own / "arch" / "0.jpg", (1, 1))
    made.given = "no model is loaded"
    assert made.add(own) == 0 and (made.renewed, made.left_out.already) == (0, 20)
    assert all(one.stamp == stamp(path) for path, one in made.contents.items())


@pytest.mark.parametrize("factory", ["HNSW16", "PQ16x4fs", "Flat,RFlat"])
def test_an_index_whose_rows_stay_refuses_a_photo_that_changed(model: Path, own: Path, factory: str) -> None:
    made = Index.build(model, own, factory)
    overwrite(own / "arch" / "0.jpg", own / "dome" / "0.jpg")
    made.given = "no model is loaded"
    said = f"1 photos have changed .*arch/0.jpg.*, and no rows can be removed from {factory}: build the index again"
    with pytest.raises(InputError, match=said):
        made.add(own)
    with pytest.raises(InputError, match="1 photos are to be removed .*no rows can be removed"):
        made.remove([own / "arch" / "0.jpg"])
    assert len(made.images) == made.rows.ntotal == 20


def test_descriptors_of_changed_photos_renew_and_stale_ones_do_not(model: Path, own: Path, tmp_path: Path) -> None:
    changed = own / "arch" / "0.jpg"
    fill(tmp_path / "old", load(model), [str(own)])
    made = Index.build(None, tmp_path / "old")
    overwrite(changed, own / "dome" / "0.jpg")
    fill(tmp_path / "new", load(model), [str(own)])
    made.given = "no model is loaded"
    assert made.add(tmp_path / "new") == 0 and made.renewed == 1
    assert made.contents[str(changed)].hash == hash_file(changed)
    assert made.add(tmp_path / "old") == 0 and (made.renewed, made.left_out.already) == (0, 20)
    assert_finds_as(made, Index.build(None, tmp_path / "new"))


def test_a_build_takes_the_row_of_the_bytes_that_a_photo_has(model: Path, own: Path, tmp_path: Path) -> None:
    fill(tmp_path / "old", load(model), [str(own / "arch")])
    overwrite(own / "arch" / "0.jpg", own / "dome" / "0.jpg")
    assert_finds_as(Index.build(model, [tmp_path / "old", own]), Index.build(model, own))


@pytest.mark.parametrize(("now", "said"), [("bridge", "has others now"), ("gone", "is gone")])
def test_rows_of_bytes_that_a_photo_has_no_more_are_refused(
    model: Path, own: Path, tmp_path: Path, now: str, said: str
) -> None:
    photo = own / "arch" / "0.jpg"
    made = Index.build(model, own)
    overwrite(photo, own / "dome" / "0.jpg")
    fill(tmp_path / "rows", load(model), [str(own)])
    photo.unlink() if now == "gone" else overwrite(photo, own / now / "0.jpg")
    with pytest.raises(InputError, match=f"arch/0.jpg was described twice, from different bytes, and {said}"):
        made.add(tmp_path / "rows")
    assert made.rows.ntotal == 20


def test_the_row_of_a_photo_that_changed_and_cannot_be_read_goes(model: Path, own: Path) -> None:
    made = Index.build(model, own)
    (own / "arch" / "0.jpg").write_text("no photo")
    shutil.copy(own / "dome" / "0.jpg", own / "new.jpg")
    assert made.add(own) == 1 and [one["path"] for one in made.left_out.unreadable] == [str(own / "arch" / "0.jpg")]
    assert str(own / "arch" / "0.jpg") not in made.images and len(made.images) == made.rows.ntotal == 20


def test_the_row_of_a_photo_that_is_gone_stays_and_it_is_said(model: Path, own: Path) -> None:
    made = Index.build(model, own)
    (own / "arch" / "0.jpg").unlink()
    assert made.add([own / "arch" / "0.jpg", own / "dome"]) == 0 and made.left_out.already == 5
    assert made.left_out.unreadable[0]["reason"] == "its file is gone, its row stays" and made.rows.ntotal == 20


def test_an_index_of_an_older_version_is_added_to_and_what_cannot_be_told_is_said(
    saved: Path, photos: Path, capsys: pytest.CaptureFixture
) -> None:
    the(saved, "contents").unlink()
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "contents"}))
    assert run("add", saved, photos) == 0
    out = capsys.readouterr().out
    assert "0 photos added" in out and "20 were there already" in out
    assert "20 of these have no hash (an older version described them)" in out


def test_an_index_that_is_added_to_from_the_terminal_keeps_what_was_renewed(
    model: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("build", own, "--model", model, "-o", tmp_path / "index") == 0
    overwrite(own / "arch" / "0.jpg", own / "dome" / "0.jpg")
    capsys.readouterr()
    assert run("add", tmp_path / "index", own) == 0
    assert "0 photos added" in (out := capsys.readouterr().out) and "1 renewed, 19 were there already" in out
    assert_finds_as(Index.open(tmp_path / "index"), Index.build(model, own))
    assert run("add", tmp_path / "index", own) == 0
    assert "0 renewed, 20 were there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    "factory", ["Flat", "SQ8", "IVF8,Flat", "IVF8,PQ8x4", "OPQ8,PQ8", "PCA12,SQ8", "PCA12,IVF8,Flat", "IVF8_HNSW8,Flat"]
)
def test_what_is_left_after_a_removal_is_found_as_before_and_may_be_added_to(factory: str, tmp_path: Path) -> None:
    held = rows(600)
    kept, gone = np.array_split(np.random.default_rng(1).permutation(600), [450])
    made = Index.build(None, described(held), factory)
    before = made.nearest(held[:30], 600)
    assert made.remove(f"/photos/{i}.jpg" for i in gone) == 150
    made.save(tmp_path / "index")
    made = Index.open(tmp_path / "index")
    assert made.images == [f"/photos/{i}.jpg" for i in sorted(kept)]
    paths = set(made.images)
    assert made.nearest(held[:30], 450) == [[one for one in found if one[1] in paths] for found in before]
    made.add(described(held[gone][:1], start=600))
    assert made.nearest(held[gone][:1], 1)[0][0][1] == "/photos/600.jpg"


def test_photos_and_folders_are_removed_also_where_they_are_gone(
    model: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("build", own, "--model", model, "-o", tmp_path / "index") == 0
    shutil.rmtree(own / "castle")
    (tmp_path / "list").write_text(f"{own}/arch/0.jpg\n")
    capsys.readouterr()
    assert run("remove", tmp_path / "index", own / "castle", f"@{tmp_path}/list") == 0
    assert "6 photos removed" in (out := capsys.readouterr().out) and "14 are left" in out
    left = Index.open(tmp_path / "index").images
    assert len(left) == 14 and not any("castle" in path or path.endswith("arch/0.jpg") for path in left)


def test_photos_whose_files_are_gone_are_removed(
    model: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("build", own, "--model", model, "-o", tmp_path / "index") == 0
    (own / "arch" / "0.jpg").unlink()
    (own / "dome" / "4.jpg").unlink()
    assert run("remove", tmp_path / "index", "--missing") == 0
    assert "2 photos removed" in capsys.readouterr().out
    assert run("remove", tmp_path / "index", "--missing") == 0
    assert "0 photos removed" in capsys.readouterr().out
    assert not Index.open(tmp_path / "index").missing()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["{photos}/arch", "{photos}/nowhere.jpg"], "1 of 2 paths are not in the index: {photos}/nowhere.jpg; nothing"),
        (["{photos}/arc"], "1 of 1 paths are not in the index"),
        (["{photos}"], "these are all 20 photos of the index"),
        ([], "no photos to remove"),
    ],
)
def test_a_removal_that_cannot_be_whole_removes_nothing(
    saved: Path, photos: Path, capsys: pytest.CaptureFixture, asked: list[str], said: str
) -> None:
    assert run("remove", saved, *(word.format(photos=photos) for word in asked)) == 2
    assert said.format(photos=photos) in capsys.readouterr().err
    assert len(Index.open(saved).images) == 20


def test_a_result_whose_photo_is_gone_says_so(
    model: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("build", own, "--model", model, "-o", tmp_path / "index") == 0
    gone, query = own / "arch" / "1.jpg", own / "arch" / "0.jpg"
    gone.unlink()
    asked = ["search", tmp_path / "index", query, "-k", 5]
    capsys.readouterr()
    assert run(*asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.endswith("  (gone)")] == [str(gone)]
    assert run(*asked, "--json", "--html", tmp_path / "page.html") == 0
    (found,) = json.loads(capsys.readouterr().out)["queries"]
    assert {one["path"] for one in found["found"] if not one["exists"]} == {str(gone)}
    text = (tmp_path / "page.html").read_text()
    assert "Photos found whose files are gone: 1." in text and "photo missing: 1.jpg" in text


def test_a_photo_is_left_out_of_what_is_found_for_it_and_as_many_come(
    saved: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    query = photos / "arch" / "0.jpg"
    expected = [path for _, path in Index.open(saved).search(query, 7) if path != str(query)]
    linked, copied = tmp_path / "linked.jpg", Path(shutil.copy(query, tmp_path / "copied.jpg"))
    linked.symlink_to(query)
    assert run("search", saved, query, linked, copied, "-k", 6, "--exclude-self", "--json") == 0
    for asked in json.loads(capsys.readouterr().out)["queries"]:
        assert [one["path"] for one in asked["found"]] == expected
    assert len(Index.open(saved).search(query, 30, exclude_self=True)) == 19


def test_copies_of_a_query_do_not_use_up_the_places_of_others(model: Path, photos: Path, tmp_path: Path) -> None:
    for i in range(30):
        shutil.copy(photos / "arch" / "0.jpg", tmp_path / f"{i}.jpg")
    made = Index.build(model, [tmp_path, photos])
    found = made.search(tmp_path / "3.jpg", 3, exclude_self=True)
    assert [path for _, path in found] == [p for _, p in made.search(tmp_path / "3.jpg", 34) if str(tmp_path) not in p][
        1:4
    ]


def test_a_query_without_a_hash_is_left_out_by_its_path(index: Index, photos: Path) -> None:
    older = Index(index.rows, index.images, index.manifest)
    query = photos / "dome" / "1.jpg"
    assert older.search(query, 4, exclude_self=True) == older.search(query, 5)[1:]


def test_a_row_cannot_be_left_out_of_what_is_found_for_it(index: Index) -> None:
    with pytest.raises(InputError, match="exclude_self needs a photo"):
        index.search(rows(1, dim=48)[0], exclude_self=True)


# What is written


def test_a_process_killed_between_the_files_leaves_the_index_that_was_there(saved: Path, photos: Path) -> None:
    code = (
        "import os, sys; from retrieval.index import Index, files\n"
        "real = files.write_json\n"
        "files.write_json = lambda path, content: os._exit(9) if path.name == sys.argv[2] else real(path, content)\n"
        "index = Index.open(sys.argv[1])\n"
        "index.images = index.images[::-1]\n"
        "index.save(sys.argv[1])"
    )
    before = Index.open(saved)
    done = subprocess.run([sys.executable, "-c", code, saved, files.MANIFEST], cwd=ROOT, check=False)
    assert done.returncode == 9 and len(list(saved.iterdir())) > 4
    opened = Index.open(saved)
    assert opened.images == before.images
    opened.save(saved)
    assert len(list(saved.iterdir())) == 4


def test_an_index_that_another_process_added_to_is_not_overwritten(saved: Path, model: Path, photos: Path) -> None:
    first, second = Index.open(saved), Index.open(saved)
    first.save(saved)
    with pytest.raises(InputError, match="was added to meanwhile"):
        second.save(saved)
    with pytest.raises(InputError, match="holds another index"):
        Index.build(model, photos / "arch").save(saved)


# What a stranger wrote


def changed(folder: Path, **values: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **values}))


def the(folder: Path, kind: str) -> Path:
    return folder / json.loads((folder / "manifest.json").read_text())[kind]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dim": "48"}, "dim must be a whole number"),
        ({"dim": 2**40}, "dim must be a whole number"),
        ({"dim": 47}, "they must agree"),
        ({"resolution": True}, "resolution must be a whole number"),
        ({"model": ["x"]}, "model must be a text"),
        ({"fingerprint": None}, "fingerprint must be a text"),
        ({"scales": []}, "scales must be"),
        ({"factory": 3}, "factory must be a text"),
        ({"index": "../elsewhere.faiss"}, "index must be named index-MARK.faiss"),
        ({"images": "/etc/passwd"}, "images must be named images-MARK.json"),
        ({"images": "images-000000000000.json"}, "cannot be read"),
        ({"contents": "../contents.json"}, "contents must be named contents-MARK.json"),
        ({"contents": "contents-000000000000.json"}, "cannot be read"),
    ],
)
def test_a_manifest_that_is_none_is_refused(saved: Path, values: dict, said: str) -> None:
    changed(saved, **values)
    with pytest.raises(InputError, match=said):
        Index.open(saved)


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, "\udcff", "{"])
def test_a_manifest_that_is_no_object_is_refused(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_bytes(os.fsencode(text))
    with pytest.raises(InputError, match="manifest.json"):
        Index.open(saved)


@pytest.mark.parametrize(
    "images", [[], ["a"] * 19, ["a"] * 21, [1] * 20, {"a": 1}, [["a"]] * 20, [None] * 20, "a" * 20]
)
def test_images_that_are_not_the_paths_of_the_rows_are_refused(saved: Path, images: Any) -> None:
    the(saved, "images").write_text(json.dumps(images))
    with pytest.raises(InputError, match="must be a list of paths|they must agree"):
        Index.open(saved)


def test_descriptors_are_no_index(model: Path, photos: Path, tmp_path: Path) -> None:
    fill(tmp_path / "rows", load(model), [str(photos / "arch")])
    with pytest.raises(InputError, match="is it of descriptors"):
        Index.open(tmp_path / "rows")
    with pytest.raises(InputError, match="is no index: it has no manifest.json"):
        Index.open(photos)


@pytest.mark.parametrize(
    "content",
    [b"", b"IxFI", pickle.dumps({"a": 1}), np.random.default_rng(0).bytes(5000), b"\x00" * 5000],
    ids=["empty", "cut", "pickle", "noise", "zeros"],
)
def test_a_file_that_is_no_index_is_refused(saved: Path, content: bytes) -> None:
    the(saved, "index").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an index of faiss"):
        Index.open(saved)


@pytest.mark.parametrize("factory", FACTORIES)
def test_an_index_that_is_cut_off_anywhere_is_refused(factory: str, tmp_path: Path) -> None:
    Index.build(None, described(rows(600)), factory).save(tmp_path)
    whole = the(tmp_path, "index").read_bytes()
    for size in np.linspace(1, len(whole) - 1, 60).astype(int):
        the(tmp_path, "index").write_bytes(whole[:size])
        with pytest.raises(InputError, match="cannot be read as an index of faiss"):
            Index.open(tmp_path)


def forged(made: Any, path: Path) -> None:
    faiss.write_index(made, str(path))


def test_an_index_that_claims_more_than_its_file_holds_is_refused_and_allocates_nothing(saved: Path) -> None:
    content = bytearray(the(saved, "index").read_bytes())
    at = content.index((20 * 48).to_bytes(8, "little"), 30)  # the number of floats before the floats
    content[at : at + 8] = (2**38).to_bytes(8, "little")
    the(saved, "index").write_bytes(content)
    with pytest.raises(InputError, match="byte_limit"):
        Index.open(saved)


def test_limits_hold_while_a_file_is_read_alone(saved: Path) -> None:
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    Index.open(saved)
    the(saved, "index").write_bytes(b"IxFI")
    with pytest.raises(InputError):
        Index.open(saved)
    assert (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()) == before


def filled(factory: str, held: np.ndarray, metric: int = faiss.METRIC_INNER_PRODUCT) -> Any:
    made = faiss.index_factory(held.shape[1], factory, metric)
    made.train(held)
    made.add(held)
    return made


def mapped(held: np.ndarray) -> Any:
    made = faiss.IndexIDMap(faiss.IndexFlatIP(held.shape[1]))
    made.add_with_ids(held, np.arange(len(held)))
    return made


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda held: filled("Flat", held, faiss.METRIC_L2), "its scores are no inner products|IndexFlatL2"),
        (mapped, "it is of IndexIDMap"),
        (lambda held: filled("Flat", held[:, :47].copy()), "they must agree"),
        (lambda held: filled("Flat", held[:19]), "they must agree"),
    ],
    ids=["distances", "kind", "dimensions", "rows"],
)
def test_an_index_of_something_else_is_refused(saved: Path, made: Callable, said: str) -> None:
    forged(made(rows(20, dim=48)), the(saved, "index"))
    with pytest.raises(InputError, match=said):
        Index.open(saved)


def test_rows_that_are_not_numbered_from_0_are_refused(saved: Path) -> None:
    made = faiss.index_factory(48, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
    made.train(rows(20, dim=48))
    made.add_with_ids(rows(20, dim=48), np.arange(20) - 5)  # one below 0 would be taken from the list's end
    forged(made, the(saved, "index"))
    with pytest.raises(InputError, match="does not number its 20 rows from 0 on"):
        Index.open(saved)


def test_an_index_whose_lists_lie_in_another_file_is_refused_and_that_file_not_opened(
    saved: Path, tmp_path: Path
) -> None:
    made = filled("IVF2,Flat", rows(20, dim=48))
    lists, elsewhere = faiss.InvertedListsPtrVector(), str(tmp_path / "lists")
    lists.push_back(made.invlists)
    on_disk = faiss.OnDiskInvertedLists(2, made.code_size, elsewhere)
    on_disk.merge_from_multiple(lists.data(), lists.size())
    made.replace_invlists(on_disk)
    forged(made, the(saved, "index"))
    os.remove(elsewhere)
    with pytest.raises(InputError, match="has its lists in another file, '.*lists'"):
        Index.open(saved)


def test_rows_that_spell_the_name_of_such_lists_are_read(tmp_path: Path) -> None:
    held = rows(40)
    held[0] = np.frombuffer(faiss_index.ON_DISK * 16, np.float32)
    forged(filled("IVF2,Flat", held), tmp_path / "index")
    assert faiss_index.read(tmp_path / "index", "the index").ntotal == 40


# The command line


def test_photos_are_indexed_added_and_found_without_torch(model: Path, photos: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'timm', 'hydra', 'omegaconf', 'lightning'): sys.modules[name] = None\n"
        "from retrieval.index.__main__ import main\n"
        "model, photos, folder = sys.argv[1:]\n"
        "assert main(['build', photos + '/arch', '--model', model, '-o', folder]) == 0\n"
        "assert main(['add', folder, photos + '/dome']) == 0\n"
        "assert main(['remove', folder, photos + '/dome/2.jpg']) == 0\n"
        "assert main(['search', folder, photos + '/dome/1.jpg', '-k', '3', '--html', folder + '/page.html']) == 0\n"
    )
    asked = [sys.executable, "-c", code, str(model), str(photos), str(tmp_path / "index")]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"\n{photos}/dome/1.jpg\n  1.0000  {photos}/dome/1.jpg\n" in done.stdout
    assert (tmp_path / "index" / "page.html").read_text().count("<li>") == 3


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def test_results_are_one_document_of_json(
    saved: Path, photos: Path, index: Index, capsys: pytest.CaptureFixture
) -> None:
    queries = [photos / "arch" / "0.jpg", photos / "dome" / "0.jpg"]
    assert run("search", saved, *queries, "-k", 2, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["query"] for one in document["queries"]] == list(map(str, queries))
    assert [(found["score"], found["path"]) for found in document["queries"][1]["found"]] == index.search(queries[1], 2)


def test_a_query_that_cannot_be_read_is_named_and_the_others_go_on(
    saved: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    assert run("search", saved, tmp_path / "bad.jpg", photos / "arch" / "0.jpg") == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"{photos}/arch/0.jpg\n") and str(tmp_path / "bad.jpg") in said.err
    assert run("search", saved, tmp_path / "bad.jpg") == 1
    assert str(tmp_path / "bad.jpg") in capsys.readouterr().err


def test_a_build_says_what_came_in_and_what_did_not(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    (tmp_path / "list").write_text(f"{photos}/arch\n{tmp_path}/bad.jpg\n")
    assert run("build", f"@{tmp_path}/list", "--model", model, "-o", tmp_path / "index") == 0
    said = capsys.readouterr()
    assert f"not described: {tmp_path}/bad.jpg" in said.err
    assert "5 photos added" in said.out and "1 could not be described" in said.out
    assert run("add", tmp_path / "index", photos / "arch", photos / "dome" / "0.jpg") == 0
    assert "1 photos added" in (out := capsys.readouterr().out) and "5 were there already" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "{photos}", "-o", "{photos}"], "holds something already"),
        (["build", "{photos}", "-o", "{new}"], "photos need a model"),
        (["search", "{photos}", "{photos}/arch/0.jpg"], "is no index"),
        (["search", "{saved}", "{photos}/arch/0.jpg", "-k", "0"], "k must be a whole number from 1"),
        (["search", "{saved}", "{photos}/arch/0.jpg", "--model", "{new}/none.onnx"], "none.onnx"),
    ],
)
def test_what_cannot_be_asked_is_an_error(
    arguments: list[str], said: str, saved: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    where = {"photos": photos, "saved": saved, "new": tmp_path / "new"}
    assert run(*(argument.format(**where) for argument in arguments)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ") and not (tmp_path / "new").exists()


# The page


@pytest.fixture
def strange(photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(photos / "arch" / "0.jpg", tmp_path / '<b>&".jpg'))


def shown(queries: Iterable[tuple[str, page.Found]], file: Path) -> str:
    page.write(file, "a <model>", list(queries), [{"path": "/<i>.jpg", "reason": "cut"}])
    return file.read_text()


def test_names_of_files_are_shown_as_they_are(strange: Path, tmp_path: Path) -> None:
    text = shown([(str(strange), [(0.5, str(strange))])], tmp_path / "page.html")
    assert "<b>&" not in text and text.count("&lt;b&gt;&amp;&quot;.jpg") >= 4
    assert "<model>" not in text and "<i>" not in text


def test_a_photo_that_is_gone_is_shown_as_missing_with_its_name(strange: Path, tmp_path: Path) -> None:
    text = shown([(str(strange), [(0.5, str(tmp_path / "gone.jpg"))])], tmp_path / "page.html")
    assert "photo missing: gone.jpg" in text and "0.500" in text


def test_a_page_is_self_contained_and_each_photo_has_its_words(index: Index, photos: Path, tmp_path: Path) -> None:
    query = str(photos / "arch" / "0.jpg")
    text = shown([(query, index.search(query, 4))], tmp_path / "page.html")
    images = re.findall(r'<img src="([^"]*)" alt="([^"]*)"', text)
    assert len(images) == 5 and all(source.startswith("data:image/") for source, _ in images)
    assert images[0][1] == "query 0.jpg" and images[1][1] == "0.jpg, found 1. with score 1.000"
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_page_is_as_wide_as_the_screen(width: int, photos: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 200) / ("y" * 200)
    deep.mkdir(parents=True)
    query = str(shutil.copy(photos / "arch" / "0.jpg", deep))
    shown(
        [(query, [(0.9, query), (0.8, str(deep / ("gone" * 40))), (0.7, str(photos / "dome" / "0.jpg"))])],
        tmp_path / "page.html",
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": width, "height": 800})
        opened.goto((tmp_path / "page.html").as_uri())
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()


def test_a_name_that_is_no_text_is_written_and_shown_by_escapes(strange: Path, saved: Path) -> None:
    odd = str(strange.with_name(os.fsdecode(b"\xff\x1b[31m\n.jpg")))
    shutil.copy(strange, odd)
    words = [sys.executable, "-m", "retrieval.index", "search", saved, odd, "--html", saved / "page.html"]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, check=True, text=True)
    assert done.stdout.splitlines()[0] == str(strange.with_name(r"\udcff\x1b[31m\n.jpg"))
    assert (saved / "page.html").is_file()


def test_names_are_printed_where_the_terminal_knows_ascii_alone(strange: Path, saved: Path) -> None:
    odd = shutil.copy(strange, strange.with_name("ünï 中.jpg"))
    words = [sys.executable, "-m", "retrieval.index", "search", str(saved), str(odd), str(strange.with_name("kein ß"))]
    ascii_alone = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, cwd=ROOT, env=ascii_alone, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0] == str(strange.with_name(r"\xfcn\xef \u4e2d.jpg"))
    assert done.returncode == 1 and r"kein \xdf: No such file or directory" in done.stderr
