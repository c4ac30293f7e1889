"""python -m retrieval.embed MODEL IMAGES... -o DIR: photos -> a folder of descriptors."""

import argparse
import sys
from collections.abc import Sequence

from retrieval import counting, endings, stages
from retrieval.embed import reading
from retrieval.embed.describing import BATCH, NothingReadable
from retrieval.embed.filling import fill
from retrieval.embed.folder import UNREADABLE
from retrieval.embed.models import load
from retrieval.errors import InputError
from retrieval.terminal import printable, say, take_any_text

NAMED = 20  # photos that cannot be described, on the terminal; the file names all


def parser() -> argparse.ArgumentParser:
    program = argparse.ArgumentParser("python -m retrieval.embed", description="Photos -> a folder of descriptors.")
    program.add_argument("model", metavar="MODEL", help="an .onnx file, a model's folder or its id on the hub")
    program.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        help="photos, folders (photos at any depth, also in linked ones; what is left out is counted), @FILE (a list, "
        "one path a line), - (such lines on stdin); a photo given twice is described once",
    )
    program.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="goes on if killed, renews changed photos"
    )
    program.add_argument("--resolution", type=int, metavar="N", help="longer side in pixels (default: the model's own)")
    program.add_argument("--scales", type=float, nargs="+", metavar="S", help="of an ONNX model: if outside its graph")
    program.add_argument("--batch-size", type=int, default=BATCH, metavar="N")
    program.add_argument("--workers", type=int, default=reading.WORKERS, metavar="N", help="threads that decode")
    program.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return program


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, also where some photos cannot be described; 1 where none can; 2 for what cannot be asked."""
    take_any_text()
    asked = parser().parse_args(arguments)
    with endings.without_traceback(lambda: "the same command goes on with the photos that are not described yet"):
        return _embed(asked)


def _embed(asked: argparse.Namespace) -> int:
    try:
        endings.refuse_unwritable(asked.output, "-o")
        said = counting.of_photos(asked.images)
        stages.begin(f"embed {said} with {asked.model}; write {asked.output}")
        images = reading.found(reading.named(asked.images, sys.stdin.buffer))
        stages.stage(f"loading {asked.model}")
        model = load(asked.model, asked.scales, asked.device)
        stages.stage(f"describing {len(images)} photos")
        done = fill(asked.output, model, images, asked.resolution, asked.batch_size, asked.workers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, NothingReadable) else 2
    for one in done.unreadable[:NAMED]:
        print(printable(f"not described: {one['path']}: {one['reason']}"), file=sys.stderr)
    if (more := len(done.unreadable) - NAMED) > 0:
        print(printable(f"and {more} more: see {asked.output}/{UNREADABLE}"), file=sys.stderr)
    say(printable(f"{len(done.images)} photos described in {asked.output}, {len(done.unreadable)} could not be"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
