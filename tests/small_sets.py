"""What the tests of benchmarks share: tiny photos on disk, and judging by plain sorting."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, permutations, product
from pathlib import Path

import numpy as np
from PIL import Image

MEASURES = ("mAP", "mP@1", "mP@5", "mP@10", "recall@1", "recall@5", "recall@10", "mAP@R")  # of a set without levels


def jpegs(folder: Path, names: Iterable[str], grey: Sequence[int] = range(256)) -> None:
    """A grey JPEG for each name, 24 x 16; the greys take turns."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16), (grey[i % len(grey)],) * 3).save(path)


def table(path: Path, *rows: Sequence[object]) -> Path:
    """A CSV file of these rows, the header first."""
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def ranking(scores: np.ndarray, ignored: Iterable[int] = ()) -> list[int]:
    """Images, best first, of equal ones the lower index first, without those ignored."""
    left_out = set(map(int, ignored))
    return [i for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)) if i not in left_out]


def rankings(scores: np.ndarray, ignored: Iterable[int] = ()) -> Iterator[list[int]]:
    """`ranking` in every order of equal scores."""
    groups = [list(group) for _, group in groupby(ranking(scores, ignored), key=lambda i: scores[i])]
    return (list(chain.from_iterable(order)) for order in product(*map(permutations, groups)))


def expected_trapezoid(scores: np.ndarray, relevant: Iterable[int], ignored: Iterable[int] = ()) -> float:
    """`trapezoid`, its mean over every order of equal scores."""
    return float(np.mean([trapezoid(found, relevant) for found in rankings(scores, ignored)]))


def trapezoid(found: Sequence[int], relevant: Iterable[int]) -> float:
    """AP as compute_ap goes through a ranked list: recall times the mean of the precision before and after."""
    wanted, hits, old_recall, old_precision, ap = set(map(int, relevant)), 0, 0.0, 1.0, 0.0
    for place, image in enumerate(found, 1):
        hits += image in wanted
        recall, precision = hits / len(wanted), hits / place
        ap += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return ap


def perfect(queries: int, images: int, relevant: Sequence[Iterable[int]]) -> np.ndarray:
    """Scores that put the relevant images first."""
    scores = np.zeros((queries, images))
    for row, found in zip(scores, relevant, strict=True):
        row[list(found)] = 1
    return scores
