"""Revisited Oxford and Paris, their form for sets of one's own, and the distractors."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sets import expected_trapezoid, jpegs, perfect

from retrieval.benchmarks.revisited import Published, Revisited, distracting, first_of_landmark
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.data.images import full_size
from retrieval.errors import InputError

IMAGES = [f"all_souls_{i:06d}" for i in range(6)]
TRUTH = {
    "imlist": IMAGES,
    "qimlist": ["all_souls_000013", "radcliffe_camera_000002"],
    "gnd": [
        {"bbx": [1.5, 2, 20, 15], "easy": [0, 3], "hard": [1], "junk": [2]},
        {"bbx": [0, 0, 24, 16], "easy": [], "hard": [4], "junk": [5, 0]},
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set in the layout of Revisited Oxford."""
    jpegs(tmp_path / "roxford5k" / "jpg", [f"{name}.jpg" for name in (*IMAGES, *TRUTH["qimlist"])])
    (tmp_path / "roxford5k" / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(TRUTH))
    return tmp_path


def truth(change: dict[str, Any]) -> dict[str, Any]:
    """The small ground truth with its first query changed."""
    return {**TRUTH, "gnd": [{**TRUTH["gnd"][0], **change}, TRUTH["gnd"][1]]}


def test_the_official_layout_is_read(root: Path) -> None:
    benchmark = Published(str(root), "roxford5k")
    assert [Path(photo.path).name for photo in benchmark.gallery] == [f"{name}.jpg" for name in IMAGES]
    assert benchmark.queries[0].box == (1.5, 2, 20, 15) and full_size(benchmark.queries[0]) == (24, 16)
    assert benchmark.landmarks == TRUTH["qimlist"]


def test_photos_are_not_turned_and_the_convention_says_so(root: Path) -> None:
    benchmark = Published(str(root), "roxford5k", crop=False)
    assert not any(photo.upright for photo in (*benchmark.gallery, *benchmark.queries))
    assert benchmark.convention == {"crop": False, "upright": False, "distractors": 0}
    assert benchmark.queries[0].box is None


def test_photos_are_turned_where_that_is_asked_for(root: Path, distractors: Path) -> None:
    benchmark = Published(str(root), "roxford5k", distractors=str(distractors), upright=True)
    assert all(photo.upright for photo in (*benchmark.gallery, *benchmark.queries))
    assert benchmark.convention["upright"] is True
    with pytest.raises(InputError, match="upright must be true or false, got 'yes'"):
        Published(str(root), "roxford5k", upright="yes")  # pyright: ignore[reportArgumentType]


def test_values_worked_by_hand(root: Path) -> None:
    scores = np.array([[0.5, 0.9, 0.8, 0.4, 0.7, 0.1], [0.9, 0.1, 0.5, 0.2, 0.6, 0.7]])
    found = Published(str(root), "roxford5k").judge(scores)
    # First query: 1 2 4 0 3 5. Easy without junk 2 and hard 1: 4 0 3 5, found at 1 and 2 counted from 0.
    assert found["easy/mAP"] == pytest.approx(((0 / 1 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    # Medium: 1 4 0 3 5. Second query: 0 5 4 2 3 1, without junk 4 2 3 1.
    first = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3
    assert found["medium/mAP"] == pytest.approx((first + 1) / 2)
    assert found["hard/mAP"] == 1 and found["hard/mP@1"] == 1
    assert found["medium/mP@5"] == pytest.approx((3 / 4 + 1) / 2)


def test_values_are_those_of_sorted_lists(root: Path) -> None:
    benchmark, rng = Published(str(root), "roxford5k"), np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 4, (2, 6)).astype(float)  # with ties
        each = benchmark.per_query([scores[:1], scores[1:]])
        for level, (relevant, ignored) in benchmark.levels.items():
            for q in range(2):
                slow = expected_trapezoid(scores[q], relevant[q], ignored[q]) if len(relevant[q]) else np.nan
                assert each[f"{level}/AP"][q] == pytest.approx(slow, nan_ok=True)


@pytest.mark.parametrize(("name", "images"), [("roxford5k", 4993), ("rparis6k", 6322)])
def test_the_published_sets_are_whole_and_perfect_scores_are_perfect(
    shared: Path, tmp_path: Path, name: str, images: int
) -> None:
    where = tmp_path / name
    (where / "jpg").mkdir(parents=True)
    (where / f"gnd_{name}.pkl").symlink_to(shared / "data" / "revisited" / f"gnd_{name}.pkl")
    held = pickle.loads((where / f"gnd_{name}.pkl").read_bytes())
    for photo in (*held["imlist"], *held["qimlist"]):
        (where / "jpg" / f"{photo}.jpg").touch()
    cfg = load_yaml(CONFIGS / "benchmark" / f"{name}.yaml")
    benchmark = build({**cfg, "root": str(tmp_path), "download": False})
    assert len(benchmark.gallery) == images and len(benchmark.queries) == 70
    assert len(set(benchmark.landmarks)) == 11
    for level, (relevant, _) in benchmark.levels.items():
        values = benchmark.judge(perfect(70, images, relevant))
        assert all(value == 1 for key, value in values.items() if key.startswith(level))
    answered = [sum(map(bool, map(len, relevant))) for relevant, _ in benchmark.levels.values()]
    assert answered == ([68, 70, 70] if name == "roxford5k" else [70, 70, 70])


@pytest.mark.parametrize("suffix", [".pkl", ".json"])
def test_a_set_of_ones_own_is_read_from_a_file(root: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"mine{suffix}"
    file.write_bytes(pickle.dumps(TRUTH) if suffix == ".pkl" else json.dumps(TRUTH).encode())
    cfg = load_yaml(CONFIGS / "benchmark" / "revisited.yaml")
    cfg.images, cfg.truth = str(root / "roxford5k" / "jpg"), str(file)
    assert build(cfg).landmarks == TRUTH["qimlist"]


def test_arrays_in_a_ground_truth_are_as_good_as_lists(root: Path) -> None:
    arrays = {"easy": np.array([0, 3]), "bbx": np.array([1.5, 2, 20, 15])}
    assert Revisited(root / "roxford5k" / "jpg", truth(arrays)).relevant[0].tolist() == [0, 3, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"easy": [0, 6]}, "6 is outside imlist"),
        ({"easy": [0, -1]}, "-1 is outside imlist"),
        ({"junk": [0]}, "an image has two labels"),
        ({"easy": [0.5]}, "must be whole numbers, got 0.5"),
        ({"bbx": [1, 2, 3]}, "must be left, top, right, bottom"),
        ({"bbx": [20, 2, 1, 15]}, "must be left, top, right, bottom"),
        ({"bbx": [1, 2, float("nan"), 15]}, "must be left, top, right, bottom"),
    ],
)
def test_a_query_that_does_not_fit_is_refused_by_name(root: Path, change: dict, said: str) -> None:
    with pytest.raises(InputError, match=f"query all_souls_000013.*{said}"):
        Revisited(root / "roxford5k" / "jpg", truth(change))


def test_the_original_protocols_ground_truth_is_told_apart(root: Path) -> None:
    original = {**TRUTH, "gnd": [{"bbx": [0, 0, 2, 2], "ok": [0], "junk": []}] * 2}
    with pytest.raises(InputError, match="original protocol: benchmark=oxford5k"):
        Revisited(root / "roxford5k" / "jpg", original)


def test_a_list_that_leads_out_of_its_folder_is_refused(root: Path) -> None:
    for name in ("../secret", "/etc/hostname"):
        with pytest.raises(InputError, match="photos must lie below"):
            Revisited(root / "roxford5k" / "jpg", {**TRUTH, "imlist": [name, *IMAGES[1:]]})


def test_missing_photos_are_named_and_counted(root: Path) -> None:
    for i in range(1, 6):
        (root / "roxford5k" / "jpg" / f"all_souls_{i:06d}.jpg").unlink()
    with pytest.raises(InputError, match=r"5 photos are not there: .*all_souls_000001.jpg.* and 2 more"):
        Published(str(root), "roxford5k")


def test_an_absent_set_is_refused_with_what_goes_where_and_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Published(str(tmp_path), "rparis6k")
    for said in (str(tmp_path / "rparis6k" / "jpg"), "gnd_rparis6k.pkl", "parisbuildings/", "download=true"):
        assert said in str(caught.value)


def test_a_set_without_any_relevant_image_is_refused(root: Path) -> None:
    nothing = {"bbx": [0, 0, 2, 2], "easy": [], "hard": [], "junk": []}
    with pytest.raises(InputError, match="at least one of the 2 queries"):
        Revisited(root / "roxford5k" / "jpg", {**TRUTH, "gnd": [nothing, nothing]})


@pytest.fixture
def distractors(tmp_path: Path) -> Path:
    folder = tmp_path / "revisitop1m"
    jpegs(folder / "jpg", ["0/b.jpg", "0/a.jpg", "1/c.png"])
    (folder / "revisitop1m.txt").write_text("0/b\n0/a.jpg\n1/c.png\n")
    return folder


def test_distractors_join_the_gallery_and_the_ground_truth_stays(root: Path, distractors: Path) -> None:
    with_them = Published(str(root), "roxford5k", distractors=str(distractors))
    assert [Path(photo.path).name for photo in with_them.gallery[6:]] == ["b.jpg", "a.jpg", "c.png"]
    assert with_them.convention["distractors"] == 3
    alone = Published(str(root), "roxford5k")
    scores = np.random.default_rng(0).random((2, 9))
    scores[:, 6:] = -1  # last: they change nothing
    assert with_them.judge(scores) == alone.judge(scores[:, :6])
    scores[:, 6:] = 2  # first: they push every image down
    assert with_them.judge(scores)["medium/mP@1"] == 0


def test_distractors_without_a_list_are_those_of_the_folder_in_order(distractors: Path) -> None:
    (distractors / "revisitop1m.txt").unlink()
    assert [Path(photo.path).name for photo in distracting(distractors)] == ["a.jpg", "b.jpg", "c.png"]


def test_how_many_distractors_there_are_is_said(distractors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distracting(distractors)
    assert "3 distractors, revisitop1m has 1,001,001" in "".join(capsys.readouterr())


def test_a_distractor_that_is_listed_and_not_there_is_refused(distractors: Path) -> None:
    (distractors / "jpg" / "0" / "a.jpg").unlink()
    with pytest.raises(InputError, match="1 photos are not there: .*a.jpg"):
        distracting(distractors)


def test_queries_with_labels_for_the_same_images_show_one_landmark() -> None:
    lists = [([0, 1], [2]), ([5, 6], []), ([2], [0, 1, 3]), ([7, 5], [6, 8]), ([8, 9, 7], [])]
    gnd = [{"easy": easy, "hard": [], "junk": junk} for easy, junk in lists]
    assert first_of_landmark(gnd) == [0, 1, 0, 1, 4]


def test_a_later_query_joins_two_groups() -> None:
    gnd = [{"easy": easy, "hard": [], "junk": []} for easy in ([0, 1], [2, 3], [0, 1, 2, 3], [4])]
    assert first_of_landmark(gnd) == [0, 0, 0, 3]
