"""What finished runs left behind, read and checked: nothing is evaluated again."""

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]  # one evaluation, as in results.json, and the `folder` it came from
History = Mapping[str, Mapping[int, float]]  # column of metrics.csv -> step -> value

ANY = {"benchmark": str, "backbone": str, "pooling": str, "resolution": int, "seed": int, "untrained": bool}
RESULT = {**ANY, "scales": list, "settings": str, "metrics": dict}
RANKING = {**ANY, "settings": str, "query": dict, "ap": (int, float), "top": list}
WORDS = ("options", "trained_with")  # None in rows written before there was such a key
P = ("mean", "min", "max")
EVALUATED = ("scales", "aspect", "crop", "dtype", "whitening", "rerank")  # rows that differ here share no mean


@dataclass
class Run:
    """What one run left behind; every part but `rows` may be empty."""

    folder: Path
    rows: list[Row]
    history: History
    rankings: list[dict[str, Any]]
    config: str


@dataclass
class Runs:
    """Every run found, folders with a config but no results, and what was wrong on the way, in sentences."""

    runs: list[Run] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [row for run in self.runs for row in run.rows]


class Model(NamedTuple):
    """A line of a table: rows of one model are comparable, and differ in seed alone.

    options: what the pooling has set otherwise than its YAML, and the pooling that the backbone was trained with where
    that is another, in words; "" where neither is so.
    """

    backbone: str
    pooling: str
    head: str
    options: str
    untrained: bool
    settings: str

    @property
    def order(self) -> tuple[Any, ...]:
        """Numbers in `options` count as numbers: p=5 stands before p=10."""
        pieces = re.split(r"(\d+(?:\.\d+)?)", self.options)  # every second one is a number
        options = [float(piece) if i % 2 else piece for i, piece in enumerate(pieces)]
        return self.backbone, self.pooling, self.head, options, self.untrained, self.settings


def collect(dirs: Sequence[Path]) -> Runs:
    """Every run under `dirs`. An evaluation repeated counts once, the later one.

    Raises FileNotFoundError for a folder that is absent or holds no `results.json`, naming it, and ValueError
    where no row at all can be shown.
    """
    found = Runs()
    files = {file.resolve(): file for folder in dirs for file in _results(folder)}
    for file in sorted(files.values(), key=lambda file: (file.stat().st_mtime, file)):
        found.runs.append(_run(file, found.warnings))
    _agree(found.rows)
    _drop_repeated(found)
    found.unfinished = sorted({path for folder in dirs for path in _unfinished(folder, found.runs)})
    found.runs.sort(key=lambda run: run.folder)
    if not found.rows:
        raise ValueError("\n".join(["no results.json holds a row that can be shown", *found.warnings]))
    return found


def _results(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"a folder of runs must exist, got {folder}")
    if not (files := list(folder.rglob("results.json"))):
        raise FileNotFoundError(f"a folder of runs must hold a results.json, at any depth; {folder} holds none")
    return files


def _run(file: Path, warnings: list[str]) -> Run:
    folder, config = file.parent, file.with_name("config.yaml")
    rows = [_row(row, folder) for row in _items(file, RESULT, warnings)]
    for row in rows:
        nan = [name for name, value in row["metrics"].items() if math.isnan(value)]
        warnings += [f"{file}: {row['benchmark']} at {row['resolution']} px has a NaN for {name}" for name in nan]
    rankings = file.with_name("rankings.json")
    shown = _items(rankings, RANKING, warnings) if rankings.is_file() else []
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    return Run(folder, rows, _history(file.with_name("metrics.csv"), warnings), shown, text)


def _row(row: Row, folder: Path) -> Row:
    metrics = {name: math.nan if value is None else value for name, value in row["metrics"].items()}
    absent = {"folder": str(folder), "p": None, **dict.fromkeys(WORDS)}
    return {**absent, **row, "head": row.get("head") or "none", "metrics": metrics}


def _items(file: Path, needed: dict[str, Any], warnings: list[str]) -> list[dict[str, Any]]:
    """The sound items of a JSON list; what is wrong with the others, or with the file, goes to `warnings`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        warnings.append(f"{file} is not JSON, and left out: {error}")
        return []
    if not isinstance(content, list):
        warnings.append(f"{file} must hold a list, got {type(content).__name__}, and is left out")
        return []
    problems = [_problem(item, needed) for item in content]
    warnings += [f"{file}, item {i} is left out: {problem}" for i, problem in enumerate(problems, 1) if problem]
    return [item for item, problem in zip(content, problems, strict=True) if not problem]


def _problem(item: Any, needed: dict[str, Any]) -> str | None:
    if not isinstance(item, dict):
        return f"it must be an object, got {item!r}"
    for key, kind in needed.items():
        if key not in item:
            return f"it lacks {key!r}"
        if not isinstance(item[key], kind):
            return f"{key!r} must be of type {getattr(kind, '__name__', 'number')}, got {item[key]!r}"
    for key in WORDS:
        if not isinstance(item.get(key), str | None):
            return f"{key!r} must be text, got {item[key]!r}"
    p = item.get("p")
    numbers = {**item.get("metrics", {}), **({key: p.get(key) for key in P} if isinstance(p, dict) else {"p": p})}
    for name, value in numbers.items():
        if not isinstance(value, int | float | None):
            return f"{name!r} must be a number, got {value!r}"
    return None


def _history(file: Path, warnings: list[str]) -> History:
    history: dict[str, dict[int, float]] = defaultdict(dict)
    if not file.is_file():
        return history
    with file.open(newline="", encoding="utf-8") as lines:
        for number, line in enumerate(csv.DictReader(lines), 2):
            try:
                for name in line.keys() - {"step", "epoch", None}:
                    if line[name]:
                        history[name][int(float(line["step"]))] = float(line[name])
            except (KeyError, TypeError, ValueError) as error:
                warnings.append(f"{file}, line {number} is left out of the curves: {error!r}")
    return history


def _agree(rows: Sequence[Row]) -> None:
    """One wording of `options`, the latest, for rows of the same settings: old rows have none, a YAML may change."""
    latest = {row["settings"]: row["options"] for row in rows if row["options"] is not None}
    for row in rows:
        row["options"] = latest.get(row["settings"], "")


def _drop_repeated(found: Runs) -> None:
    """Keep the last of the rows that share everything but their values; say so where folders disagree."""
    last: dict[tuple[Any, ...], Row] = {}
    for row in found.rows:
        how = [repr(row.get(key)) for key in EVALUATED]
        key = (*model_of(row), row["benchmark"], row["resolution"], *how, row["seed"])
        earlier = last.get(key, row)
        if earlier["folder"] != row["folder"] and earlier["metrics"] != row["metrics"]:
            both = f"{earlier['folder']} and {row['folder']}"
            found.warnings.append(f"{both} differ with the same settings and seed {row['seed']}; the later counts")
        last[key] = row
    found.warnings = list(dict.fromkeys(found.warnings))
    kept = {id(row) for row in last.values()}
    for run in found.runs:
        run.rows = [row for row in run.rows if id(row) in kept]


def _unfinished(root: Path, runs: Iterable[Run]) -> list[Path]:
    """Folders with a config and no results, outside every run: a saved model inside a run is no run of its own."""
    taken = {run.folder.resolve() for run in runs}
    outermost: list[Path] = []
    for folder in sorted(config.parent for config in root.rglob("config.yaml") if ".hydra" not in config.parts):
        here = folder.resolve()
        related = {here, *here.parents} & taken or any(here in other.parents for other in taken)
        if not related and not set(folder.parents) & set(outermost):
            outermost.append(folder)
    return outermost


def model_of(row: Row) -> Model:
    trained_with = f"trained with {row['trained_with']}" if row["trained_with"] else ""
    options = ", ".join(part for part in (row["options"], trained_with) if part)
    return Model(row["backbone"], row["pooling"], row["head"], options, row["untrained"], row["settings"])
