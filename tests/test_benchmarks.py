"""The benchmarks run, on small shapes, and leave whole tables."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import poolings
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
