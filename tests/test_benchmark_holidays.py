"""INRIA Holidays."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import MEASURES, expected_trapezoid, jpegs, perfect

from retrieval.benchmarks.holidays import Holidays
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.data.images import ORIENTATION, full_size
from retrieval.errors import InputError

NAMES = ["100000", "100001", "100002", "100100", "100101", "149900", "149901"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    jpegs(tmp_path / "holidays", [f"{name}.jpg" for name in NAMES])
    return tmp_path


def test_the_first_of_each_group_asks_for_the_others(root: Path) -> None:
    benchmark = Holidays(str(root))
    assert [Path(photo.path).stem for photo in benchmark.queries] == ["100000", "100100", "149900"]
    assert len(benchmark.gallery) == 7 and benchmark.landmarks == ["1000", "1001", "1499"]
    assert [rows.tolist() for rows in benchmark.relevant] == [[1, 2], [4], [6]]
    assert [rows.tolist() for rows in benchmark.ignored] == [[0], [3], [5]]


def test_a_value_worked_by_hand(root: Path) -> None:
    scores = np.zeros((3, 7))
    scores[0] = [9, 1, 7, 8, 0, 0, 0]  # without itself: 3 2 1
    scores[1, [3, 4]] = 2, 1
    scores[2, [5, 0, 6]] = 3, 2, 1  # without itself: 0 6
    first, third = ((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2, (0 + 1 / 2) / 2
    assert Holidays(str(root)).judge(scores)["mAP"] == pytest.approx((first + 1 + third) / 3)


def test_values_are_those_of_sorted_lists(root: Path) -> None:
    benchmark, rng = Holidays(str(root)), np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 4, (3, 7)).astype(float)
        slow = [expected_trapezoid(scores[q], benchmark.relevant[q], benchmark.ignored[q]) for q in range(3)]
        assert benchmark.per_query([scores])["AP"] == pytest.approx(slow)
    assert benchmark.judge(perfect(3, 7, benchmark.relevant)) == dict.fromkeys(MEASURES, 1)


@pytest.mark.parametrize("upright", [True, False])
def test_turning_by_exif_is_an_option_and_recorded(root: Path, upright: bool) -> None:
    lying = Image.new("RGB", (24, 16))
    exif = lying.getexif()
    exif[ORIENTATION] = 6
    lying.save(root / "holidays" / "100000.jpg", exif=exif)
    benchmark = Holidays(str(root), upright=upright)
    assert full_size(benchmark.queries[0]) == ((16, 24) if upright else (24, 16))
    assert benchmark.convention == {"upright": upright}


def test_a_group_without_its_query_is_refused(root: Path) -> None:
    (root / "holidays" / "100100.jpg").unlink()
    with pytest.raises(InputError, match="100100.jpg is not in"):
        Holidays(str(root))


def test_a_photo_of_another_name_is_refused(root: Path) -> None:
    jpegs(root / "holidays", ["cat.jpg"])
    with pytest.raises(InputError, match="named 1xxxyy.jpg.*cat.jpg"):
        Holidays(str(root))


def test_one_archive_of_two_is_refused(root: Path) -> None:
    cfg = load_yaml(CONFIGS / "benchmark" / "holidays.yaml")
    with pytest.raises(InputError, match=r"Holidays has 1,491 photos, .* holds 7; benchmark\.holidays\.size=null"):
        build({**cfg, "root": str(root)})


def test_an_absent_set_is_refused_with_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holidays is not there. jpg1.tar.gz and jpg2.tar.gz, from https://lear"):
        Holidays(str(tmp_path))
