"""What the image is made of and what it runs, as far as that is seen without building it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
SENT = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.+)", DOCKERFILE, re.MULTILINE)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the image: those that .dockerignore lets through."""
    root = tmp_path_factory.mktemp("image")
    for name in SENT:
        (root / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, root / name)
    return root


def entry(image: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`docker run IMAGE WORDS`, in a folder that is not the program's."""
    (workspace := image / "workspace").mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [image / "docker" / "entry", *words],
        cwd=workspace,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(image)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("verb", "told"),
    [
        ("train", "train is powered by Hydra"),
        ("eval", "eval is powered by Hydra"),
        ("export", "is powered by Hydra"),
        *((verb, f"retrieval.{verb}") for verb in ("report", "embed", "index")),
    ],
)
def test_a_verb_hands_on_its_words(image: Path, verb: str, told: str) -> None:
    done = entry(image, verb, "--help")
    assert done.returncode == 0 and told in done.stdout


def test_the_status_of_what_was_run_is_that_of_the_container(image: Path) -> None:
    done = entry(image, "train", "pooling=gemm")
    assert done.returncode != 0 and "unknown pooling 'gemm'" in done.stderr


@pytest.mark.parametrize("words", [[], ["bash"], ["train.py"]])
def test_other_verbs_are_refused_with_those_there_are(image: Path, words: list[str]) -> None:
    done = entry(image, *words)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"expected is train, eval, export, report, embed or index and what it takes, got '{''.join(words)}'\n"
    )


@pytest.mark.parametrize("name", [name for line in instructions("COPY") for name in line.split()[:-1]])
def test_what_is_copied_is_there_and_not_ignored(image: Path, name: str) -> None:
    assert (ROOT / name).exists() and (image / name).exists()


def test_what_the_package_is_installed_from_is_sent(image: Path) -> None:
    (readme,) = re.findall(r'^readme = "(.+)"', (image / "pyproject.toml").read_text(), re.MULTILINE)
    assert (image / readme).is_file()


@pytest.mark.parametrize("target", re.findall(r"\bmake ([\w./]+)", " ".join(instructions("RUN"))))
def test_the_environment_is_made_by_targets_of_the_makefile(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_runs_as_root() -> None:
    assert instructions("USER")[-1] == "${USER_ID}:${GROUP_ID}"
    assert "0" not in [line.split("=")[1] for line in instructions("ARG")]


def test_the_entry_may_be_executed() -> None:
    assert os.access(ROOT / "docker" / "entry", os.X_OK)


def test_what_is_written_outlives_the_container() -> None:
    service = OmegaConf.to_container(OmegaConf.load(ROOT / "docker" / "compose.yaml"), resolve=False)
    assert isinstance(service, dict)
    mounted = {volume["target"] for volume in service["services"]["retrieval"]["volumes"]}
    kept = re.findall(r"RETRIEVAL_\w+=(\S+)", DOCKERFILE)
    assert mounted == {*kept, f"{instructions('WORKDIR')[-1]}/runs"}
