"""Which photos are meant, how large each is described, and their pixels: decoded in threads, ahead of the network."""

import codecs
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval import stages
from retrieval.data import contents, files, images
from retrieval.data.contents import Content
from retrieval.data.images import Photo, Size
from retrieval.errors import InputError

Faults = dict[int, str]  # why a photo, by its index, cannot be described
WORKERS = min(8, os.cpu_count() or 1)  # threads that decode


class Read(NamedTuple):
    """A photo: its pixels (H, W, 3), or why it has none, and what was read of its file, None where nothing was."""

    pixels: NDArray[np.uint8] | None
    fault: str
    content: Content | None


class Decoded(NamedTuple):
    """Of a batch: indices of photos, their pixels (H, W, 3), the faults of the others, and the contents read."""

    indices: list[int]
    pixels: list[NDArray[np.uint8]]
    faults: Faults
    contents: dict[int, Content]


def named(arguments: Iterable[str], stdin: BinaryIO) -> list[str]:
    """Paths of a command line: `@FILE` stands for the lines of a file and `-` for those of stdin, one path a line as
    seen from the working folder; empty lines are none. A file whose name begins so is written ./@FILE.

    A byte-order mark and spaces around a path are no part of it, unless a file has that very name.
    """
    paths: list[str] = []
    for argument in arguments:
        if argument == "-":
            paths += lines(stdin.read())
        elif argument.startswith("@"):
            try:
                paths += lines(Path(argument[1:]).read_bytes())
            except OSError as error:
                raise InputError(f"no list of photos can be read at {argument[1:]}: {error.strerror}") from error
        else:
            paths.append(argument)
    return paths


def lines(text: bytes) -> list[str]:
    found = (line.rstrip(b"\r") for line in text.removeprefix(codecs.BOM_UTF8).split(b"\n") if line.strip())
    return [os.fsdecode(line if os.path.lexists(line) else line.strip()) for line in found]


def found(paths: Iterable[str | Path]) -> list[str]:
    """Absolute paths of photos, in the order given, each once, at its first place; a folder stands for the photos at
    any depth in it, see `retrieval.data.files`. Any other path is that of a photo, even where no file is."""
    given: dict[str, None] = {}
    for path in paths:
        absolute = os.path.abspath(path)
        for photo in files.below(absolute) if os.path.isdir(absolute) else [absolute]:
            given.setdefault(photo)
    if not given:
        raise InputError(f"no photos to describe: accepted are files and folders of {', '.join(images.SUFFIXES)}")
    return list(given)


def sizes_of(
    paths: Sequence[str], resolution: int, multiple: int, size: tuple[int, int] | None, progress: bool = False
) -> tuple[list[Size | None], Faults]:
    """Width and height at which each photo is described, None where its header cannot be read, and why.

    size: (H, W) that all are squeezed to; the headers are not read then.
    """
    if size is not None:
        return [(size[1], size[0])] * len(paths), {}

    def size_of(path: str) -> Size | str:
        try:
            return images.target_size(Photo(path), resolution, multiple)
        except Exception as error:  # a decoder of a broken file raises whatever comes
            return why(error)

    with ThreadPoolExecutor() as pool:
        about = {"desc": "headers", "total": len(paths), "leave": False, "disable": hidden(progress)}
        known = list(stages.bar(iterable=pool.map(size_of, paths), **about))
    faults = {i: one for i, one in enumerate(known) if isinstance(one, str)}
    return [None if isinstance(one, str) else one for one in known], faults


def decoded(
    paths: Sequence[str],
    sizes: Mapping[int, Size | None] | Sequence[Size | None],
    batches: Iterable[list[int]],
    workers: int,
) -> Iterator[Decoded]:
    """The photos of each batch, decoded by threads while the batch before it is worked on, and no further ahead."""
    waiting: deque[list[tuple[int, Future[Read]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in batches:
                waiting.append([(i, pool.submit(read, paths[i], sizes[i])) for i in batch])
                while sum(map(len, waiting)) - len(waiting[0]) >= max(len(batch), 2 * workers):
                    yield sorted_out(waiting.popleft())
            while waiting:
                yield sorted_out(waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def sorted_out(batch: Iterable[tuple[int, Future[Read]]]) -> Decoded:
    done = Decoded([], [], {}, {})
    for index, future in batch:
        photo = future.result()
        if photo.pixels is None:
            done.faults[index] = photo.fault
        else:
            done.indices.append(index)
            done.pixels.append(photo.pixels)
        if photo.content:
            done.contents[index] = photo.content
    return done


def read(path: str, size: Size | None) -> Read:
    """A photo's file read once: the bytes that are hashed are those that are decoded."""
    content = None
    try:
        data, content = contents.read(path)
        return Read(pixels(data, path, size), "", content)
    except Exception as error:  # as in sizes_of
        return Read(None, why(error), content)


def pixels(data: bytes, path: str, size: Size | None) -> NDArray[np.uint8]:
    """(H, W, 3) of a photo, turned upright and resized."""
    assert size is not None
    return np.asarray(images.resized(images.decode(Photo(path), target=size, data=data), size))


def why(error: BaseException) -> str:
    return str(error.__cause__ or error) or type(error).__name__


def hidden(progress: bool) -> bool | None:
    """tqdm's `disable`: None shows it on a terminal alone."""
    return None if progress else True
