"""A page of queries and the photos found for them, to be looked at."""

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrieval import atomic
from retrieval.index.index import Found
from retrieval.report import page, photos

Queries = Sequence[tuple[str, Found]]


def write(file: Path, name: str, queries: Queries, unreadable: Sequence[Mapping[str, str]] = ()) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = render(name, queries, [f"{one['path']}: {one['reason']}" for one in unreadable])
    atomic.replace(file, lambda part: part.write(text.encode(errors="replace")))  # a file's name is any bytes


def render(name: str, queries: Queries, unreadable: Sequence[str] = ()) -> str:
    """HTML of each query beside what was found, best first; those beyond a few megabytes are left out, and counted.

    name: of the model. queries: path, and scores with paths. unreadable: sentences about queries that could not be.
    """
    root = _common([path for _, found in queries for _, path in found])
    articles = photos.within((_article(query, found, root) for query, found in queries), page.PHOTOS_LIMIT)
    summary = [f"Described by {name}. Scores are cosines, 1 for the same photo.", f"Photos found lie in {root}."]
    if gone := {path for _, found in queries for _, path in found if not os.path.isfile(path)}:
        summary.append(f"Photos found whose files are gone: {len(gone)}.")
    if missing := len(queries) - len(articles):
        summary.append(f"{missing} of {len(queries)} queries left out to keep the page small.")
    sections = [("Queries", "".join(articles)), ("Unreadable queries", page.bullets(unreadable))]
    return page.render("Photos found", summary, sections)


def _article(query: str, found: Found, root: str) -> str:
    photo = photos.photo(query, None, f"query {Path(query).name}")
    items = "".join(_item(place, score, path, root) for place, (score, path) in enumerate(found, 1))
    return (
        f'<article class="found"><div><h3>{html.escape(Path(query).name)}</h3>{photo}<p>{_path(query)}</p></div>'
        f"<ol>{items}</ol></article>"
    )


def _item(place: int, score: float, path: str, root: str) -> str:
    photo = photos.photo(path, None, f"{Path(path).name}, found {place}. with score {score:.3f}")
    return f"<li>{photo}<b>{score:.3f}</b> {_path(os.path.relpath(path, root))}</li>"


def _path(path: str) -> str:
    return html.escape(path).replace("/", "/<wbr>")  # where a line may end, rather than within a name


def _common(paths: Sequence[str]) -> str:
    folders = [os.path.dirname(path) for path in paths]
    return os.path.commonpath(folders) if folders and all(map(os.path.isabs, folders)) else os.curdir
