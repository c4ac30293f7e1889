"""A report as a W&B run: its tables, its charts and its page."""

import os
import re
from pathlib import Path
from typing import Any

from retrieval.report.pictures import draw
from retrieval.report.writing import Report
from retrieval.wandb_names import ascii_name


def send(report: Report, page: Path, mode: str, project: str, folder: Path) -> None:
    """One run of job type "report" that holds the tables, the charts, and the page as an artifact of type "report".

    mode: "offline", which leaves the run in FOLDER/wandb for `wandb sync`, or "online". Where `folder` is that of a
    sweep, the run is in the group of the sweep's jobs.
    """
    if mode == "offline":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it reports its own use over the network
    import wandb

    name = ascii_name(folder.resolve().name)
    group = name if (folder / "sweep.json").is_file() else None
    about: dict[str, Any] = {"mode": mode, "project": project, "name": ascii_name(f"report of {name}"), "group": group}
    with wandb.init(**about, job_type="report", dir=folder, settings={"silent": mode == "offline"}) as run:
        for number, table in enumerate(report.tables, 1):
            data = [[cell.text for cell in line] for line in table.lines]
            key = f"tables/{number:02}_{word(table.title)}"
            run.log({key: wandb.Table(columns=[*table.header], data=data)}, step=0)
        charts = {f"charts/{chart}": wandb.Html(svg, inject=False) for chart, svg in draw(report.found).items()}
        run.log(charts, step=0)
        artifact = wandb.Artifact(f"report-{word(name)}", type="report")
        artifact.add_file(str(page))
        run.log_artifact(artifact)


def word(text: str) -> str:
    """The text as W&B takes it in a name: `folder, medium (mAP)` as `folder_medium_mAP`."""
    return re.sub(r"\W+", "_", ascii_name(text)).strip("_")
