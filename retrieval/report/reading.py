"""The files of a run, read as a stranger's: whatever stands in them, it is read or refused with a reason."""

import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

History = Mapping[str, Mapping[int, float]]  # column of metrics.csv -> step -> value

LIMIT = 100_000_000  # bytes; a row of results.json has some 3,000
DEEP = 20  # levels of lists and objects; a map of where a pooling looked is 8 deep
# Line breaks and what turns the direction of text would tear a table apart, or make a name read as another.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Unreadable(ValueError):
    """A file that cannot be used, and why."""


def find(folder: Path, name: str) -> list[Path]:
    """Whatever has this name below a folder, links not followed."""
    return sorted(Path(top, name) for top, folders, files in os.walk(folder) if name in (*folders, *files))


def text(file: Path) -> str:
    """Its text; Unreadable where it is no file, has more than LIMIT bytes, or cannot be opened or decoded."""
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(f"{file} is left out: it is no file")
        if found.st_size > LIMIT:
            raise Unreadable(f"{file} is left out: it has {found.st_size:,} bytes, {LIMIT:,} are the most that is read")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{file} is left out: it is no text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise Unreadable(f"{file} is left out: {error.strerror}") from error


def content(file: Path) -> Any:
    """What a JSON file holds; raises as `text` does."""
    written = text(file)
    if not written.strip():
        raise Unreadable(f"{file} is left out: it is empty")
    try:
        return json.loads(written)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{file} is not JSON, and left out: {error}") from error


def items(file: Path) -> list[Any]:
    """The items of a JSON list; raises as `text` does."""
    if not isinstance(found := content(file), list):
        raise Unreadable(f"{file} is left out: it must hold a list, got {type(found).__name__}")
    return found


def config(written: str) -> dict[str, Any]:
    """The keys of a config.yaml; none where it is no mapping."""
    try:
        found = yaml.safe_load(written)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def cleaned(value: Any, deep: int = DEEP) -> Any:
    """The value with a space for each control character of its texts; ValueError where it is nested too deeply."""
    if deep < 0:
        raise ValueError(f"it is nested more than {DEEP} deep")
    if isinstance(value, str):
        return CONTROL.sub(" ", value).encode("utf-8", "replace").decode()  # JSON may hold half a character
    if isinstance(value, list):
        return [cleaned(item, deep - 1) for item in value]
    if isinstance(value, dict):
        return {cleaned(key): cleaned(item, deep - 1) for key, item in value.items()}
    return value


def history(file: Path, warnings: list[str]) -> History:
    """The curves of a metrics.csv, steps ascending; none where there is no such file. A line that names columns
    anew counts from there on.

    A step that was trained twice, as a run does that was killed and went on, has its later value.
    """
    found: dict[str, dict[int, float]] = {}
    wrong: list[str] = []
    try:
        for number, line in _lines(text(file) if os.path.lexists(file) else ""):
            try:
                step = int(float(line["step"]))
                for name in line.keys() - {"step", "epoch"}:
                    if line[name] and math.isfinite(value := float(line[name])):
                        found.setdefault(cleaned(name), {})[step] = value
            except (LookupError, ValueError, OverflowError) as error:
                wrong.append(f"line {number} ({error!r})")
    except Unreadable as error:
        warnings.append(str(error))
    except csv.Error as error:
        wrong.append(str(error))
    if wrong:
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        warnings.append(f"{file}: left out of the curves: {wrong[0]}{others}")
    return {name: dict(sorted(of.items())) for name, of in found.items()}


def _lines(written: str) -> Iterator[tuple[int, dict[str, str]]]:
    header: list[str] = []
    for number, line in enumerate(csv.reader(io.StringIO(written)), 1):
        if not header or "step" in line:
            header = line
        elif line:
            yield number, dict(zip(header, line, strict=False))
