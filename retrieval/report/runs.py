"""What finished runs left behind, read and checked: nothing is evaluated again."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval.report.lines import Row, describe, evaluation, model_of

History = Mapping[str, Mapping[int, float]]  # column of metrics.csv -> step -> value

ANY = {"benchmark": str, "backbone": str, "pooling": str, "resolution": int, "seed": int, "untrained": bool}
RESULT = {**ANY, "scales": list, "settings": str, "metrics": dict}
RANKING = {**ANY, "settings": str, "query": dict, "ap": (int, float), "top": list}
WORDS = ("options", "trained_with")  # None in rows written before there was such a key
TEXTS = (*WORDS, "per_query")
MAPPINGS = ("convention", "macro", "intervals")
P = ("mean", "min", "max")
OTHERS = {".hydra", "wandb"}  # folders of other programs, which have a config.yaml of their own


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
    describe(found.rows)
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
        which = f"{file}: {row['benchmark']} at {row['resolution']} px"
        nan = [name for name, value in row["metrics"].items() if math.isnan(value)]
        warnings += [f"{which} has a NaN for {name}" for name in nan]
        if row.get("per_query") and not (folder / row["per_query"]).is_file():
            warnings.append(f"{which} names values per query that are gone: {folder / row['per_query']}")
    rankings = file.with_name("rankings.json")
    shown = _items(rankings, RANKING, warnings) if rankings.is_file() else []
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    return Run(folder, rows, _history(file.with_name("metrics.csv"), warnings), shown, text)


def _row(row: Row, folder: Path) -> Row:
    metrics = {name: math.nan if value is None else value for name, value in row["metrics"].items()}
    crop = {"crop": True} if row.get("crop") else {}  # of rows written before there was `convention`
    absent = {"folder": str(folder), "p": None, **dict.fromkeys(WORDS)}
    known = {"head": row.get("head") or "none", "metrics": metrics, "convention": row.get("convention") or crop}
    return {**absent, **row, **known}


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
    for keys, kind, what in ((TEXTS, str, "text"), (MAPPINGS, dict, "an object")):
        for key in keys:
            if not isinstance(item.get(key), kind | None):
                return f"{key!r} must be {what}, got {item[key]!r}"
    if not all(isinstance(scale, int | float) for scale in item.get("scales", ())):
        return f"'scales' must be numbers, got {item['scales']!r}"
    for name, interval in (item.get("intervals") or {}).items():
        if interval is not None and not (isinstance(interval, list) and len(interval) == 2):
            return f"the interval of {name!r} must be [low, high], got {interval!r}"
    for name, value in _numbers(item):
        if not isinstance(value, int | float | None):
            return f"{name!r} must be a number, got {value!r}"
    return None


def _numbers(item: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What must be a number or null in a row, by name."""
    p = item.get("p")
    yield from item.get("metrics", {}).items()
    yield from ({key: p.get(key) for key in P} if isinstance(p, dict) else {"p": p}).items()
    yield from (item.get("macro") or {}).items()
    for name, interval in (item.get("intervals") or {}).items():
        yield from ((name, bound) for bound in interval or ())


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
        key = (*model_of(row), row["benchmark"], row["resolution"], *evaluation(row), row["seed"])
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
    for folder in sorted(file.parent for file in root.rglob("config.yaml") if not OTHERS & set(file.parts)):
        here = folder.resolve()
        related = {here, *here.parents} & taken or any(here in other.parents for other in taken)
        if not related and not set(folder.parents) & set(outermost):
            outermost.append(folder)
    return outermost
