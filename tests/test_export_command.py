"""`python -m retrieval.export`: files that were checked, what they lose, their card; what cannot be done is refused."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from test_report import result

from retrieval import config, embedder, whitening
from retrieval.config import CONFIGS, load_yaml
from retrieval.data import tensors
from retrieval.errors import InputError
from retrieval.export import checks, command
from retrieval.export.checks import FailedCheck
from retrieval.heads import Whitening
from retrieval.portable import Portable
from retrieval.report import writing as report
from retrieval.report.runs import collect
from retrieval.scales import multi_scale

PIXELS = np.random.default_rng(0).integers(256, size=(2, 3, 70, 90), dtype=np.uint8)


def run_of(folder: Path, backbone: str = "test_resnet", pooling: str = "gem") -> Path:
    """A run's folder: a model, and the row of its evaluation."""
    groups = {"backbone": "timm", "pooling": pooling, "head": "none"}
    cfg: Any = OmegaConf.create({group: load_yaml(CONFIGS / group / f"{name}.yaml") for group, name in groups.items()})
    cfg.backbone.name, cfg.backbone.weights = backbone, "/home/someone/weights.pth"
    cfg.names = {**groups, "backbone": backbone, "loss": "arcface", "sampler": "landmarks"}
    cfg.seed, cfg.selected_by, cfg.trained_on = 0, "the last step", "20 photos of 4 landmarks"
    cfg.extract = {"resolutions": [64, 96]}
    embedder.save(embedder.from_config(embedder.without_weights(cfg)), cfg, folder)
    row = {"benchmark": "folder", "metrics": {"mAP": 0.5, "mP@1": 0.75}, "intervals": {"mAP": [0.4, 0.6]}}
    row |= {"resolution": 96, "scales": [1.0], "untrained": False, "whitening": None, "rerank": None}
    (folder / "results.json").write_text(json.dumps([row]))
    return folder


def export(run: Path, *words: str) -> list[dict[str, Any]]:
    return command.export(config.compose("export", [f"run={run}", *words]))[1]


def rows_of(run: Path) -> np.ndarray:
    """The descriptors that the run's model gives."""
    model = embedder.load(run)
    with torch.no_grad():
        mean, std = (torch.tensor(x)[:, None, None] for x in (model.backbone.mean, model.backbone.std))
        return model((torch.from_numpy(PIXELS) / 255 - mean) / std).numpy()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def exported(run: Path, photos: Path) -> list[dict[str, Any]]:
    """Every format in every dtype, judged."""
    return export(
        run,
        "format=[safetensors,onnx,torch_export,backbone]",
        "dtype=[float32,float16,bfloat16,int8]",
        f"calibration.photos={photos}",
        "calibration.count=6",
        "benchmark=folder",
        f"benchmark.folder.root={photos}",
    )


def test_each_format_is_there_in_each_dtype_that_it_has(run: Path, exported: list[dict[str, Any]]) -> None:
    files = {row["file"] for row in exported}
    graphs = {f"model{dtype}{end}" for dtype in ("", ".float16", ".bfloat16") for end in (".onnx", ".pt2")}
    folders = {"model.safetensors", "float16/model.safetensors", "bfloat16/model.safetensors"}
    assert files == graphs | folders | {"model.int8.onnx", "backbone.safetensors"}
    assert all((run / "export" / file).is_file() for file in files)


def test_a_float32_file_gives_what_the_model_gives(exported: list[dict[str, Any]]) -> None:
    assert all(
        row["cosine"] >= 0.99999 for row in exported if row["dtype"] == "float32" and row["format"] != "backbone"
    )


def test_what_a_file_loses_is_the_models_value_less_its_own(exported: list[dict[str, Any]]) -> None:
    (own,) = next(row["judged"] for row in exported if row["file"] == "model.safetensors")
    assert own["lost"] == 0 and own["interval"][0] <= own["value"] <= own["interval"][1]
    for row in exported:
        for one in row["judged"]:
            assert one["lost"] == pytest.approx(own["value"] - one["value"])


def test_half_precision_of_torch_export_is_neither_timed_nor_judged_and_the_card_says_so(
    run: Path, exported: list[dict[str, Any]]
) -> None:
    left = [row["file"] for row in exported if row["unjudged"]]
    assert sorted(left) == ["model.bfloat16.pt2", "model.float16.pt2"]
    assert all(f"- {file}: PyTorch computes" in (run / "export" / "README.md").read_text() for file in left)


def test_numbers_of_half_the_length_make_files_of_about_half_the_size(exported: list[dict[str, Any]]) -> None:
    size = {row["file"]: row["bytes"] for row in exported}
    assert size["float16/model.safetensors"] < 0.6 * size["model.safetensors"]


def test_nothing_unfinished_is_left_beside_the_files(run: Path, exported: list[dict[str, Any]]) -> None:
    named = {row["file"] for row in exported} | {"README.md", "export.json", "config.yaml", "config.json"}
    there = {path.relative_to(run / "export").as_posix() for path in (run / "export").rglob("*") if path.is_file()}
    assert {file for file in there if "/" not in file} == {file for file in named if "/" not in file}


@pytest.mark.parametrize("below", ["", "float16", "bfloat16"])
def test_the_folder_loads_as_the_model(run: Path, exported: list[dict[str, Any]], below: str) -> None:
    model = embedder.load(run / "export" / below)
    assert np.allclose(rows_of(run / "export" / below), rows_of(run), atol=1e-6 if not below else 2e-2)
    assert model.backbone.model.conv1[0].weight.dtype == torch.float32 if below else True


def test_no_path_of_the_machine_that_trained_it_goes_with_the_model(run: Path, exported: list[dict[str, Any]]) -> None:
    texts = [path.read_text() for path in (run / "export").rglob("*") if path.suffix in (".md", ".json", ".yaml")]
    assert texts and not any("/home/someone" in text for text in texts)


def test_the_card_says_what_it_is_what_it_learned_from_and_what_it_gives(run: Path, exported: list[dict]) -> None:
    card = (run / "export" / "README.md").read_text()
    for said in ("test_resnet", "GeM, p = 3.0000", "20 photos of 4 landmarks", "at most 96 pixels", "weights.pth"):
        assert said in card
    assert "| folder | mAP | 96 | 1 | none | 50.0 [40.0, 60.0] |" in card
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "retrieval"


def test_the_report_shows_the_files(exported: list[dict[str, Any]], write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write("a", result())
    (folder / "export.json").write_text(json.dumps(exported))
    report.write([folder], tmp_path)
    assert re.search(r"\| model\.int8\.onnx \| onnx \| int8 \| 0\.\d ", (tmp_path / "report.md").read_text())


def test_a_row_of_a_file_that_the_report_cannot_show_is_left_out_and_named(
    write: Callable[..., Path], exported: list[dict[str, Any]]
) -> None:
    folder = write("a", result())
    (folder / "export.json").write_text(json.dumps([{**exported[0], "bytes": "many"}, exported[1]]))
    found = collect([folder])
    assert found.exports == [exported[1]] and "item 1 is left out" in found.warnings[0]


def test_files_made_before_stay_in_the_table(run: Path, tmp_path: Path) -> None:
    export(run, f"output_dir={tmp_path}", "format=[safetensors]")
    rows = export(run, f"output_dir={tmp_path}", "format=[backbone]")
    assert {row["file"] for row in rows} == {"model.safetensors", "backbone.safetensors"}


def test_a_folder_with_another_models_files_is_refused(run: Path, tmp_path: Path) -> None:
    export(run, f"output_dir={tmp_path / 'files'}", "format=[safetensors]")
    other = run_of(tmp_path / "other", pooling="gap")
    with pytest.raises(InputError, match="holds the files of another model"):
        export(other, f"output_dir={tmp_path / 'files'}", "format=[safetensors]")


@pytest.mark.parametrize("form", ["safetensors", "onnx", "torch_export"])
def test_a_file_that_fails_its_check_is_not_there(
    run: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checks.LEAST, "float32", 1.1)  # which no file reaches
    with pytest.raises(FailedCheck, match="cosine"):
        export(run, f"output_dir={tmp_path / 'out'}", f"format=[{form}]")
    assert list((tmp_path / "out").rglob("*")) == []


@pytest.fixture(scope="module")
def outside(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An export that leaves all to who runs it: normalisation, two scales, and a whitening; and that whitening."""
    folder, generator = tmp_path_factory.mktemp("outside"), torch.Generator().manual_seed(1)
    dim = embedder.load(run).dim
    fitted = Whitening.of(torch.randn(8, dim, generator=generator), torch.randn(8, generator=generator), "drawn")
    whitening.save(fitted, folder / "fitted.safetensors")
    words = [f"output_dir={folder / 'out'}", f"whitening_file={folder / 'fitted.safetensors'}", "scales=[1.0,0.7071]"]
    export(run, *words, "inside=[]", "format=[onnx,torch_export]")
    return folder / "out", folder / "fitted.safetensors"


def test_what_stays_outside_is_done_by_who_runs_the_file(run: Path, outside: tuple[Path, Path]) -> None:
    model = embedder.load(run)
    batch = tensors.normalised(torch.from_numpy(PIXELS), model.backbone.mean, model.backbone.std)
    with torch.no_grad():
        expected = whitening.load(outside[1])(multi_scale([model], batch, (1.0, 0.7071))[0]).numpy()
    assert np.allclose(Portable(outside[0] / "model.onnx")(PIXELS), expected, atol=1e-4)


def test_a_whitening_outside_lies_beside_the_file(outside: tuple[Path, Path]) -> None:
    assert whitening.load(outside[0] / "whitening.safetensors").out_features == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["format=[onyx]"], "format must be of safetensors, onnx, torch_export, backbone"),
        (["dtype=[int4]"], "dtype must be of float32"),
        (["format=[safetensors]", "dtype=[int8]"], "format must hold onnx"),
        (["dtype=[int8]"], "format=safetensors has no int8: dtype must hold float32"),
        (["format=[backbone]", "dtype=[float16]"], "format=backbone has no float16: dtype must hold float32"),
        (["dtype=[int8]", "format=[onnx]"], "int8 is calibrated on photos: give calibration.photos=DIR"),
        (["dtype=[int8]", "format=[onnx]", "calibration.photos=configs"], "photos, and configs holds none"),
        (["inside=[head]"], "inside must be of"),
        (["dynamic=[depth]"], "dynamic must be of"),
        (["size=[64]"], r"size must be \[height, width\]"),
        (["opset=3"], "opset must be 18 to"),
        (["resolution=big"], "resolution must be a whole number"),
        (["scales=[]"], "scales must be one or more"),
        (["whitening_file=none.safetensors"], "no whitening at none.safetensors"),
        (["run=null"], "say what is exported: run=DIR"),
        (["benchmark=folder", "benchmark.folder.root=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    run: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        export(run, f"output_dir={tmp_path / 'out'}", *words)
    assert not (tmp_path / "out").exists()


def test_a_model_of_one_size_is_exported_at_that(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", pooling="rmac")
    (row,) = export(run, "format=[torch_export]", "size=[64,96]")
    assert row["dynamic"] == ["batch"] and "regions" in row["why_fixed"]


def test_from_the_command_line_wrong_input_is_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "retrieval.export", f"run={tmp_path}/none"]
    done = subprocess.run(words, cwd=CONFIGS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: no folder at")
