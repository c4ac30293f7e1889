"""What runs left behind, read and checked: nothing is evaluated again."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval.report import checks, exports, reading, states
from retrieval.report.lines import Row, describe, evaluation, model_of
from retrieval.report.reading import History, Unreadable
from retrieval.report.states import real

LIBRARIES = ("torch", "timm", "numpy")  # of which another version may compute other values
OTHERS = {".hydra", "wandb"}  # folders of other programs, which have a config.yaml of their own


@dataclass
class Run:
    """What one run left behind; every part may be empty.

    state: how far one is that has not all of its results, in words; "" for a finished one.
    """

    folder: Path
    rows: list[Row]
    history: History
    rankings: list[dict[str, Any]]
    config: str
    seed: int = 0
    state: str = ""


@dataclass
class Runs:
    """Every run found, the files that left them, and what was wrong on the way, in sentences."""

    runs: list[Run] = field(default_factory=list)
    exports: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [row for run in self.runs for row in run.rows]

    @property
    def unfinished(self) -> list[Path]:
        return [run.folder for run in self.runs if run.state]


def collect(dirs: Sequence[Path]) -> Runs:
    """Every run under `dirs`. An evaluation repeated counts once, the later one.

    Raises ValueError where no row at all can be shown, with what there is instead.
    """
    found = Runs()
    there = [folder for folder in dirs if _holds(folder, found.warnings)]
    going = states.sweeps(there, found.warnings)
    jobs = {real(folder): state for folder, state in going.items()}
    files = {real(file): file for folder in there for file in reading.find(folder, "results.json")}
    for file in sorted(files.values(), key=lambda file: (file.lstat().st_mtime, file)):
        found.runs.append(_run(file.parent, jobs, found.warnings))
    begun = {real(folder): folder for root in there for folder in _without_results(root, found.runs)}
    for folder in sorted(begun.values()):
        found.runs.append(_run(folder, jobs, found.warnings))
    left = {real(file): file for folder in there for file in reading.find(folder, "export.json")}
    found.exports += [row for file in sorted(left.values()) for row in _sound(file, exports.row, found.warnings)[0]]
    seen = {real(run.folder) for run in found.runs}
    found.warnings += [f"{folder}: {state}" for folder, state in going.items() if real(folder) not in seen]
    _agree(found.rows)
    _drop_repeated(found)
    found.warnings = [reading.cleaned(said) for said in dict.fromkeys([*found.warnings, *_versions(found.rows)])]
    if not found.rows:
        raise ValueError("\n".join(["there is no result to show", *found.warnings]))
    describe(found.rows)
    found.runs.sort(key=lambda run: run.folder)
    return found


def _holds(folder: Path, warnings: list[str]) -> bool:
    """Whether there is such a folder; says so where it is none, or holds no results."""
    if not folder.is_dir():
        warnings.append(f"{folder} is no folder" if folder.exists() else f"{folder} does not exist")
        return False
    if not any(folder.iterdir()):
        warnings.append(f"{folder} is empty")
    elif not reading.find(folder, "results.json"):
        warnings.append(f"{folder} holds no results.json, at any depth")
    return True


def _run(folder: Path, jobs: dict[Path, str], warnings: list[str]) -> Run:
    """What lies in a folder. jobs: how those of sweeps stand."""

    def row(item: Any) -> Row:
        shown, odd = checks.row(item, folder)
        which = f"{shown['benchmark']} at {shown['resolution']} px, seed {shown['seed']}"
        warnings.extend(f"{folder / 'results.json'}: {which}: {sentence}" for sentence in odd)
        return shown

    rows, count = _sound(folder / "results.json", row, warnings)
    rankings, _ = _sound(folder / "rankings.json", checks.entry, warnings)
    text, history = _config(folder / "config.yaml", warnings), reading.history(folder / "metrics.csv", warnings)
    config = reading.config(text)
    seed = config.get("seed")
    run = Run(folder, rows, history, rankings, text, seed if type(seed) is int else 0, jobs.get(real(folder), ""))
    wanted = states.wanted(config)
    if count is not None and (not count or count < wanted):
        run.state, go_on = (run.state, "") if run.state else states.run(folder, config)
        warnings.append(f"{folder}: {run.state} ({f'{count} of {wanted}' if wanted else 'no'} results){go_on}")
    elif run.state:
        warnings.append(f"{folder}: {run.state}")
    return run


def _sound(file: Path, kept: Callable[[Any], Any], warnings: list[str]) -> tuple[list[Any], int | None]:
    """What `kept` makes of the items of a JSON list, without those that it refuses, and how many there are: none where
    there is no file, None where it cannot be read."""
    if not os.path.lexists(file):
        return [], 0
    sound: list[Any] = []
    try:
        items = reading.items(file)
    except Unreadable as error:
        warnings.append(str(error))
        return [], None
    for number, item in enumerate(items, 1):
        try:
            sound.append(kept(item))
        except ValueError as error:
            warnings.append(f"{file}, item {number} is left out: {error}")
    return sound, len(items)


def _config(file: Path, warnings: list[str]) -> str:
    try:
        return reading.text(file) if os.path.lexists(file) else ""
    except Unreadable as error:
        warnings.append(str(error))
        return ""


def _without_results(root: Path, runs: Iterable[Run]) -> list[Path]:
    """Folders with a config and no results, outside every run: a saved model inside a run is no run of its own."""
    taken = {real(run.folder) for run in runs}
    outermost: list[Path] = []
    for folder in (file.parent for file in reading.find(root, "config.yaml") if not OTHERS & set(file.parts)):
        here = real(folder)
        related = {here, *here.parents} & taken or any(here in other.parents for other in taken)
        if not related and not set(folder.parents) & set(outermost):
            outermost.append(folder)
    return outermost


def _agree(rows: Sequence[Row]) -> None:
    """One wording of `options`, the latest, for rows of the same settings: old rows have none, a YAML may change."""
    latest = {row["settings"]: row["options"] for row in rows if row["options"] is not None}
    for row in rows:
        row["options"] = latest.get(row["settings"], "")


def _drop_repeated(found: Runs) -> None:
    """Keep the last of the rows that share everything but their values; say where folders disagree, and which are
    copies of others."""
    last: dict[tuple[Any, ...], Row] = {}
    for row in found.rows:
        earlier = last.get(_identity(row), row)
        if earlier["folder"] != row["folder"] and earlier["metrics"] != row["metrics"]:
            both = f"{earlier['folder']} and {row['folder']}"
            found.warnings.append(f"{both} differ with the same settings and seed {row['seed']}; the later counts")
        last[_identity(row)] = row
    kept = {id(row) for row in last.values()}
    for run in found.runs:
        repeats = {last[_identity(row)]["folder"] for row in run.rows} - {str(run.folder)}
        before, run.rows = run.rows, [row for row in run.rows if id(row) in kept]
        if before and not run.rows:
            found.warnings.append(f"{run.folder} repeats what is in {', '.join(sorted(repeats))}; that counts once")


def _identity(row: Row) -> tuple[Any, ...]:
    return (*model_of(row), row["benchmark"], row["resolution"], *evaluation(row), row["seed"])


def _versions(rows: Sequence[Row]) -> list[str]:
    """A sentence where rows were judged by several versions of a library."""
    said = []
    for library in LIBRARIES:
        seen = Counter(str(row["versions"][library]) for row in rows if library in (row.get("versions") or {}))
        if len(seen) > 1:
            said.append(f"{library} " + " and ".join(f"{version} in {n}" for version, n in sorted(seen.items())))
    return (
        [f"Rows were judged by several versions, {', '.join(said)} of them: values may differ by that alone"]
        if said
        else []
    )
