"""The wheel: what is in it, at work without any extra, and at work with all of them, from a folder of its own."""

import ast
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from installs import LEFT, VERBS, Done, environment, install, run, run_verbs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
TOP = ["LICENSE", "README.md", "configs", "hydra_plugins", "pyproject.toml", "retrieval", "setup.py"]
NEEDS = {  # the extra that is named where a module is imported without any; None: it needs none
    **dict.fromkeys(["cli", "embed.__main__", "index", "index.__main__", "index.page", "portable", "metrics"], None),
    **dict.fromkeys(["report.__main__", "sweep.__main__"], None),
    **dict.fromkeys(["statistics", "data.images", "data.folder", "data.landmarks", "benchmarks.folder"], None),
    "faiss_index": "search",
    **dict.fromkeys(["embedder", "evaluation", "training", "config"], "train"),
    **dict.fromkeys(["report.writing", "report.charts"], "report"),
    **dict.fromkeys(["export.command", "export.files"], "export"),
    "sweep.overview": "sweep",
}
IMPORT_ALL = """
import importlib, json, pkgutil, retrieval
said = {}
for module in pkgutil.walk_packages(retrieval.__path__, "retrieval.", onerror=lambda name: None):
    try:
        importlib.import_module(module.name)
        said[module.name] = None
    except retrieval.extras.MissingExtra as error:
        said[module.name] = str(error)
print(json.dumps(said))
"""


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", *TOP], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def built(source: Path, hook: str, output: Path) -> Path:
    """A file that setuptools makes of a copy of the source, as pip and build call it."""
    output.mkdir()
    code = f"from setuptools import build_meta; print(build_meta.{hook}({str(output)!r}))"
    done = run(sys.executable, "-c", code, cwd=source)
    assert done.returncode == 0, done.stderr
    return output / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, in which a build may leave what it likes."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return built(source, "build_wheel", source / "wheel")


@pytest.fixture(scope="module")
def heavy(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel that sees torch and all other packages."""
    python = environment(tmp_path_factory.mktemp("heavy"), heavy=True)
    done = install(python, "--no-deps", wheel)
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def done(heavy: Path, place: Path, photos: Path) -> dict[str, Done]:
    return run_verbs(heavy.parent / "retrieval", place, photos)


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel and what it depends on without any extra."""
    python = environment(tmp_path_factory.mktemp("bare"), heavy=False)
    installed = install(python, wheel)
    if installed.returncode and "connection" in installed.stderr.lower():
        pytest.skip("the packages that the wheel depends on cannot be downloaded: there is no network")
    assert installed.returncode == 0, installed.stderr
    return python


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {re.sub("^configs/", "retrieval/configs/", name) for name in tracked() if "/" in name}
    assert wanted == {name for name in held if ".dist-info/" not in name}


def test_the_source_distribution_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    packed = built(source, "build_sdist", tmp_path / "sdist")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    again = built(tmp_path / packed.name.removesuffix(".tar.gz"), "build_wheel", tmp_path / "wheel")
    first, second = zipfile.ZipFile(wheel), zipfile.ZipFile(again)
    assert {name: first.read(name) for name in first.namelist() if not name.endswith("RECORD")} == {
        name: second.read(name) for name in second.namelist() if not name.endswith("RECORD")
    }


def test_the_metadata_says_whose_it_is_and_under_which_license(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel)
    info = "image_retrieval_poolings-0.1.0.dist-info"
    said = Parser().parsestr(files.read(f"{info}/METADATA").decode())
    assert (said["Name"], said["License-Expression"], said["Author"]) == (
        "image-retrieval-poolings",
        "Apache-2.0",
        "the retrieval authors",
    )
    assert files.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_runs_to_its_end_from_a_folder_of_its_own(done: dict[str, Done], place: Path, verb: str) -> None:
    assert done[verb].returncode == 0, done[verb].stderr
    assert (place / LEFT[verb]).is_file()


def test_it_is_the_package_of_the_wheel_that_runs(heavy: Path, place: Path) -> None:
    code = "import retrieval, hydra_plugins.retrieval_sweep as p; print(retrieval.__file__, p.__file__)"
    files = run(heavy, "-c", code, cwd=place).stdout.split()
    assert len(files) == 2 and all(Path(file).is_relative_to(heavy.parent.parent) for file in files)


def test_a_sweep_finds_its_plug_in_and_runs_both_jobs(done: dict[str, Done], place: Path) -> None:
    assert "sweep: of 2 jobs 2 done" in done["train"].stdout
    assert len(list(place.glob("sweep/*/results.json"))) == 2


@pytest.mark.usefixtures("done")
def test_without_extras_photos_are_described_and_found_as_with_them(
    bare: Path, heavy: Path, place: Path, tmp_path: Path
) -> None:
    program, built_by = bare.parent / "retrieval", {"rows": tmp_path / "rows", "index": tmp_path / "index"}
    for words in (["embed", "exported/model.onnx", "photos", "-o", built_by["rows"]],
                  ["index", "build", built_by["rows"], "-o", built_by["index"]]):  # fmt: skip
        ended = run(program, *words, cwd=place)
        assert ended.returncode == 0, ended.stderr
    (mine,), (theirs,) = (folder.glob("*.faiss") for folder in (built_by["index"], place / "index"))
    assert mine.read_bytes() == theirs.read_bytes()
    query = ["index", "search", "index", "photos/castle/2.jpg", "-k", "20", "--json"]
    found = [json.loads(run(python.parent / "retrieval", *query, cwd=place).stdout) for python in (bare, heavy)]
    by_numpy, by_faiss = ([(one["path"], one["score"]) for one in of["queries"][0]["found"]] for of in found)
    assert [path for path, _ in by_numpy] == [path for path, _ in by_faiss]
    assert [score for _, score in by_numpy] == pytest.approx([score for _, score in by_faiss], abs=1e-6)


def test_without_extras_there_is_neither_torch_nor_faiss_nor_hydra(bare: Path) -> None:
    code = "import importlib.util as u; print([u.find_spec(name) for name in ('torch', 'faiss', 'hydra', 'omegaconf')])"
    assert run(bare, "-c", code).stdout == "[None, None, None, None]\n"


def test_without_extras_the_command_says_what_it_does(bare: Path) -> None:
    said = run(bare.parent / "retrieval", "--help")
    assert said.returncode == 0 and all(f"\n  {verb} " in said.stdout for verb in VERBS if " " not in verb)


@pytest.fixture(scope="module")
def imported(bare: Path) -> dict[str, str | None]:
    """What every module of the package says when it is imported without any extra."""
    done = run(bare, "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", NEEDS)
def test_a_module_names_the_extra_that_it_needs(imported: dict[str, str | None], module: str) -> None:
    said, extra = imported[f"retrieval.{module}"], NEEDS[module]
    if extra is None:
        assert said is None
    else:
        assert said and said.endswith(f"is not installed: pip install 'image-retrieval-poolings[{extra}]'")


def libraries(extra: str) -> set[str]:
    """What may be imported where this extra is installed: the libraries of what it names, and of what those need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = {"": project["dependencies"], **project["optional-dependencies"]}
    named: list[str] = [*own[""], *own[extra]]
    seen: set[str] = set()
    while named:
        one = Requirement(named.pop())
        if one.name == project["name"]:
            named += [line for other in one.extras for line in own[other]]
        elif (name := canonicalize_name(one.name)) not in seen and (one.marker is None or one.marker.evaluate()):
            seen.add(name)
            named += [line for line in requires(name) or () if "extra ==" not in line]
    return {library for library, of in packages_distributions().items() if seen & set(map(canonicalize_name, of))}


def imported_with(module: str) -> dict[str, str]:
    """Each library that is imported when a module of the package is, and a module that imports it."""
    found: dict[str, str] = {}
    left, seen = [module], set()
    while left:
        name = left.pop()
        path = ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in seen or not path.is_file():  # seen, or what a module holds
            continue
        seen.add(name)
        left.append(name.rpartition(".")[0] or name)
        for node in ast.parse(path.read_text()).body:  # those within functions are imported when they are called
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{name}" for name in names)]
            left += [name for name in names if name.startswith("retrieval")]
            found |= {name.split(".")[0]: str(path) for name in names if not name.startswith("retrieval")}
    return {library: path for library, path in found.items() if library not in sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("extra", "module"),
    [
        ("", "index.__main__"),
        ("", "embed.__main__"),
        ("search", "faiss_index"),
        ("report", "report.writing"),
        ("train", "training"),
        ("train", "evaluation"),
        ("train", "embed.network"),
        ("train", "sweep.cost"),
        ("export", "export.command"),
        ("sweep", "sweep.overview"),
    ],
)
def test_an_extra_has_all_that_its_modules_import(extra: str, module: str) -> None:
    imported, there = imported_with(f"retrieval.{module}"), libraries(extra)
    assert imported and not {library: path for library, path in imported.items() if library not in there}


@pytest.mark.parametrize("verb", ["train", "eval", "sweep", "export", "report"])
def test_a_verb_says_in_one_line_which_extra_it_needs(bare: Path, tmp_path: Path, verb: str) -> None:
    extra = "train" if verb == "eval" else verb
    done = run(bare.parent / "retrieval", verb, "pooling=gem", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stdout.splitlines()) <= 1 and not list(tmp_path.iterdir())
    assert re.fullmatch(
        rf"error: \w+ is not installed: pip install 'image-retrieval-poolings\[{extra}\]'\n", done.stderr
    )
