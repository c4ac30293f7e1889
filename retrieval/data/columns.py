"""CSV files with a header, read by the names of their columns."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from retrieval.errors import InputError, near

LONGEST = 2**24  # characters of a field: a landmark's list of photos has 200,000


def header(path: str | Path) -> list[str]:
    """Names of the columns."""
    return next(_rows(Path(path)))[1]


def read(path: str | Path, names: Sequence[str]) -> dict[str, list[str]]:
    """These columns, a text per row; refused where one is missing or a row has another number of fields.

    Spaces around a field are no part of it, but of a `path`, as the name of a file may have them: see `files.named`.
    """
    path = Path(path)
    rows = _rows(path)
    _, found = next(rows)
    for name in names:
        if found.count(name) != 1:
            held = f"twice: {', '.join(found)}" if name in found else f"not at all: {near(name, found)}"
            raise InputError(f"{path} must have one column '{name}', it has it {held}")
    columns: dict[str, list[str]] = {name: [] for name in names}
    places = [(columns[name], found.index(name), name == "path") for name in names]
    for line, row in rows:
        if len(row) != len(found):
            raise InputError(f"{path} line {line}: {len(row)} fields where its header has {len(found)}")
        for column, place, kept in places:
            column.append(row[place] if kept else row[place].strip())
    return columns


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields, the header first; blank lines are left out."""
    if not path.is_file():
        raise InputError(f"no CSV file at {path}")
    csv.field_size_limit(LONGEST)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            names = [name.strip() for name in next(rows, [])]
            if not any(names):
                raise InputError(f"{path} must begin with a header, it is empty")
            yield 1, names
            yield from ((rows.line_num, row) for row in rows if any(map(str.strip, row)))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
