"""python -m retrieval.index build|add|remove|search: photos, or descriptors of them -> an index, and what it finds."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from retrieval import counting, endings, stages
from retrieval.embed import reading
from retrieval.embed.describing import NothingReadable
from retrieval.errors import InputError
from retrieval.index import files
from retrieval.index.index import Found, Index
from retrieval.terminal import printable, take_any_text

SOURCE = "a folder that retrieval.embed wrote, a photo, a folder of photos, @FILE (a list), - (a list on stdin)"
MODEL = "an .onnx file, a model's folder or its id on the hub"
NAMED = 20  # photos that cannot be described, on the terminal


def parser() -> argparse.ArgumentParser:
    program = argparse.ArgumentParser("python -m retrieval.index", description="Photos found by a photo.")
    actions = program.add_subparsers(required=True, metavar="build|add|remove|search")
    build = _action(actions, "build", _build, "an index of photos or descriptors")
    build.add_argument("sources", nargs="+", metavar="SOURCE", help=SOURCE)
    build.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    build.add_argument("--model", metavar="MODEL", help=f"that describes photos: {MODEL}")
    build.add_argument("--factory", default="Flat", help="what faiss makes: Flat, SQ8, HNSW32, IVF1024,PQ32, ...")
    build.add_argument("--resolution", type=int, metavar="N", help="longer side in pixels (default: the model's own)")
    add = _action(actions, "add", _add, "more photos or descriptors of the same model; photos that changed are renewed")
    add.add_argument("index", type=Path, metavar="DIR")
    add.add_argument("sources", nargs="+", metavar="SOURCE", help=SOURCE)
    remove = _action(actions, "remove", _remove, "take photos out")
    remove.add_argument("index", type=Path, metavar="DIR")
    remove.add_argument("photos", nargs="*", metavar="PHOTO", help="a photo, a folder (what lay below it), @FILE, -")
    remove.add_argument("--missing", action="store_true", help="the photos whose files are gone, too")
    search = _action(actions, "search", _search, "the photos nearest to each photo")
    search.add_argument("index", type=Path, metavar="DIR")
    search.add_argument("photos", nargs="+", metavar="PHOTO", help="a photo, a folder of photos, @FILE, -")
    search.add_argument("-k", type=int, default=10, metavar="N", help="photos found for each (default: 10)")
    search.add_argument("--exclude-self", action="store_true", help="a photo is not among those found for it")
    search.add_argument("--json", action="store_true", help="print one JSON document")
    search.add_argument("--html", type=Path, metavar="FILE", help="write a page that shows them")
    for action in (add, search):
        action.add_argument("--model", metavar="MODEL", help="where it lies, if no longer where the index was built")
    return program


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    does: Callable[[argparse.Namespace], int],
    words: str,
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=words, description=words)
    action.set_defaults(does=does)
    return action


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 where a query, or every photo, cannot be read; 2 for what cannot be asked."""
    take_any_text()
    asked = parser().parse_args(arguments)
    with endings.without_traceback(lambda: "nothing was written; call the same command again"):
        return _run(asked)


def _run(asked: argparse.Namespace) -> int:
    try:
        return asked.does(asked)
    except BrokenPipeError:
        raise  # nobody reads what is printed: the command itself has done its work
    except (InputError, OSError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1 if isinstance(error, NothingReadable) else 2


def _build(asked: argparse.Namespace) -> int:
    files.refuse_taken(asked.output)
    endings.refuse_unwritable(asked.output, "-o")
    stages.begin(f"index {counting.of_photos(asked.sources)}; write {asked.output}")
    sources = reading.named(asked.sources, sys.stdin.buffer)
    index = Index.build(asked.model, sources, asked.factory, asked.resolution, progress=True)
    index.save(asked.output)
    _report(len(index.images), asked.output, index)
    return 0


def _add(asked: argparse.Namespace) -> int:
    stages.begin(f"add {counting.of_photos(asked.sources)} to {asked.index}")
    index = Index.open(asked.index, asked.model)
    before = index.images, index.contents
    added = index.add(reading.named(asked.sources, sys.stdin.buffer), progress=True)
    if (index.images, index.contents) != before:
        index.save(asked.index)
    _report(added, asked.index, index)
    return 0


def _remove(asked: argparse.Namespace) -> int:
    if not asked.photos and not asked.missing:
        raise InputError("no photos to remove: name photos or folders, @FILE, -, or --missing")
    stages.begin(f"remove photos from {asked.index}")
    index = Index.open(asked.index)
    missing = index.missing() if asked.missing else []
    if removed := index.remove([*reading.named(asked.photos, sys.stdin.buffer), *missing]):
        index.save(asked.index)
    print(printable(f"{removed} photos removed from {asked.index}, {len(index.images)} are left"))
    return 0


def _report(added: int, folder: Path, index: Index) -> None:
    left_out = index.left_out
    _name_unreadable(left_out.unreadable[:NAMED])
    if (more := len(left_out.unreadable) - NAMED) > 0:
        print(f"and {more} more", file=sys.stderr)
    said = (
        f"{added} photos added to {folder}, {index.renewed} renewed, {left_out.already} were there already, "
        f"{len(left_out.unreadable)} could not be described"
    )
    print(printable(said))
    if left_out.unhashed:
        print(
            f"{left_out.unhashed} of these have no hash (an older version described them), so whether they changed is "
            "unknown: remove and add them, or build the index again"
        )


def _name_unreadable(unreadable: Sequence[Mapping[str, str]]) -> None:
    for one in unreadable:
        print(printable(f"not described: {one['path']}: {one['reason']}"), file=sys.stderr)


def _search(asked: argparse.Namespace) -> int:
    said = f"the {asked.k} photos nearest to each of {counting.of_photos(asked.photos)}"
    stages.begin(f"search {asked.index} for {said}", sys.stderr)
    index = Index.open(asked.index, asked.model)
    described = index.describe(reading.named(asked.photos, sys.stdin.buffer), progress=True)
    nearest = index.nearest_others(described, asked.k) if asked.exclude_self else index.nearest(described.rows, asked.k)
    queries = list(zip(described.images, nearest, strict=True))
    _name_unreadable(described.unreadable)
    print(_document(queries, described.unreadable) if asked.json else _lines(queries))
    if asked.html:
        from retrieval.index import page

        page.write(asked.html, index.manifest["name"], queries, described.unreadable)
    return 1 if described.unreadable else 0


def _lines(queries: Sequence[tuple[str, Found]]) -> str:
    lines = ([query, *(f"  {score:.4f}  {path}{_mark(path)}" for score, path in found)] for query, found in queries)
    return "\n".join(printable(line) for of_query in lines for line in of_query)


def _mark(path: str) -> str:
    return "" if os.path.isfile(path) else "  (gone)"


def _document(queries: Sequence[tuple[str, Found]], unreadable: Sequence[Mapping[str, str]]) -> str:
    found = [
        {
            "query": query,
            "found": [{"score": score, "path": path, "exists": os.path.isfile(path)} for score, path in one],
        }
        for query, one in queries
    ]
    return json.dumps({"queries": found, "unreadable": unreadable}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
