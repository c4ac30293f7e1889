"""Place recognition by positions."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_sets import jpegs, rankings, table

from retrieval.benchmarks.places import EARTH, Places, cells, haversine, within
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.errors import InputError

METRES = st.floats(-200, 200).map(lambda x: round(x, 1))
POINTS = st.integers(1, 12).flatmap(lambda n: arrays(np.float64, (n, 2), elements=METRES))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two queries that can be found and one that cannot, five gallery photos."""
    jpegs(tmp_path, [f"{name}.jpg" for name in ("q0", "q1", "q2", "g0", "g1", "g2", "g3", "g4")])
    table(tmp_path / "queries.csv", ("path", "x", "y"), ("q0", 0, 0), ("q1.jpg", 1000, 0), ("q2", 5000, 5000))
    rows = [("g0", 0, 25), ("g1", 0, 25.01), ("g2", 15, 20), ("g3", 1000, -3), ("g4", 500, 0)]
    table(tmp_path / "gallery.csv", ("x", "path", "note", "y"), *((x, path, "", y) for path, x, y in rows))
    return tmp_path


def places(folder: Path, **options: float) -> Places:
    return Places(str(folder / "queries.csv"), str(folder / "gallery.csv"), **options)  # pyright: ignore[reportArgumentType]


def test_a_photo_at_the_radius_is_of_the_place_and_one_beyond_is_not(folder: Path) -> None:
    assert [rows.tolist() for rows in places(folder).relevant] == [[0, 2], [3]]
    assert [rows.tolist() for rows in places(folder, radius=3).relevant] == [[3]]


def test_queries_of_no_place_are_left_out_counted_and_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = places(folder)
    assert [Path(photo.path).stem for photo in benchmark.queries] == ["q0", "q1"]
    assert benchmark.convention == {"radius": 25, "queries_left_out": 1, "upright": True}
    assert "1 of 3 queries are left out" in "".join(capsys.readouterr())


def test_photos_are_left_as_stored_where_that_is_asked_for(folder: Path) -> None:
    benchmark = places(folder, upright=False)
    assert not any(photo.upright for photo in (*benchmark.gallery, *benchmark.queries))
    assert benchmark.convention["upright"] is False


def test_recall_worked_by_hand(folder: Path) -> None:
    scores = np.array([[1, 5, 2, 4, 3], [5, 4, 3, 2, 1.0]])  # the first relevant stands at 4 (g2), and at 4 (g3)
    assert places(folder).judge(scores) == {"recall@1": 0, "recall@5": 1, "recall@10": 1}
    scores = np.array([[1, 2, 5, 4, 3], [5, 4, 3, 2, 1.0]])
    assert places(folder).judge(scores)["recall@1"] == 0.5


def test_recall_is_that_of_sorted_lists(folder: Path) -> None:
    benchmark, rng = places(folder), np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 3, (2, 5)).astype(float)
        found = [[order[0] in r for order in rankings(row)] for row, r in zip(scores, benchmark.relevant, strict=True)]
        assert benchmark.judge(scores)["recall@1"] == pytest.approx(np.mean([np.mean(each) for each in found]))


@given(POINTS, POINTS, st.sampled_from([5.0, 25.0, 80.0]))
def test_near_photos_are_those_that_measuring_every_pair_finds(a: np.ndarray, b: np.ndarray, radius: float) -> None:
    slow = [[j for j in range(len(b)) if math.hypot(*(b[j] - p)) <= radius] for p in a]
    assert [rows.tolist() for rows in within(a, b, radius, degrees=False)] == slow


@given(st.floats(-84, 84), st.floats(-180, 180), POINTS)
def test_near_photos_on_the_sphere_are_those_of_every_pair(latitude: float, longitude: float, b: np.ndarray) -> None:
    scale = np.degrees(1 / EARTH) * np.array([1 / np.cos(np.radians(latitude)), 1])
    gallery, query = b * scale + (longitude, latitude), np.array([[longitude, latitude]])
    slow = np.flatnonzero(haversine(query[0], gallery) <= 25)
    assert within(query, gallery, 25, degrees=True)[0].tolist() == slow.tolist()


def test_distances_on_the_sphere() -> None:
    degree = np.pi / 180 * EARTH
    towards = np.array([[1.0, 0], [0, 1], [180, 0], [0, 90]])
    assert haversine(np.zeros(2), towards) == pytest.approx([degree, degree, 180 * degree, 90 * degree])
    assert haversine(np.array([0, 60.0]), np.array([[1.0, 60]])) == pytest.approx(degree / 2, rel=1e-4)


def test_the_date_line_parts_no_place() -> None:
    near = np.array([[179.9999, 0.0], [-179.9999, 0.0], [179.0, 0.0]])
    assert within(np.array([[-180.0, 0.0]]), near, 25, degrees=True)[0].tolist() == [0, 1]


@pytest.mark.parametrize("pair", [("latitude", "longitude"), ("lat", "lon")])
def test_latitude_and_longitude_are_told_from_metres(folder: Path, pair: tuple[str, str]) -> None:
    metre = np.degrees(1 / EARTH)
    table(folder / "queries.csv", ("path", *pair), ("q0", 48.85, 2.35))
    north = [("g0", 48.85 + 24 * metre, 2.35), ("g1", 48.85 + 26 * metre, 2.35)]
    east = [(f"g{i}", 48.85, 2.35 + d * metre / np.cos(np.radians(48.85))) for i, d in ((2, 24), (3, 26))]
    table(folder / "gallery.csv", ("path", *pair), *north, *east)
    assert places(folder).relevant[0].tolist() == [0, 2]


def test_landmarks_are_cells_of_four_radii(folder: Path) -> None:
    assert cells(np.array([[0.0, 0], [99, 99], [100, 0], [-1, 0]]), 100, degrees=False) == ["0 0", "0 0", "1 0", "-1 0"]
    assert places(folder).landmarks == ["0 0", "10 0"]
    east = np.array([[2.35 + d / EARTH / np.cos(np.radians(60)) * 180 / np.pi, 60.0001] for d in (0.0, 110, 210)])
    columns = [int(cell.split()[0]) for cell in cells(east, 100, degrees=True)]
    assert columns[1] - columns[0] in (1, 2) and columns[2] - columns[0] in (2, 3)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("path", "x"), ("q0", 0)], r"columns of a position \(x/y, .*longitude/latitude.*\), it has path, x"),
        ([("file", "x", "y"), ("q0", 0, 0)], "one column 'path', it has it not at all"),
        ([("path", "x", "y"), ("q0", 0, "north")], "two finite numbers, got 'north'"),
        ([("path", "x", "y"), ("q0", 0, "nan")], "two finite numbers, got 'nan'"),
        ([("path", "x", "y"), ("q0", 0)], "line 2: 2 fields where its header has 3"),
        ([("path", "x", "y"), ("q0", 0, 0), ("q0", 1, 1)], "a photo may stand in .* once"),
        ([("path", "lat", "lon"), ("q0", 91, 0)], "no place on Earth"),
        ([("path", "lat", "lon"), ("q0", 48, 2)], "must both have metres, or both latitude and longitude"),
        ([("path", "x", "y"), ("q9", 0, 0)], "1 photos are not there: .*q9.jpg"),
        ([("path", "x", "y"), ("q0", 9e9, 0)], "at least one of the 0 queries"),
    ],
)
def test_a_mistake_in_a_table_is_refused(folder: Path, rows: list, said: str) -> None:
    table(folder / "queries.csv", *rows)
    with pytest.raises(InputError, match=said):
        places(folder)


def test_the_yaml_describes_it(folder: Path, tmp_path: Path) -> None:
    cfg = load_yaml(CONFIGS / "benchmark" / "places.yaml")
    cfg.queries, cfg.gallery = str(folder / "queries.csv"), str(folder / "gallery.csv")
    assert build(cfg).convention["radius"] == 25
    with pytest.raises(InputError, match="radius must be positive"):
        build({**cfg, "radius": 0})


def test_a_photo_in_both_files_does_not_find_itself(tmp_path: Path, photos: Path) -> None:
    rows = ["arch/0.jpg,0,0", "arch/1.jpg,10,0", "dome/0.jpg,9000,0"]
    (tmp_path / "all.csv").write_text("\n".join(["path,x,y", *rows]))
    both = Places(str(tmp_path / "all.csv"), str(tmp_path / "all.csv"), root=str(photos))
    assert len(both.queries) == 2 and both.convention["queries_left_out"] == 1
    scores = np.array([[1.0, 0.2, 0.5], [0.2, 1.0, 0.5]])  # each is nearest to itself, then to the far one
    assert both.judge(scores)["recall@1"] == 0 and both.judge(scores)["recall@5"] == 1
