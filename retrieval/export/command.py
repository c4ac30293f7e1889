"""Every file that is asked for: written, checked against the model, measured, and put beside its card."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from retrieval import stages
from retrieval.atomic import replace
from retrieval.endings import refuse_unwritable
from retrieval.errors import InputError
from retrieval.export import card, measured
from retrieval.export.asked import Asked
from retrieval.export.checks import FailedCheck
from retrieval.export.making import Made, Making
from retrieval.export.measured import Describe
from retrieval.report.exports import change
from retrieval.spec import Spec
from retrieval.store import VERSIONS

Row = dict[str, Any]
SLOW = "PyTorch computes in this dtype on a CPU many times slower than in float32, so it is neither timed nor judged"
MAIN = ("medium/mAP", "mAP", "mAP@100", "micro-AP", "recall@1")  # the first that a benchmark has


def export(cfg: DictConfig) -> tuple[Path, list[Row]]:
    """The folder and a row of `export.json` for each file; see `configs/export.yaml`.

    Raises InputError before anything is written where it cannot be done, and FailedCheck in the end where files do not
    give what the model gives: these are not there then, and the others are.
    """
    if folder := cfg.output_dir or (Path(cfg.run) / "export" if cfg.run and Path(cfg.run).is_dir() else None):
        refuse_unwritable(folder)
    stages.stage(f"loading {cfg.run}")
    asked = Asked.of(cfg)
    earlier = made_before(asked)
    asked.folder.mkdir(parents=True, exist_ok=True)
    stages.stage(f"making and checking {', '.join(f'{form} in {dtype}' for form, dtype in asked.files)}")
    making = Making(asked)
    made, failed = making.all()
    if asked.benchmarks:
        stages.stage(f"evaluating the model on {', '.join(asked.benchmarks)}")
    own = judged(making.model, making.spec, asked, "the model")
    rows = [row(one, own, asked) for one in made]
    rows += [one for one in earlier if one["file"] not in {new["file"] for new in rows}]
    if rows:
        put(asked.folder / "export.json", json.dumps(rows, indent=1))
        put(asked.folder / "README.md", card.card(asked, making.of_files, rows, of_run(asked)))
    if failed:
        raise FailedCheck("\n".join([f"{asked.folder} lacks what failed its check:", *failed]))
    return asked.folder, rows


def row(made: Made, own: Sequence[Row], asked: Asked) -> Row:
    """What is known of a file; own: what the model itself gives on the benchmarks."""
    stages.stage(f"measuring {made.file}")
    describe, spec = made.describe, made.spec
    slow = made.format == "torch_export" and made.dtype != "float32"  # minutes a hundred photos, on a CPU
    found = judged(describe, spec, asked, made.file) if describe and not slow else []
    of_model = {one["benchmark"]: one["value"] for one in own}
    return {
        **{
            "model": asked.name,
            "weights": asked.fingerprint,
            "file": made.file,
            "format": made.format,
            "dtype": made.dtype,
        },
        **{"bytes": (asked.folder / made.file).stat().st_size, "cosine": made.cosine},
        **{"dynamic": list(made.dynamic), "why_fixed": made.why_fixed, "resolution": spec.resolution},
        **{"seconds": measured.seconds(describe, spec) if describe and not slow else None},
        **{"unjudged": SLOW if slow else None},
        **{"judged": [{**one, "lost": of_model[one["benchmark"]] - one["value"]} for one in found]},
        **{"device": "CPU", "threads": torch.get_num_threads(), "versions": VERSIONS},
    }


def made_before(asked: Asked) -> list[Row]:
    """Rows of files that an earlier call left here; those of another model are refused, as a folder has one card."""
    file = asked.folder / "export.json"
    earlier: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    if any(one["weights"] != asked.fingerprint for one in earlier):
        raise InputError(
            f"{asked.folder} holds the files of another model ({earlier[0]['model']}): name another output_dir"
        )
    return [one for one in earlier if (asked.folder / one["file"]).is_file()]


def judged(describe: Describe, spec: Spec, asked: Asked, title: str) -> list[Row]:
    """What each benchmark says: the `value` of its main metric, and its interval."""
    found = []
    for one in measured.values(describe, spec, asked.benchmarks, title):
        metric = next(name for name in MAIN if name in one["metrics"])
        known = {"metric": metric, "value": one["metrics"][metric], "interval": one["intervals"].get(metric)}
        found.append({**one, **known})
    return found


def of_run(asked: Asked) -> list[Row]:
    """The rows of the run's own evaluation; none where it was not judged, or came from elsewhere."""
    file = Path(asked.run) / "results.json"
    return json.loads(file.read_text()) if file.is_file() else []


def put(file: Path, text: str) -> None:
    replace(file, lambda opened: opened.write(text.encode()))


def printed(rows: Sequence[Row]) -> str:
    """The files as lines for the terminal."""
    return "\n".join(lines(rows))


def lines(rows: Sequence[Row]) -> Iterator[str]:
    yield f"{'file':28} {'MB':>7} {'ms a photo':>10} {'cosine':>9}  "
    for one in rows:
        time = "-" if one["seconds"] is None else f"{1000 * one['seconds']:.1f}"
        values = [
            f"{of['benchmark']} {of['metric']} {100 * of['value']:.1f} ({change(of['lost'])} points)"
            for of in one["judged"]
        ]
        fixed = [] if one["why_fixed"] is None else [f"one size: {one['why_fixed']}"]
        said = "; ".join([*values, *fixed])
        cosine = "-" if one["cosine"] is None else f"{one['cosine']:.6f}"
        yield f"{one['file']:28} {one['bytes'] / 1e6:7.1f} {time:>10} {cosine:>9}  {said}".rstrip()
