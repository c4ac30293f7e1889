"""Sections of a page made of what evaluations kept: changed queries, where models looked, precision over recall."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from test_evaluation import off_the_shelf
from test_report import ranking, result

from retrieval.report import changes, looked, pictures, precision, runs
from retrieval.report.changes import HEADING, best_two, most_changed

Kept = Callable[..., Path]
QUERIES = 12
APS = np.linspace(0.2, 0.75, QUERIES)


@pytest.fixture
def kept(tmp_path: Path, write: Callable[..., Path]) -> Kept:
    """Writes a run of one row with what it kept of its queries: each found 0.png, 1.png and 2.png,
    of which the second is wrong and the third junk."""
    for i in range(3):
        Image.new("RGB", (64, 48), (60 * i, 90, 120)).save(tmp_path / f"{i}.png")

    def kept(
        pooling: str, values: ArrayLike, metric: str = "AP", order: Sequence[int] = range(QUERIES), **other: Any
    ) -> Path:
        mean = {"AP": "mAP", "medium/AP": "medium/mAP"}.get(metric, metric)
        name = f"{pooling}{other.get('seed', 0)}{other.get('resolution', '')}"
        row = result(**{"pooling": pooling, "settings": pooling, "metrics": {mean: float(np.mean(values))}, **other})
        folder, order = write(name, row | {"per_query": "q.npz"}), list(order)
        top = np.full((QUERIES, 10), -1, dtype=np.int32)
        top[:, :3] = 0, 1, 2
        arrays: dict[str, Any] = {metric: np.asarray(values, dtype=float)[order]}
        np.savez(
            folder / "q.npz",
            queries=np.array([f"query{i:02}.png" for i in order]),
            landmarks=np.array(["a", "b"] * (QUERIES // 2)),
            query_paths=np.array([str(tmp_path / "0.png")] * QUERIES),
            query_boxes=np.full((QUERIES, 4), np.nan),
            top=top,
            top_photos=np.array([str(tmp_path / f"{i}.png") for i in range(3)]),
            top_scores=np.tile(np.linspace(0.9, 0.1, 10, dtype=np.float32), (QUERIES, 1)),
            top_marks=top.astype(np.int8),
            **arrays,
        )
        return folder

    return kept


def encrypted(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for entry in (match.start() for match in re.finditer(b"PK\x01\x02", content)):
        content[entry + 8] |= 1  # of its flags the one that says so
    file.write_bytes(content)


def scrambled(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[200:1200:10] = bytes(100)
    file.write_bytes(content)


def html_of(folder: Path, *pair: str) -> str:
    heading, content = changes.changes(runs.collect([folder]).rows, pair)
    assert heading == HEADING
    return content


def titles(content: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", content)


def test_the_queries_that_changed_most_stand_first(kept: Kept, tmp_path: Path) -> None:
    moved = APS.copy()
    moved[[3, 5, 7]] += 0.2, 0.1, -0.15
    kept("gap", APS)
    kept("gem", moved)
    content = html_of(tmp_path, "gem", "gap")
    assert titles(content) == ["query03.png", "query05.png", "query07.png"]
    assert "Gained 20.00 points of AP (35.0 to 55.0)" in content and "Lost 15.00 points" in content


def test_at_most_four_gained_and_four_lost() -> None:
    found = most_changed(np.array([0.1, -0.1, np.nan, 0, 0.2, 0.3, 0.4, 0.5, -0.5, -0.4, -0.3, -0.2]))
    assert found == [7, 6, 5, 4, 8, 9, 10, 11]


def test_every_photo_is_marked_by_a_sign_and_a_word(kept: Kept, tmp_path: Path) -> None:
    kept("gap", APS)
    kept("gem", APS + np.eye(QUERIES)[3] / 10)
    content = html_of(tmp_path)
    for mark, sign in (("right", "✓"), ("wrong", "✗"), ("junk", "○")):
        assert content.count(f'aria-label="{mark}">{sign}') == 2
    assert content.count("<img") == 1 + 2 * 3


def test_queries_in_another_order_are_paired_by_name(kept: Kept, tmp_path: Path) -> None:
    kept("gap", APS)
    kept("gem", APS + np.eye(QUERIES)[3] / 10, order=range(QUERIES)[::-1])
    assert titles(html_of(tmp_path, "gem", "gap")) == ["query03.png"]


def test_the_lowest_seed_of_both_and_the_largest_resolution_of_both_count(kept: Kept, tmp_path: Path) -> None:
    for seed in (1, 2):
        kept("gap", APS, seed=seed)
    for seed in (0, 1, 2):
        kept("gem", APS + np.eye(QUERIES)[seed] / 10, seed=seed)
    kept("gem", APS + np.eye(QUERIES)[9] / 10, seed=1, resolution=1024)
    content = html_of(tmp_path, "gem", "gap")
    assert titles(content) == ["query01.png"] and "at 224 px, seed 1" in content


def test_without_a_pair_the_best_two_trained_lines_are_compared(kept: Kept, tmp_path: Path) -> None:
    for pooling, shift in (("gap", 0.0), ("gem", 0.2), ("max", 0.1)):
        kept(pooling, APS + shift)
    kept("rmac", APS + 0.25, untrained=True)
    rows = runs.collect([tmp_path]).rows
    assert [line.model.pooling for line in best_two(rows)] == ["gem", "max"]


def test_the_best_two_were_judged_on_the_same_photos(kept: Kept, tmp_path: Path) -> None:
    for pooling, value, images in (("gem", 0.9, 480), ("max", 0.8, 40), ("gap", 0.3, 480)):
        kept(pooling, np.full(QUERIES, value), images=images)
    assert [line.model.pooling for line in best_two(runs.collect([tmp_path]).rows)] == ["gem", "gap"]


def test_one_line_makes_no_section(kept: Kept, tmp_path: Path) -> None:
    kept("gap", APS)
    assert html_of(tmp_path) == ""


def test_runs_that_kept_no_photos_get_a_plain_sentence(kept: Kept, tmp_path: Path) -> None:
    kept("gap", APS)
    old = kept("gem", APS + 0.1)
    np.savez(old / "q.npz", queries=np.arange(3), landmarks=np.arange(3), AP=np.zeros(3))
    assert "was judged by a version that kept no query_paths: judge it again" in html_of(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"PK"), scrambled, encrypted]
)
def test_a_file_that_is_gone_or_broken_gets_a_plain_sentence(
    kept: Kept, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    kept("gap", APS)
    damage(kept("gem", APS + 0.1) / "q.npz")
    assert "what gem kept of its queries cannot be read" in html_of(tmp_path, "gem", "gap")


@pytest.mark.parametrize(
    "odd",
    [
        {"top_marks": np.full((QUERIES, 10), 7, np.int8)}, {"top": np.full((QUERIES, 10), 99)},
        {"top_scores": np.zeros((QUERIES, 3))}, {"query_boxes": np.zeros(4)}, {"query_paths": np.array("a")},
        {"AP": np.array(["a"] * QUERIES)}, {"AP": np.zeros((QUERIES, 2))},
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_get_a_plain_sentence(kept: Kept, tmp_path: Path, odd: dict[str, NDArray]) -> None:
    kept("gap", APS)
    file = kept("gem", APS + np.eye(QUERIES)[3] / 10) / "q.npz"
    with np.load(file) as arrays:
        np.savez(file, **{**arrays, **odd})
    assert "the arrays that gem kept of its queries do not fit together" in html_of(tmp_path, "gem", "gap")


@pytest.mark.parametrize("odd", [np.zeros(7), np.zeros((2, 101)), np.array(["a"] * 101), np.float64(1)])
def test_precision_of_an_odd_shape_has_no_curve(kept: Kept, tmp_path: Path, odd: NDArray) -> None:
    for seed, precision_of in enumerate((np.zeros(101), odd)):
        file = kept("gap", APS, seed=seed) / "q.npz"
        with np.load(file) as arrays:
            np.savez(file, **arrays, precision=precision_of)
    assert precision.precision_panels(runs.collect([tmp_path]).rows) == {}


def test_lines_that_agree_on_every_query_get_a_plain_sentence(kept: Kept, tmp_path: Path) -> None:
    kept("gap", APS)
    kept("gem", APS)
    assert "every query has the same AP in both" in html_of(tmp_path)


def test_recall_is_called_by_its_name(kept: Kept, tmp_path: Path) -> None:
    kept("gap", np.zeros(QUERIES), metric="recall@1")
    kept("gem", np.eye(QUERIES)[2], metric="recall@1")
    assert "Gained 100.00 points of recall@1 (0.0 to 100.0)" in html_of(tmp_path, "gem", "gap")


def test_a_photo_that_is_gone_leaves_its_name(kept: Kept, tmp_path: Path) -> None:
    kept("gap", APS)
    kept("gem", APS + np.eye(QUERIES)[3] / 10)
    (tmp_path / "1.png").unlink()
    assert "photo missing: 1.png" in html_of(tmp_path)


def test_what_does_not_fit_is_counted(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept("gap", APS)
    kept("gem", APS + np.linspace(-0.1, 0.1, QUERIES))
    monkeypatch.setattr(changes, "LIMIT", len(html_of(tmp_path)) // 2)
    content = html_of(tmp_path)
    assert f"{8 - len(titles(content))} of 8 queries are left out" in content and 0 < len(titles(content)) < 8


def test_a_real_evaluation_fills_every_section(photos: Path, tmp_path: Path) -> None:
    words = ["extract.resolutions=[48,64]", "evaluate.poolings=[gap,gem]"]
    off_the_shelf(photos, tmp_path, *words)
    found = runs.collect([tmp_path])
    assert titles(html_of(tmp_path, "gem", "gap"))
    (panel,) = precision.precision_panels(found.rows).items()
    assert panel[0] == "folder, 64 px" and [curve.label for curve in panel[1]] == ["gap", "gem"]
    content = looked.looked(pictures.rankings(found))[1]
    assert content.count("<article>") == looked.QUERIES and content.count("<img") == looked.QUERIES * 2 * 2


def test_precision_is_averaged_over_seeds(kept: Kept, tmp_path: Path) -> None:
    for seed, value in enumerate((0.2, 0.6)):
        folder = kept("gap", APS, seed=seed)
        with np.load(folder / "q.npz") as arrays:
            np.savez(folder / "q.npz", **arrays, precision=np.full(101, value))
    ((curve,),) = precision.precision_panels(runs.collect([tmp_path]).rows).values()
    assert list(curve.y) == pytest.approx([40] * 101) and (curve.x[0], curve.x[-1]) == (0, 100)


def test_a_line_that_kept_no_precision_has_no_curve(kept: Kept, tmp_path: Path) -> None:
    kept("gap", APS)
    assert precision.precision_panels(runs.collect([tmp_path]).rows) == {}


def seen(path: str, query: Sequence[Sequence[float]], photo: Sequence[Sequence[float]], **other: Any) -> dict[str, Any]:
    entry = ranking(path, [path], label="gap", **other)
    entry["top"][0]["looked"] = {"query": query, "photo": photo, "similarity": 0.8}
    return entry


def test_a_picture_says_its_similarity_its_strongest_position_and_what_is_no_positions(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    entry = seen(str(tmp_path / "a.png"), [[0.2, 0.2], [0.2, 0.2]], [[0.6, 0.0], [0.0, 0.1]])
    content = looked.looked([[entry]])[1]
    assert "similarity 0.80 (0.10 of the photo in no position)" in content
    assert "query, up to 1.0 times" in content and "right, up to 3.0 times" in content


def test_a_photo_in_which_no_position_has_a_share_is_grey(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "a.png")
    content = looked.looked([[seen(str(tmp_path / "a.png"), [[0.0]], [[0.0]])]])[1]
    encoded = re.findall(r"base64,([^\"]+)", content)[1]
    assert np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))) == pytest.approx(128, abs=2)


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [0, 0, 1e9, 1e9], [0, 0, 1e300, 1e300]])
def test_a_part_that_is_no_picture_is_missing(tmp_path: Path, box: list[float]) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    assert looked.opened(str(tmp_path / "a.png"), box, upright=True) is None


def test_a_photo_that_hides_too_many_pixels_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "bomb.ppm").write_bytes(b"P6\n100000 100000\n255\n")
    assert looked.opened(str(tmp_path / "bomb.ppm"), None, upright=True) is None


def test_queries_that_find_no_room_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    entry = seen(str(tmp_path / "a.png"), [[1.0]], [[1.0]])
    monkeypatch.setattr(looked, "LIMIT", 2 * len(looked._article([entry])))
    assert "2 of 4 queries left out" in looked.looked([[entry]] * 9)[1]


def test_rankings_without_shares_make_no_section(tmp_path: Path) -> None:
    assert looked.looked([[ranking("a.png", ["b.png"], label="gap")]])[1] == ""
    assert looked.looked([])[1] == ""


def test_red_lies_where_the_share_is_and_blue_where_it_is_below_0() -> None:
    picture = np.asarray(looked.tinted(Image.new("RGB", (40, 40), "grey"), np.array([[1.0, 0.0], [0.0, -1.0]]))).astype(
        int
    )
    red, blue, none = picture[0, 0], picture[-1, -1], picture[0, -1]
    assert red[0] > red[2] + 100 and blue[2] > blue[0] + 100 and none[0] == none[2]


def test_a_query_is_shown_as_it_was_cropped_and_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 60)).save(tmp_path / "a.jpg", exif=exif)
    cropped = looked.opened(str(tmp_path / "a.jpg"), [10, 10, 50, 20], upright=False)
    turned = looked.opened(str(tmp_path / "a.jpg"), None, upright=True)
    assert cropped and turned and (cropped.size, turned.size) == ((40, 10), (60, 80))
