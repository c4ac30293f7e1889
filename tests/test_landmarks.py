import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.data.landmarks import contact_sheet, write

TINY = {"train_landmarks": 3, "test_landmarks": 4, "photos": 6, "distractors": 6}
FEW = {"train_landmarks": 1, "test_landmarks": 1, "photos": 1, "distractors": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("landmarks") / "tiny", seed=0, **TINY)


@pytest.fixture(scope="module")
def truth(root: Path) -> dict:
    return json.loads((root / "gnd.json").read_text())


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def labelled(query: dict) -> list[int]:
    return query["easy"] + query["hard"] + query["junk"]


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    assert contents(write(tmp_path / "once", seed=0, **FEW)) == contents(write(tmp_path / "again", seed=0, **FEW))


def test_another_seed_gives_other_photos(root: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", seed=1, **FEW)
    assert (other / "train/000/000.jpg").read_bytes() != (root / "train/000/000.jpg").read_bytes()


def test_every_training_landmark_has_its_photos(root: Path) -> None:
    assert [len(list(folder.glob("*.jpg"))) for folder in sorted((root / "train").iterdir())] == [6, 6, 6]


def test_lists_name_all_test_photos_once(root: Path, truth: dict) -> None:
    assert sorted(truth["imlist"] + truth["qimlist"]) == sorted(path.name for path in (root / "test").iterdir())


def test_training_and_test_share_no_photo(root: Path) -> None:
    train, test = ({path.read_bytes() for path in (root / part).rglob("*.jpg")} for part in ("train", "test"))
    assert not train & test


def test_every_query_has_its_labels(truth: dict) -> None:
    assert len(truth["gnd"]) == len(truth["qimlist"]) == 2 * TINY["test_landmarks"]


def test_labels_are_in_range(truth: dict) -> None:
    assert all(0 <= index < len(truth["imlist"]) for query in truth["gnd"] for index in labelled(query))


def test_easy_hard_and_junk_are_disjoint(truth: dict) -> None:
    assert all(len(set(labelled(query))) == len(labelled(query)) for query in truth["gnd"])


def test_every_query_has_something_to_find(truth: dict) -> None:
    assert all(query["easy"] or query["hard"] for query in truth["gnd"])


def test_distractors_are_nobodys_answer(truth: dict) -> None:
    answers = {truth["imlist"][index] for query in truth["gnd"] for index in labelled(query)}
    assert answers == {name for name in truth["imlist"] if not name.startswith("distractor")}


def test_boxes_lie_inside_their_query(root: Path, truth: dict) -> None:
    for name, query in zip(truth["qimlist"], truth["gnd"], strict=True):
        width, height = Image.open(root / "test" / name).size
        x1, y1, x2, y2 = query["bbx"]
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


def test_boxes_are_floats(truth: dict) -> None:
    assert all(isinstance(side, float) for query in truth["gnd"] for side in query["bbx"])


def test_photos_come_in_portrait_and_landscape(root: Path) -> None:
    ratios = {np.sign(np.subtract(*Image.open(path).size)) for path in root.rglob("*.jpg")}
    assert {-1, 1} <= ratios


def test_photos_come_in_several_sizes(root: Path) -> None:
    assert len({max(Image.open(path).size) for path in root.rglob("*.jpg")}) > 2


def test_second_call_writes_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write(root, seed=0, **TINY)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_arguments_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="seed is 0, asked for 7"):
        write(root, seed=7, **TINY)


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        write(tmp_path, **TINY)


def test_a_broken_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.data.landmarks.photograph", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "set", **TINY)
    assert not list(tmp_path.iterdir())


def test_the_slower_of_two_writers_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faster = write(tmp_path / "set", **FEW)
    answers = iter([False, True])
    monkeypatch.setattr("retrieval.data.landmarks._holds", lambda *_: next(answers))
    assert write(tmp_path / "set", **FEW) == faster


def test_mean_colour_does_not_tell_landmarks_apart(root: Path) -> None:
    photos = sorted(root.glob("train/*/*.jpg")) + sorted(root.glob("test/landmark*.jpg"))
    names = np.array([str(path)[: -len("_000.jpg")] for path in photos])
    colours = np.array([np.asarray(Image.open(path), float).mean((0, 1)) for path in photos])
    distances = np.linalg.norm(colours[:, None] - colours, axis=2) + np.diag(np.full(len(photos), np.inf))
    # By chance the nearest photo shows the same landmark 5 times in 41.
    assert (names[distances.argmin(1)] == names).mean() < 0.35


def test_contact_sheet_has_a_row_for_each_landmark(root: Path) -> None:
    width, height = contact_sheet(root, landmarks=3, photos=6).size
    assert width == 2 * height
