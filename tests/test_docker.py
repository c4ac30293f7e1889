"""What the image is made of and what it runs, as far as that is seen without building it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from installs import LEFT, VERBS, Done, environment, install, run, run_verbs
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


@pytest.fixture(scope="module")
def python(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its environment, into which the image's files are installed as `make setup` does it."""
    python = environment(tmp_path_factory.mktemp("environment"), heavy=True)
    done = install(python, "--no-deps", "--no-build-isolation", "--editable", image)
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def path(python: Path) -> str:
    return f"{python.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def done(image: Path, path: str, workspace: Path, photos: Path) -> dict[str, Done]:
    """Every verb, `docker run IMAGE WORDS`, in a folder that is not the program's."""
    return run_verbs(image / "docker" / "entry", workspace, photos, PATH=path)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_runs_to_its_end(done: dict[str, Done], workspace: Path, verb: str) -> None:
    assert done[verb].returncode == 0, done[verb].stderr
    assert (workspace / LEFT[verb]).is_file()


def test_it_is_the_package_of_the_image_that_runs(image: Path, python: Path, tmp_path: Path) -> None:
    code = "import retrieval, hydra_plugins.retrieval_sweep as p; print(retrieval.__file__, p.__file__)"
    files = run(python, "-c", code, cwd=tmp_path).stdout.split()
    assert len(files) == 2 and all(Path(file).is_relative_to(image) for file in files)


def test_the_status_of_what_was_run_is_that_of_the_container(image: Path, path: str, tmp_path: Path) -> None:
    done = run(image / "docker" / "entry", "train", "pooling=gemm", cwd=tmp_path, PATH=path)
    assert done.returncode != 0 and "unknown pooling 'gemm'" in done.stderr


@pytest.mark.parametrize("words", [[], ["bash"], ["train.py"]])
def test_other_verbs_are_refused_with_those_there_are(image: Path, path: str, words: list[str]) -> None:
    done = run(image / "docker" / "entry", *words, PATH=path)
    verbs = "train, eval, sweep, export, report, embed, index"
    assert done.returncode == 2
    assert done.stderr == f"error: the first word must be one of {verbs}; got {''.join(words)!r}\n"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if " " not in verb])
def test_every_verb_is_in_the_table_of_the_readme(verb: str) -> None:
    assert f"| `{verb}` | `python " in (ROOT / "docker" / "README.md").read_text()


@pytest.mark.parametrize("name", [name for line in instructions("COPY") for name in line.split()[:-1]])
def test_what_is_copied_is_there_and_not_ignored(image: Path, name: str) -> None:
    assert (ROOT / name).exists() and (image / name).exists()


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
