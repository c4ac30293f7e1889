"""Who may import whom: downward only; third-party libraries in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "retrieval"
LAYERS = [
    {"__main__", "cli"},
    {"sweep", "export"},
    {"training", "parts"},
    {"callbacks", "resume"},
    {"evaluation", "mining", "optimization", "pieces"},
    {"index"},
    {"embed"},
    {"results", "method", "looking", "passes"},
    {"candidates", "published", "companions"},
    {
        "extraction",
        "frozen",
        "together",
        "sharding",
        "benchmarks",
        "search",
        "rerank",
        "scales",
        "store",
        "reuse",
        "tops",
        "vocabulary",
        "whitening",
    },
    {"embedder", "data", "losses", "subjects", "plan", "first_lines", "counting"} | {"report", "portable"},
    {"backbones", "timm_models", "poolings", "heads"},
    {
        "features",
        "config",
        "overrides",
        "timm_names",
        "metrics",
        "statistics",
        "descriptors",
        "processes",
        "launch",
        "stopping",
    }
    | {"hub", "strangers", "faiss_index", "flat_index", "explained"},
    {"stages", "endings"},
    {"spec", "atomic"},
    {"errors", "extras", "terminal", "ranks", "wandb_names"},
]
ROOMS = {
    "hydra": {"config", "overrides"},
    "timm": {"backbones", "timm_models", "export/padding"},
    "huggingface_hub": {"hub", "embedder"},
    "onnx": {"export"},
    "onnxruntime": {"portable", "export"},
    "pytorch_metric_learning": {"losses"},
    "lightning": {"training", "parts", "callbacks", "data/module", "data/stream", "launch", "sharding"},
    "faiss": {"search/approximate", "search/files", "faiss_index", "index/files"},
    "wandb": {"callbacks", "report/wandb_run"},
    "tensorboard": {"callbacks"},
    "webdataset": {"data/stream"},
    "rich": {"sweep/overview"},
    "plotly": {"report/plots"},
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def level(module: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if module in layer)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_its_own_layer_or_lower_ones(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    used = {name.split(".")[1] for name in imported(path) if name.startswith("retrieval.")}
    assert all(level(module) >= level(own) for module in used)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    here = path.relative_to(PACKAGE).with_suffix("").as_posix()
    for library in {name.split(".")[0] for name in imported(path)} & ROOMS.keys():
        assert {here, here.split("/")[0]} & ROOMS[library]


@pytest.mark.parametrize("module", ["metrics", "report.writing", "portable", "embed", "index", "cli"])
def test_what_only_reads_numbers_imports_without_torch(module: str) -> None:
    code = f"import sys, retrieval.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False).returncode == 0
