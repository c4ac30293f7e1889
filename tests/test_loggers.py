"""The same numbers in W&B, TensorBoard and metrics.csv: what an offline run and an event file hold."""

import csv
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import wandb.env
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks.progress.progress_bar import get_standard_metrics
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf
from small_runs import TINY, columns, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from wandb.proto.wandb_internal_pb2 import Record
from wandb.wandb_agent import Agent

from retrieval import training
from retrieval.callbacks import Bar, WandbLogger
from retrieval.callbacks.loggers import final, names
from retrieval.config import CONFIGS, compose
from retrieval.errors import InputError
from retrieval.extraction import NotFinite
from retrieval.report.__main__ import main
from retrieval.wandb_names import ascii_name

ROOT = Path(__file__).parent.parent
EVERYWHERE = ["logger=[csv,wandb,tensorboard]", "pooling.per_channel=true", "data.validation=2"]
BLOCK, HEADER = 32768, 7  # of the log that W&B keeps, which is LevelDB's with a header of 7 bytes before it


def records(run: Path) -> Iterator[Record]:
    """What an offline run holds, as `wandb sync` reads it: whole records, of a killed process all but its last."""
    content, place, parts = run.read_bytes(), HEADER, b""
    while place + HEADER <= len(content):
        if (left := BLOCK - place % BLOCK) < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + HEADER])
        parts += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4) and place <= len(content):  # a whole record, or its last part
            yield Record.FromString(parts)
            parts = b""


def offline(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def written(folder: Path) -> Path:
    """The folder, when W&B's own process, which may lag behind, has written that its latest run is over."""
    until = time.monotonic() + 60
    while not any(record.HasField("exit") for record in records(offline(folder)[-1])):
        assert time.monotonic() < until, "the run is not over"
        time.sleep(0.01)
    return folder


def all_of(folder: Path, kind: str) -> list[Any]:
    """The records of a kind, of all offline runs of a folder."""
    found = (record for run in offline(folder) for record in records(run))
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]


def history(folder: Path) -> list[dict[str, Any]]:
    rows = [row.item for row in all_of(folder, "history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def summary(folder: Path) -> dict[str, Any]:
    items = [item for one in all_of(folder, "summary") for item in one.update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def settings(folder: Path) -> dict[str, Any]:
    return {item.key: json.loads(item.value_json) for one in all_of(folder, "config") for item in one.update}


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0}).Reload()


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(folder).Scalars(name)]


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """A curve of metrics.csv."""
    with (folder / "metrics.csv").open() as lines:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(lines) if row[name]]


def alone() -> dict[str, str]:
    """The environment of a program that has nothing to do with what W&B does in this one."""
    return {name: value for name, value in os.environ.items() if name != wandb.env.SERVICE} | {"OMP_NUM_THREADS": "1"}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of a sweep."""
    sweep = tmp_path_factory.mktemp("runs") / "poolings"
    sweep.mkdir()
    (sweep / "sweep.json").write_text('{"script": "train", "jobs": []}')
    training.fit(tiny(photos, sweep / "0_gem", *EVERYWHERE, "evaluate_untrained=true"))
    return written(sweep / "0_gem")


def test_the_summary_of_the_wandb_run_has_every_number_of_every_row(run: Path) -> None:
    found, expected = summary(run), final(rows_of(run))
    assert {name: found[name] for name in expected} == expected


def test_what_was_judged_is_named_by_benchmark_metric_and_resolution(run: Path) -> None:
    before, after = rows_of(run)
    found = final([before, after])
    assert found["folder/mAP@48"] == after["metrics"]["mAP"]
    assert found["untrained/folder/mAP@48"] == before["metrics"]["mAP"]
    assert found["folder/macro/mAP@48"] == after["macro"]["mAP"]
    assert [found["folder/low/mAP@48"], found["folder/high/mAP@48"]] == after["intervals"]["mAP"]
    assert found["model/p.mean"] == after["p"]["mean"]


def test_the_rows_are_a_table_of_wandb(run: Path) -> None:
    (file,) = run.glob("wandb/offline-run-*/files/media/table/rows_*.json")
    table = json.loads(file.read_text())
    shown = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    assert [one["metrics.mAP"] for one in shown] == [row["metrics"]["mAP"] for row in rows_of(run)]


def test_the_wandb_run_ends_well_after_it_was_judged(run: Path) -> None:
    (ended,) = all_of(run, "exit")
    assert ended.exit_code == 0


def test_wandb_has_the_whole_config(run: Path) -> None:
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    found = settings(run)
    assert isinstance(config, dict)
    assert {key: found[key] for key in config if key not in ("selected_by", "trained")} == {
        key: value for key, value in config.items() if key not in ("selected_by", "trained")
    }


def test_jobs_of_a_sweep_share_a_group_and_are_named_by_their_folders(run: Path) -> None:
    (begun,) = all_of(run, "run")
    assert (begun.run_group, begun.display_name) == ("poolings", "0_gem")


def test_a_job_some_folders_deep_is_in_the_group_of_its_sweep(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    assert names(tmp_path / "gem/0") == {"id": None, "name": "gem/0", "group": tmp_path.name}


def test_event_files_have_every_number_of_every_row_where_the_curves_end(run: Path) -> None:
    found = events(run)
    for name, value in final(rows_of(run)).items():
        (event,) = found.Scalars(name)
        assert (event.step, event.value) == (6, pytest.approx(value, rel=1e-6))


def test_event_files_have_the_rows_as_text(run: Path) -> None:
    (text,) = events(run).Tensors("rows/text_summary")
    assert "untrained" in text.tensor_proto.string_val[0].decode()


def test_event_files_have_the_whole_config_as_hyperparameters(run: Path) -> None:
    content = events(run).SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["pooling.per_channel"].number_value == 1
    assert found["optimizer.lr"].number_value == 1e-3
    assert found["names.pooling"].string_value == "gem"


@pytest.mark.parametrize("name", ["train/loss", "validation/mAP", "p/d5"])
def test_curves_are_alike_everywhere(run: Path, name: str) -> None:
    expected = curve(run, name)
    sent = [(row["trainer/global_step"], row[name]) for row in history(run) if name in row]
    assert sent == expected
    assert scalars(run, name) == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]


def test_how_p_is_spread_over_channels_is_seen_through_time(run: Path) -> None:
    steps = [0, 0, 1, 2, 3, 4, 5]  # once before the first step
    assert [event.step for event in events(run).Histograms("p/histogram")] == steps
    sent = [row["trainer/global_step"] for row in history(run) if "p/histogram/_type" in row]
    assert sent == steps


@pytest.fixture(scope="module")
def gone_on(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nine steps that was killed after its fifth and called again."""
    out = tmp_path_factory.mktemp("killed") / "run"
    places = [f"data.root={photos}", f"benchmark.folder.root={photos}", f"cache={out.parent}"]
    longer = ["trainer.max_epochs=3", "checkpoint_steps=1", "resume=auto"]
    given = [*TINY, *places, *EVERYWHERE, *longer, f"output_dir={out}"]
    process = subprocess.Popen([sys.executable, "train.py", *given], cwd=ROOT, env=alone())
    while process.poll() is None and not (out / "checkpoints" / "last-00000005.ckpt").is_file():
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.1)  # event files are read in the order of the seconds in their names, and a new process takes longer
    training.fit(tiny(photos, out, *EVERYWHERE, *longer))
    return written(out)


def test_a_killed_run_goes_on_as_the_same_run_of_wandb(gone_on: Path) -> None:
    first, second = offline(gone_on)
    assert first.name == second.name
    assert all_of(gone_on, "run")[-1].resume


def test_both_parts_together_have_every_step_with_the_value_that_it_has_in_metrics_csv(gone_on: Path) -> None:
    sent = {(row["trainer/global_step"], row["train/loss"]) for row in history(gone_on) if "train/loss" in row}
    assert sent == set(curve(gone_on, "train/loss"))


@pytest.mark.parametrize("name", ["train/loss", "validation/mAP", "p/mean"])
def test_no_step_of_an_event_file_is_there_twice(gone_on: Path, name: str) -> None:
    expected = [(step, pytest.approx(value, rel=1e-6)) for step, value in curve(gone_on, name)]
    assert scalars(gone_on, name) == expected


def test_no_histogram_of_an_event_file_is_there_twice(gone_on: Path) -> None:
    steps = Counter(event.step for event in events(gone_on).Histograms("p/histogram"))
    assert steps == Counter({0: 2, **dict.fromkeys(range(1, 9), 1)})


def test_a_run_that_fails_is_ended_as_failed_with_the_rows_that_it_has(photos: Path, tmp_path: Path) -> None:
    wild = ["logger=[csv,wandb,tensorboard]", "evaluate_untrained=true", "optimizer.lr=1e30"]
    with pytest.raises(NotFinite):
        training.fit(tiny(photos, tmp_path / "run", *wild))
    (ended,) = all_of(written(tmp_path / "run"), "exit")
    assert ended.exit_code == 1
    assert "untrained/folder/mAP@48" in summary(tmp_path / "run")
    assert "untrained/folder/mAP@48" in events(tmp_path / "run").Tags()["scalars"]


def test_an_offline_run_is_quiet(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training.fit(tiny(photos, tmp_path / "run", "logger=[csv,wandb]", "trainer.max_epochs=1"))
    assert len(offline(tmp_path / "run")) == 1
    assert "wandb" not in "".join(capsys.readouterr())


@pytest.fixture(scope="module", params=["Église de la Trinité", "天安门", "é" + "x" * 253])
def oddly_named(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fewer steps than `log_every_n_steps`, in a folder whose name is accented, Chinese, or 255 bytes long."""
    folder = tmp_path_factory.mktemp("odd") / request.param
    short = ["trainer.max_epochs=1", "trainer.log_every_n_steps=50"]
    words = [*TINY, f"data.root={photos}", f"benchmark.folder.root={photos}", f"output_dir='{folder}'"]
    training.fit(compose("train", [*words, f"cache={folder.parent}", "logger=[csv,wandb,tensorboard]", *short]))
    return written(folder)


@pytest.mark.parametrize("name", ["p", "train/loss"])
def test_a_short_run_logs_its_first_and_last_step_whatever_the_folder_is_called(oddly_named: Path, name: str) -> None:
    steps = [step for step, _ in curve(oddly_named, name)]
    assert (steps[0], steps[-1]) == (0, 4)
    sent = [row["trainer/global_step"] for row in history(oddly_named) if name in row]
    assert sent == steps
    assert [step for step, _ in scalars(oddly_named, name)] == steps


def test_the_name_of_a_wandb_run_is_ascii_and_short(oddly_named: Path) -> None:
    (begun,) = all_of(oddly_named, "run")
    assert begun.display_name == ascii_name(oddly_named.name)
    assert begun.display_name.isascii() and 0 < len(begun.display_name) <= 128


def test_wandb_keeps_a_name_of_ascii_letters() -> None:
    assert ascii_name("3_gem p=2.9 (b)") == "3_gem p=2.9 (b)"


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
def test_two_folders_have_two_names_in_wandb(texts: list[str]) -> None:
    named = [ascii_name(text) for text in texts]
    assert named[0] != named[1]
    assert all(name.isascii() and name.isprintable() and 0 < len(name) <= 128 for name in named)


@pytest.mark.parametrize("logger", ["[wandb]", "[]"])
def test_metrics_are_written_to_a_file_whichever_loggers_are_chosen(photos: Path, tmp_path: Path, logger: str) -> None:
    training.fit(tiny(photos, tmp_path / "run", f"logger={logger}", "trainer.max_steps=2"))
    assert [step for step, _ in curve(tmp_path / "run", "train/loss")] == [0, 1]


@pytest.mark.parametrize("words", [["trainer.max_steps=3"], ["trainer.accumulate_grad_batches=2"]])
def test_the_last_step_is_logged_wherever_it_lies_in_an_epoch(photos: Path, tmp_path: Path, words: list[str]) -> None:
    training.fit(tiny(photos, tmp_path / "run", "trainer.log_every_n_steps=50", "trainer.max_epochs=1", *words))
    assert [step for step, _ in curve(tmp_path / "run", "train/loss")] == [0, 2]


def test_the_progress_bar_shows_no_version_of_a_logger(tmp_path: Path) -> None:
    trainer = pl.Trainer(logger=CSVLogger(tmp_path, version="x"), accelerator="cpu", enable_progress_bar=False)
    assert get_standard_metrics(trainer) == {"v_num": "x"}
    assert Bar().get_metrics(trainer, pl.LightningModule()) == {}


def test_a_mode_of_wandb_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="must be offline, online or disabled, got 'dry'"):
        WandbLogger("dry")


@pytest.fixture(scope="module")
def sent(run: Path) -> Path:
    """The sweep of a run whose report was sent to W&B."""
    assert main([str(run.parent), "--wandb", "offline", "--project", "poolings"]) == 0
    return written(run.parent)


def test_a_report_is_a_run_of_its_own_in_the_group_of_the_sweep(sent: Path) -> None:
    (begun,) = all_of(sent, "run")
    assert (begun.job_type, begun.run_group, begun.project) == ("report", "poolings", "poolings")


def test_a_report_sends_its_tables_as_they_are(sent: Path) -> None:
    (file,) = sent.glob("wandb/offline-run-*/files/media/table/tables/01_mAP_*.json")
    table = json.loads(file.read_text())
    shown = (sent / "report.md").read_text()
    assert table["columns"][0] == "backbone"
    assert all(cell in shown for line in table["data"] for cell in line)


def test_a_report_sends_its_charts(sent: Path) -> None:
    names = {file.name.split("_")[0] for file in sent.glob("wandb/offline-run-*/files/media/html/charts/*.html")}
    assert names == {"channels", "precision", "training"}


def test_a_report_sends_its_page_as_an_artifact(sent: Path) -> None:
    (page,) = [artifact for artifact in all_of(sent, "artifact") if artifact.type == "report"]
    assert [entry.path for entry in page.manifest.contents] == ["report.html"]


def test_a_report_sent_is_no_run_that_lacks_results(sent: Path) -> None:
    assert main([str(sent)]) == 0
    (sent / "wandb" / "run-online" / "files").mkdir(parents=True)
    (sent / "wandb" / "run-online" / "files" / "config.yaml").write_text("{}")
    main([str(sent)])
    assert "no results" not in (sent / "report.md").read_text()


@pytest.fixture(scope="module")
def by_agent(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job started as `wandb agent` starts it, but that it stays offline."""
    out = tmp_path_factory.mktemp("agent")
    sweep: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "wandb_sweep.yaml"), resolve=False)
    small = [*TINY, "data.validation=2", "logger=[csv,wandb]", "trainer.max_epochs=1"]
    places = [f"data.root={photos}", f"benchmark.folder.root={photos}", f"cache={out}"]
    agent: Any = Agent.__new__(Agent)  # its __init__ signs in
    agent.__dict__.update(_function=None, _in_jupyter=False, _forward_signals=False, _run_processes={})
    given = [word.replace("output_dir=runs", f"output_dir={out}") for word in sweep["command"]]
    agent._sweep_command = [*given, *small, *places, "logger.wandb.mode=offline"]
    chosen = {name: {"value": one["values"][-1]} for name, one in sweep["parameters"].items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        for name, value in {"DIR": str(out), "SWEEP_ID": "s1", "RUN_ID": "", "SWEEP_PARAM_PATH": ""}.items():
            patch.setenv(f"WANDB_{name}", value)  # the agent changes them for all, the test puts them back
        patch.chdir(ROOT)
        agent._command_run({"program": sweep["program"], "run_id": "r1", "args": chosen})
        assert agent._run_processes["r1"].wait() == 0
        return written(out / "s1" / "r1")


def test_an_agent_of_wandb_trains_what_its_sweep_says(by_agent: Path) -> None:
    (row,) = rows_of(by_agent)
    assert (row["pooling"], row["seed"]) == ("strided_conv", 2)


def test_the_run_is_the_one_that_the_agent_has_named(by_agent: Path) -> None:
    (begun,) = all_of(by_agent, "run")
    assert (begun.run_id, begun.sweep_id) == ("r1", "s1")


def test_the_metric_that_the_sweep_looks_at_is_logged(by_agent: Path) -> None:
    metric = OmegaConf.load(CONFIGS / "wandb_sweep.yaml").metric.name
    assert summary(by_agent)[metric] == columns(by_agent)[metric][-1]


def test_offline_nothing_asks_the_network(photos: Path, tmp_path: Path) -> None:
    """All that a process asks must go through a proxy here."""
    places = [
        f"data.root={photos}",
        f"benchmark.folder.root={photos}",
        f"cache={tmp_path}",
        f"output_dir={tmp_path}/run",
    ]
    call = [sys.executable, "train.py", *TINY, *places, "logger=[csv,wandb]", "trainer.max_epochs=1"]
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        through = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        # a run in this process may have set the last one
        kept = {name: value for name, value in os.environ.items() if name != "WANDB_ERROR_REPORTING"}
        asks = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), through)
        subprocess.run(call, cwd=ROOT, env={**kept, **asks}, check=True, capture_output=True)
        assert not select.select([proxy], [], [], 0)[0]
