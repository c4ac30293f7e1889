"""A sweep on a folder of photos, its runs judged again, its report: by the commands that a person types."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = [
    "backbone=timm",
    "backbone.name=test_resnet",
    "data.resolution=32",
    "sampler.landmarks=2",
    "sampler.photos=2",
    "data.workers=0",
    "extract.resolutions=[48,64]",
    "extract.workers=0",
    "trainer.max_epochs=1",
    "logger=csv",
]


def command(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sweep(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    words = ["data=folder", f"data.root={photos}", "benchmark=folder", f"benchmark.folder.root={photos}"]
    place = [f"hydra.sweep.dir={folder}", f"cache={folder}/cache"]
    command("train.py", "-m", "pooling=gap,gem", "seed=0,1", *words, *place, *TINY)
    return folder


def test_a_sweep_leaves_a_run_a_job_and_none_at_its_root(sweep: Path) -> None:
    assert len(list(sweep.glob("*/results.json"))) == 4 and not (sweep / "results.json").exists()


def test_each_run_of_a_sweep_has_untrained_and_trained_rows_at_each_resolution(sweep: Path) -> None:
    for path in sweep.glob("*/results.json"):
        rows = json.loads(path.read_text())
        assert [(r["untrained"], r["resolution"]) for r in rows] == [(u, px) for u in (True, False) for px in (48, 64)]


def test_a_run_is_judged_again_to_the_same_digits(sweep: Path, photos: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(next(sweep.glob("*gem_seed1")), tmp_path / "run"))
    before = json.loads((run / "results.json").read_text())[-1]
    words = ["benchmark=folder", f"benchmark.folder.root={photos}", "extract.resolutions=[64]", "extract.workers=0"]
    assert "mAP" in command("eval.py", f"run={run}", *words)
    after = json.loads((run / "results.json").read_text())[-1]
    assert after["metrics"] == pytest.approx(before["metrics"])
    assert after["settings"] == before["settings"]


def test_the_report_of_a_sweep_has_a_line_for_each_pooling(sweep: Path) -> None:
    command("-m", "retrieval.report", str(sweep))
    written = (sweep / "report.md").read_text()
    lines = [line for line in written.splitlines() if line.startswith("| test_resnet")]
    assert sum("| gem " in line for line in lines) >= 2 and sum("| gap " in line for line in lines) >= 2
    assert (sweep / "report.html").is_file() and (sweep / "report.csv").is_file()


def test_the_real_photos_and_weights_run_through_the_same_commands(shared: Path, tmp_path: Path) -> None:
    """ImageNet features at 96 px find far more than chance, which is below 0.1 mAP here."""
    weights = shared / "weights" / "mobilenetv2_100.safetensors"
    words = f"backbone=mobilenetv2_tf backbone.weights={weights} pooling=gem benchmark=folder output_dir={tmp_path}"
    root = f"benchmark.folder.root={shared / 'data' / 'photos' / 'test'}"
    command("eval.py", *words.split(), root, "extract.resolutions=[96]", "extract.workers=0")
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert row["images"] == 687 and row["metrics"]["mAP"] > 0.4
