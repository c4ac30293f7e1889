"""The benchmarks run, on small shapes, and leave whole tables."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import extraction, poolings
from retrieval.config import CONFIGS


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
    assert float(describing[name][0]) > 0


def test_describing_gives_what_the_plain_loop_gives(describing: dict[str, list[str]]) -> None:
    assert describing["describe, batches of 4"][5] == "1.000000"
