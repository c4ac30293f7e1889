"""Whether a file gives what its model gives, run in a process that knows nothing of this package; without torch here.

B photos of H x W pixels, d the length of a row.
"""

import itertools
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.data.images import nearest, resized
from retrieval.errors import InputError
from retrieval.spec import Spec

T = TypeVar("T")
Pixels = NDArray[np.uint8]  # (B, 3, H, W)
Rows = NDArray[np.float32]  # (B, d)

FRESH = Path(__file__).with_name("fresh.py")
SILENT = ("Traceback", "photos of ")  # lines of a failed process that say nothing of why
# Lowest cosine by dtype of the weights. Two MobileNetV2 with GeM gave on photos 1 - 1e-11, 0.9998, 0.997 and 0.957; of
# mistakes, p = 1 for 3 gave 0.936, another normalisation 0.66, blue for red 0.70, one 8-bit scale for all channels
# 0.39. Noise is harder: 0.983 in bfloat16, and 0.69 to 0.90 in int8, whose ranges are those of photos. What the lower
# ones cannot tell from rounding the float32 file of the same graph has shown.
LEAST = {"float32": 0.99999, "float16": 0.999, "bfloat16": 0.97, "int8": 0.9}
BATCHES = (1, 5)
SHARES = (1.0, 0.75, 0.5)  # of the longest side
ASPECTS = ((3 / 4, 1.0), (1.0, 2 / 3))  # height and width as shares of the longer side
NARROWEST = 65  # pixels: two positions for a network of stride 32
LENGTH = 1e-4  # by how much that of a row may differ from 1


class FailedCheck(InputError):
    """A file does not give what its model gives: on what photos, what it gave and what was expected."""


@dataclass(frozen=True)
class Checked:
    """cosine: the lowest of all rows to the model's. shapes: the (B, H, W) that it was run on."""

    cosine: float
    shapes: tuple[tuple[int, int, int], ...]


def checked_into(final: Path, write: Callable[[Path], object], check: Callable[[Path], T]) -> T:
    """What `check` says of a file that `write` makes beside `final`, under another name; only then it gets that one.

    Where either raises, nothing is left of it; an older file of that name, which passed its own check, stays.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    unchecked = final.with_name(f".{final.stem}.{uuid.uuid4().hex[:8]}{final.suffix}")
    try:
        write(unchecked)
        found = check(unchecked)
        unchecked.replace(final)
    finally:
        unchecked.unlink(missing_ok=True)
    return found


def check(
    path: Path,
    spec: Spec,
    reference: Callable[[Pixels], NDArray[Any]],
    photos: Sequence[Pixels] | None = None,
    seconds: float = 3600,
) -> Checked:
    """Run a .onnx (by ONNX Runtime, without torch) or a .pt2 (by torch.export.load) in a fresh process and compare.

    reference: the model, uint8 photos (B, 3, H, W) -> rows (B, spec.graph_dim). photos: the noise of `inputs` if None,
    which int8 is not made for.
    seconds: how long the process may take. Raises FailedCheck.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise InputError(f"what is checked is a .onnx or a .pt2, got {path}")
    if spec.dtype not in LEAST:
        raise InputError(f"dtype must be {', '.join(LEAST)}, got {spec.dtype!r}")
    if spec.dtype == "int8" and photos is None:
        raise InputError("int8 is checked on photos, as its ranges are those of photos: give inputs(spec, photos)")
    batches = inputs(spec) if photos is None else photos
    told, made = run(path, spec, batches, seconds)
    if told != spec.json():
        raise FailedCheck(f"{path.name} says of itself {told or 'nothing'!r}, expected {spec.json()!r}")
    cosines = []
    for pixels, rows in zip(batches, made, strict=True):
        fault, cosine = compared(rows, reference(pixels), spec)
        if fault:
            raise FailedCheck(f"{path.name} on photos of {' x '.join(map(str, pixels.shape))}: {fault}")
        cosines.append(cosine)
    return Checked(min(cosines), tuple((len(p), *p.shape[2:]) for p in batches))


def run(path: Path, spec: Spec, photos: Sequence[Pixels], seconds: float) -> tuple[str, list[Rows]]:
    """What the file says of itself and its rows for each batch, from a fresh process; FailedCheck where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "photos.npz"), Path(folder, "rows.npz")
        np.savez(given, *(taken(pixels, spec) for pixels in photos))
        words = [sys.executable, "-I", FRESH, path, given, made, spec.input, spec.output]
        try:
            subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise FailedCheck(f"{path.name} ran for more than {seconds:g} seconds in a process of its own") from error
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines()
            on = next((f" on {line}" for line in reversed(lines) if line.startswith("photos of ")), "")
            said = "; ".join([line for line in lines if line[:1].strip() and not line.startswith(SILENT)][-6:])
            raise FailedCheck(f"{path.name} does not run{on} in a process of its own: {said}") from error
        with np.load(made) as arrays:
            return str(arrays["told"]), [arrays[f"arr_{i}"] for i in range(len(photos))]


def compared(rows: Rows, expected: NDArray[Any], spec: Spec) -> tuple[str | None, float]:
    """What is wrong with the rows, None if nothing, and their lowest cosine to those expected."""
    if rows.shape != expected.shape or rows.shape[1:] != (spec.graph_dim,) or rows.dtype != np.float32:
        wanted = f"float32 of {len(expected)} x {spec.graph_dim}"
        return f"its rows are {rows.dtype} of {' x '.join(map(str, rows.shape))}, expected {wanted}", 0.0
    if not np.isfinite(rows).all():
        return "its rows hold NaN or infinity", 0.0
    lengths = np.linalg.norm(rows, axis=1)
    if (off := np.abs(lengths - 1).max()) > LENGTH:
        return f"the length of a row differs from 1 by {off:.2g}, accepted is {LENGTH}", 0.0
    cosine = cosines(rows, expected).min().item()
    least = LEAST[spec.dtype]
    if not cosine >= least:
        return f"a row has cosine {cosine:.6f} to the model's, accepted in {spec.dtype} is {least} or more", cosine
    return None, cosine


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """(B,) of rows (B, d)."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
    return (a * b).sum(1)


def taken(pixels: Pixels, spec: Spec) -> NDArray[Any]:
    """Photos (B, 3, H, W) as the graph takes them: uint8, or float32 (x / 255 - mean) / std."""
    if spec.normalised:
        return pixels
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (spec.mean, spec.std))
    return (pixels.astype(np.float32) / 255 - mean) / std


def inputs(spec: Spec, photos: Sequence[Pixels] = ()) -> list[Pixels]:
    """Batches of three sizes and two aspects, alone and five at once; of the only size, the only number, where fixed.

    photos: (3, h, w) each, squeezed to those sizes, over and over in their order; noise where there are none.
    """
    sizes = [spec.size] if spec.size else sizes_of(spec)
    batches = BATCHES if spec.batch is None else (spec.batch,)
    rng, real = np.random.default_rng(0), itertools.cycle(photos)
    return [
        np.stack([squeezed(next(real), *size) if photos else noise(rng, *size) for _ in range(batch)])
        for size in sizes
        for batch in batches
    ]


def squeezed(photo: Pixels, height: int, width: int) -> Pixels:
    """(3, h, w) -> (3, height, width)."""
    return np.asarray(resized(Image.fromarray(photo.transpose(1, 2, 0)), (width, height))).transpose(2, 0, 1)


def sizes_of(spec: Spec) -> list[tuple[int, int]]:
    """Heights and widths: odd where any will do; the longest side at the resolution, if no map becomes too small."""
    narrowest = max(NARROWEST, 2 * spec.multiple) / (min(spec.scales) if spec.scaled else 1)
    longest = max(spec.resolution, narrowest / min(SHARES) / min(min(aspect) for aspect in ASPECTS))
    return [
        (side(high * share * longest, spec.multiple), side(wide * share * longest, spec.multiple))
        for share in SHARES
        for high, wide in ASPECTS
    ]


def side(length: float, multiple: int) -> int:
    """Pixels near a length: an odd number, or a multiple."""
    return nearest(round(length), multiple) if multiple > 1 else (round(length) - 1) // 2 * 2 + 1


def noise(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """(3, H, W), whose amplitude falls as its frequency rises, as that of photos does (Field, 1987)."""
    whole = np.zeros((height, width, 3), dtype=np.float32)
    for cells in (2, 4, 8, 16, 32, 64):
        random = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        whole += np.asarray(random.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / cells
    low, high = whole.min(), whole.max()
    return (255 * (whole - low) / (high - low)).astype(np.uint8).transpose(2, 0, 1)
