"""The benchmarks run, on small shapes, and leave whole tables."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import extraction, judging, poolings, search
from retrieval.config import CONFIGS
from retrieval.search import Exact


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(poolings, "LARGE", (2, 16, 8, 8))
        patch.setattr(poolings, "SHAPES", [(2, 16, 7, 7)])
        patch.setattr(
            sys, "argv", ["poolings", "--device", "cpu", "--rounds", "1", "--threads", "1", "--out", str(out)]
        )
        poolings.main()
    return (out / "poolings_cpu.md").read_text()


def test_every_pooling_has_its_line(table: str) -> None:
    lines = {line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")}
    assert {yaml.stem for yaml in (CONFIGS / "pooling").glob("*.yaml")} <= lines


def test_gem_stands_beside_its_textbook_form(table: str) -> None:
    assert table.count("| textbook GeM |") == table.count("| GeM |") == 2


def test_the_textbook_gem_of_the_benchmark_is_gem() -> None:
    x, p = torch.rand(2, 3, 4, 5), torch.tensor([3.0])
    assert torch.allclose(poolings.textbook(x, p), poolings.functional.generalised_mean(x, p))


def test_a_peak_counts_what_a_step_allocates() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("resident memory is read from Linux's /proc")
    peak = poolings.Bench("cpu", 1).peak(lambda: torch.ones(2**23))
    assert peak == pytest.approx(2**25, rel=0.1)


def test_judging_leaves_its_table_and_agrees_with_sorting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from Linux's /proc")
    words = ["--images", "2000", "--dim", "16", "--repeats", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["judging", *words])
    judging.main()
    table = (tmp_path / "judging.md").read_text()
    assert "2,000 images of 16 float32" in table
    assert float(table.split("Largest disagreement of a query's value: ")[1].split()[0]) < 1e-9


def test_sorting_in_the_benchmark_of_judging_takes_out_what_a_level_ignores() -> None:
    # junk, easy, wrong, hard: easy stands first of what is left; hard second when easy is taken out
    values = judging.sorting(np.array([[0.9, 0.8, 0.7, 0.6]]), [{"easy": [1], "hard": [3], "junk": [0]}])
    assert values["easy/AP"] == 1
    assert values["hard/AP"] == pytest.approx((0 + 1 / 2) / 2)


@pytest.fixture(scope="module")
def describing(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Cells of each line of the benchmark of extraction, by its name."""
    out = tmp_path_factory.mktemp("extraction")
    words = f"--root {photos} --backbone resnet10t_narrow --photos 6 --resolution 64 --repeats 1 --batch-sizes 4"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["extraction", *words.split(), "--threads", "1", "--device", "cpu", "--out", str(out)]
        )
        extraction.main()
    lines = [line.split(" | ") for line in (out / "extraction_cpu.md").read_text().splitlines() if line[:2] == "| "]
    return {name.removeprefix("| "): cells for name, *cells in lines}


@pytest.mark.parametrize(
    "name",
    [
        "plain loop",
        "plain loop, channels last",
        "describe, batches of 4",
        "padded batches of 4",
        "bfloat16, batches of 4",
        "bfloat16, batches of 4, 1 workers",
        "decoding and resizing alone",
    ],
)
def test_every_way_of_describing_has_its_line(describing: dict[str, list[str]], name: str) -> None:
    assert float(describing[name][0]) >= 0


def test_describing_gives_what_the_plain_loop_gives(describing: dict[str, list[str]]) -> None:
    assert describing["describe, batches of 4"][5] == "1.000000"


def test_search_leaves_a_line_for_every_index_and_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("resident memory is read from Linux's /proc")
    words = ["--images", "600", "--dim", "16", "--queries", "5", "--repeats", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["search", *words, "--out", str(tmp_path)])
    monkeypatch.setattr(search, "INDEXES", [("Flat", [None]), ("IVF8,Flat", [1, 8])])
    search.main()
    (page,) = tmp_path.glob("search_*.md")
    cells = [[cell.strip() for cell in line.split("|")] for line in page.read_text().splitlines()]
    lines = {line[1]: line for line in cells if len(line) > 2}
    assert {yaml.stem for yaml in (CONFIGS / "rerank").glob("*.yaml")} <= {name.split()[0] for name in lines}
    for all_found in ("Flat", "IVF8,Flat, nprobe 8"):
        assert lines[all_found][8:] == lines["exact"][8:]
    assert float(lines["IVF8,Flat, nprobe 1"][10]) < 100


def test_photos_of_the_search_benchmark_lie_near_their_landmark_and_are_found(tmp_path: Path) -> None:
    photos = search.written(tmp_path, images=2000, dim=256, queries=10)
    found = search.nearest(Exact("cpu"), photos)
    assert search.mean_average_precision(found, photos.relevant) > 0.5


def test_an_image_that_was_not_found_has_no_rank_in_the_search_benchmark() -> None:
    # of two relevant images the first stands second: (0 + 1/2) / 2, halved for the one that is missing
    assert search.mean_average_precision(np.array([[7, 3, -1]]), [np.array([3, 5])]) == pytest.approx(1 / 8)
