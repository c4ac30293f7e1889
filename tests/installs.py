"""New environments that the project is installed into, and every verb of it run there on a tiny input."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HEAVY = sysconfig.get_path("purelib")  # where torch and all other packages of the tests are
PHOTOS = ["benchmark=folder", "benchmark.folder.root=photos", "extract.workers=0"]
TINY = ["backbone=resnet10t_narrow", "data.resolution=32", "sampler.landmarks=2", "sampler.photos=2", "data.workers=0"]
SHORT = ["extract.resolutions=[64]", "evaluate_untrained=false", "trainer.max_epochs=1", "trainer.max_steps=2"]
TRAINED = ["data=folder", "data.root=photos", *PHOTOS, *TINY, *SHORT, "logger=csv", "hydra.sweep.dir=sweep"]
RUN = "sweep/1_resnet10t_narrow_gem_seed0"
VERBS = {  # in the order in which each finds what it needs
    "train": ["train", "-m", "pooling=gap,gem", *TRAINED],
    "sweep": ["sweep", "sweep"],
    "eval": ["eval", f"run={RUN}", *PHOTOS, "extract.resolutions=[48]"],
    "report": ["report", "sweep", "--published"],
    "export": ["export", f"run={RUN}", "format=[onnx]", "output_dir=exported"],
    "embed": ["embed", "exported/model.onnx", "photos", "-o", "rows"],
    "index": ["index", "build", "rows", "-o", "index"],
    "index search": ["index", "search", "index", "photos/arch/0.jpg", "-k", "3", "--html", "found.html"],
}
LEFT = {
    "train": f"{RUN}/model.safetensors",
    "sweep": "sweep/sweep.json",
    "eval": f"{RUN}/results.json",
    "report": "sweep/report.html",
    "export": "exported/README.md",
    "embed": "rows/manifest.json",
    "index": "index/manifest.json",
    "index search": "found.html",
}
Done = subprocess.CompletedProcess[str]


def environment(folder: Path, heavy: bool) -> Path:
    """The Python of a new environment without pip; heavy: it sees the packages of this one, but no editable install."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    if heavy:
        place = ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        Path(run(python, *place).stdout.strip(), "heavy.pth").write_text(f"{HEAVY}\n")
    return python


def install(python: Path, *words: str | Path) -> Done:
    """`pip install WORDS` into that environment, by the pip of this one."""
    quiet = ["--quiet", "--disable-pip-version-check", "--no-compile", "--retries", "1"]
    return run(sys.executable, "-m", "pip", "--python", python, "install", *quiet, *words)


def run(*words: str | Path, cwd: Path | None = None, **variables: str) -> Done:
    """A command that finds no package of this checkout by chance."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def run_verbs(program: Path, folder: Path, photos: Path, **variables: str) -> dict[str, Done]:
    """Every verb by this program, in a folder that holds nothing but photos."""
    shutil.copytree(photos, folder / "photos")
    variables["RETRIEVAL_CACHE"] = str(folder / "cache")
    return {name: run(program, *words, cwd=folder, **variables) for name, words in VERBS.items()}
