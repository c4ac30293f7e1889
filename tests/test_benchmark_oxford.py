"""The original Oxford5k and Paris6k, as their authors' compute_ap judges them."""

from pathlib import Path

import numpy as np
import pytest
from small_sets import MEASURES, expected_trapezoid, jpegs, perfect

from retrieval.benchmarks.oxford import CORRUPT, Oxford5k, Paris6k
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.errors import InputError

SOULS, KEBLE = [f"all_souls_{i:06d}" for i in (1, 2)], [f"keble_{i:06d}" for i in (1, 2, 3)]
LISTS = {
    "all_souls_1": ("oxc1_all_souls_000002 1.5 2.0 20.5 15.0", SOULS[1:], SOULS[:1], KEBLE[:1]),
    "keble_1": ("oxc1_keble_000002 0 0 24 16", KEBLE[1:], [], KEBLE[:1]),
    "keble_2": ("oxc1_keble_000003 0 0 24 16", KEBLE[1:], KEBLE[2:], []),
}
NAMES = [*SOULS, *KEBLE, "oxford_000001"]


def lists(folder: Path, held: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, (query, *names) in held.items():
        (folder / f"{stem}_query.txt").write_text(query + "\n")
        for kind, listed in zip(("good", "ok", "junk"), names, strict=True):
            (folder / f"{stem}_{kind}.txt").write_text("".join(f"{name}\n" for name in listed))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    jpegs(tmp_path / "oxford5k" / "jpg", [f"{name}.jpg" for name in NAMES])
    lists(tmp_path / "oxford5k" / "gt", LISTS)
    return tmp_path


@pytest.fixture
def paris(tmp_path: Path) -> Path:
    """Paris in its nested folders, one photo of it corrupt, which a list names."""
    where = tmp_path / "paris6k"
    jpegs(where / "jpg", [f"paris/louvre/paris_louvre_{i:06d}.jpg" for i in range(3)])
    (where / "jpg" / "paris" / "louvre" / "paris_louvre_000136.jpg").write_text("<html>302 Found</html>")
    names = [f"paris_louvre_{i:06d}" for i in (0, 1, 136)]
    lists(where / "gt", {"louvre_1": ("paris_louvre_000000 1 2 20 15", names, [], [])})
    return tmp_path


def test_good_and_ok_are_relevant_junk_is_ignored_and_the_query_stays(root: Path) -> None:
    benchmark = Oxford5k(str(root))
    assert [rows.tolist() for rows in benchmark.relevant] == [[1, 0], [3, 4], [3, 4]]
    assert [rows.tolist() for rows in benchmark.ignored] == [[2], [2], []]
    assert benchmark.queries[0].path == benchmark.gallery[1].path


def test_queries_have_their_boxes_without_oxfords_prefix(root: Path) -> None:
    first = Oxford5k(str(root)).queries[0]
    assert Path(first.path).name == "all_souls_000002.jpg" and first.box == (1.5, 2, 20.5, 15)
    assert Oxford5k(str(root), crop=False).queries[0].box is None


def test_photos_are_turned_where_that_is_asked_for(root: Path) -> None:
    for upright in (False, True):
        benchmark = Oxford5k(str(root), upright=upright)
        assert {photo.upright for photo in (*benchmark.gallery, *benchmark.queries)} == {upright}
        assert benchmark.convention["upright"] is upright


def test_landmarks_are_the_lists_names(root: Path) -> None:
    assert Oxford5k(str(root)).landmarks == ["all_souls", "keble", "keble"]


def test_a_value_worked_by_hand(root: Path) -> None:
    scores = np.array([[0.1, 0.9, 0.8, 0.7, 0.6, 0.5]] * 3)
    # all_souls_1 without junk 2: 1 3 4 5 0. keble_1 without it: 1 3 4; keble_2 with it: 1 2 3 4.
    worked = [(1 + (1 / 4 + 2 / 5) / 2) / 2, ((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2]
    worked.append(((0 + 1 / 3) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    benchmark = Oxford5k(str(root))
    assert benchmark.per_query([scores])["AP"] == pytest.approx(worked)
    assert benchmark.judge(scores)["mAP"] == pytest.approx(np.mean(worked))


def test_values_are_those_of_compute_ap(root: Path) -> None:
    benchmark, rng = Oxford5k(str(root)), np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 3, (3, 6)).astype(float)
        slow = [expected_trapezoid(scores[q], benchmark.relevant[q], benchmark.ignored[q]) for q in range(3)]
        assert benchmark.per_query([scores])["AP"] == pytest.approx(slow)
    assert benchmark.judge(perfect(3, 6, benchmark.relevant)) == dict.fromkeys(MEASURES, 1)


def test_paris_is_found_in_its_folders_and_its_corrupt_photos_left_out(
    paris: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = Paris6k(str(paris))
    assert [Path(photo.path).stem for photo in benchmark.gallery] == [f"paris_louvre_{i:06d}" for i in range(3)]
    assert benchmark.relevant[0].tolist() == [0, 1] and benchmark.convention["corrupt_left_out"] == 20
    assert "20 photos that are corrupt" in "".join(capsys.readouterr())


def test_the_official_list_of_corrupt_photos_has_20() -> None:
    assert len(CORRUPT) == 20 and {"paris_louvre_000136", "paris_triomphe_000867"} <= CORRUPT


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("keble_1_query.txt", "oxc1_keble_000002 0 0 24", "a name and a box of four numbers"),
        ("keble_1_query.txt", "oxc1_keble_000002 0 0 24 wide", "a name and a box of four numbers"),
        ("keble_1_query.txt", "", "a name and a box of four numbers"),
        ("keble_1_query.txt", "oxc1_keble_000009 0 0 24 16", "asks for keble_000009"),
        ("keble_1_good.txt", "keble_000009\n", "name 1 photos that are not there, first keble_000009"),
        ("keble_1_ok.txt", "keble_000001\n", "keble_000001 is junk for keble_1, and good or ok"),
    ],
)
def test_a_mistake_in_the_lists_is_refused(root: Path, file: str, content: str, said: str) -> None:
    (root / "oxford5k" / "gt" / file).write_text(content)
    with pytest.raises(InputError, match=said):
        Oxford5k(str(root))


def test_a_query_without_its_lists_is_refused(root: Path) -> None:
    (root / "oxford5k" / "gt" / "keble_1_junk.txt").unlink()
    with pytest.raises(InputError, match="keble_1_junk.txt is not there"):
        Oxford5k(str(root))


def test_two_photos_of_one_name_are_refused(root: Path) -> None:
    jpegs(root / "oxford5k" / "jpg", ["again/keble_000001.jpg"])
    with pytest.raises(InputError, match="need different names"):
        Oxford5k(str(root))


def test_a_half_unpacked_set_is_refused(root: Path) -> None:
    cfg = load_yaml(CONFIGS / "benchmark" / "oxford5k.yaml")
    with pytest.raises(InputError, match=r"oxford5k has 5,063 photos, .* holds 6; benchmark\.oxford5k\.size=null"):
        build({**cfg, "root": str(root)})


@pytest.mark.parametrize("name", ["oxford5k", "paris6k"])
def test_an_absent_set_is_refused_with_what_goes_where_and_where_it_comes_from(tmp_path: Path, name: str) -> None:
    cfg = load_yaml(CONFIGS / "benchmark" / f"{name}.yaml")
    with pytest.raises(InputError) as caught:
        build({**cfg, "root": str(tmp_path)})
    for said in (f"{name}/jpg", f"{name}/gt", "www.robots.ox.ac.uk", ".tgz", "download=true"):
        assert said in str(caught.value)
