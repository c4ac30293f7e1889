"""Google Landmarks v2 (Weyand et al., CVPR 2020): retrieval from the index, recognition from the training photos.

    <root>/gldv2/index.csv, retrieval_solution_v2.1.csv, recognition_solution_v2.1.csv, train.csv, train_clean.csv
    <root>/gldv2/{index,test,train}/a/b/c/abcdef.jpg

Queries are in the order of their ids, by which the authors' evaluation orders predictions of equal confidence.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieval import metrics
from retrieval.benchmarks.ranked import NONE, Ranked
from retrieval.data import columns, files
from retrieval.data.download import advice, prepare
from retrieval.data.google import WHERE, photos, training
from retrieval.data.snapshot import Snapshot
from retrieval.errors import InputError
from retrieval.metrics import Array, Indices

USAGES = ("Public", "Private")


class Retrieval(Ranked):
    """mAP@100 of the public and the private test photos over the index; queries marked Ignored are not described."""

    def __init__(self, root: str, download: bool = False, upright: bool = False) -> None:
        folder = Path(root) / "gldv2"
        if download:
            prepare("gldv2", Path(root))
        tables = [folder / "index.csv", folder / "retrieval_solution_v2.1.csv"]
        files.expected(
            [*tables, folder / "index", folder / "test"],
            WHERE.format(folder=folder, advice=advice("benchmark", "them (95 GB)", root)),
        )
        names = columns.read(tables[0], ("id",))["id"]
        place = {name: i for i, name in enumerate(names)}
        if len(place) < len(names):
            raise InputError(
                f"an index photo may stand in {tables[0]} once, {len(names) - len(place)} stand there again"
            )
        asked = solution(tables[1], "images")
        for name, (_, images) in asked.items():
            if not images or (absent := [image for image in images if image not in place]):
                fault = f"{absent[0]}, which {tables[0].name} has not" if images else "none"
                raise InputError(f"{tables[1]} must list index photos for query {name}, it lists {fault}")
        relevant = [np.array([place[image] for image in images], dtype=np.int64) for _, images in asked.values()]
        queries, gallery = photos(folder / "test", asked, upright), photos(folder / "index", names, upright)
        files.present([*gallery, *queries])
        usage = [usage for usage, _ in asked.values()]
        super().__init__(
            queries=queries,
            gallery=gallery,
            landmarks=[min(images) for _, images in asked.values()],  # queries of one landmark share their lists
            levels={u.lower(): ([r if u == v else NONE for r, v in zip(relevant, usage, strict=True)],
                                [NONE] * len(usage)) for u in USAGES},
            measures=metrics.google_landmarks(),
            convention={"upright": upright},
            shown="private",
        )  # fmt: skip
        self.relevant = relevant  # of either usage, for pictures


class Recognition:
    """Micro-AP of the public and the private test photos: which landmark, if any, and how sure?

    The landmark of a query is the one with the highest sum of scores among its `neighbours` nearest training photos
    (1: the nearest one's), and that sum is how sure it is. Where training photos of equal scores are more than the
    neighbours that are left, 1 neighbour is each of them as probably, and of several neighbours they share the places;
    landmarks of equal sums are equally probable. Predictions that are equally sure stand by their photos' ids, as the
    authors' evaluation orders them. train: the table of training photos, train.csv or
    train_clean.csv. `landmarks` holds a query's first landmark, or its own id where it shows none.
    """

    def __init__(
        self,
        root: str,
        neighbours: int = 1,
        train: str = "train_clean.csv",
        download: bool = False,
        upright: bool = False,
    ) -> None:
        folder, self.neighbours = Path(root) / "gldv2", int(neighbours)
        if self.neighbours < 1:
            raise InputError(f"neighbours must be at least 1, got {neighbours}")
        for part in ("gldv2", "gldv2_train") if download else ():
            prepare(part, Path(root))
        tables = [folder / train, folder / "recognition_solution_v2.1.csv"]
        files.expected(
            [*tables, folder / "train", folder / "test"],
            WHERE.format(folder=folder, advice=advice("benchmark", "them (600 GB)", root)),
        )
        names, labels = training(tables[0])
        asked = solution(tables[1], "landmarks")
        self.gallery, self.queries = (
            photos(folder / part, ids, upright) for part, ids in (("train", names), ("test", asked))
        )
        files.present([*self.gallery, *self.queries])
        self.labels, numbers = np.unique(labels, return_inverse=True)
        self.numbers: Indices = numbers.astype(np.int64)  # a landmark's place in `labels`, per training photo
        self.usage = [usage for usage, _ in asked.values()]
        self.shows = [frozenset(shown) for _, shown in asked.values()]
        self.landmarks = [shown[0] if shown else name for name, (_, shown) in asked.items()]
        order = np.argsort(self.numbers, kind="stable")
        groups = dict(
            zip(self.labels.tolist(), np.split(order, np.cumsum(np.bincount(self.numbers))[:-1]), strict=True)
        )
        found = [[groups[one] for one in shown if one in groups] for _, shown in asked.values()]
        self.relevant: list[Indices] = [np.concatenate(rows) if rows else NONE for rows in found]
        self.ignored, self.skipped = [NONE] * len(asked), 0
        self.convention = {"neighbours": self.neighbours, "train": train, "upright": upright}
        self.may_skip, self.counts = False, {}

    def settled(self, files: Snapshot) -> Self:
        """The same benchmark: no photo of it may be left out."""
        return self

    def per_query(self, blocks: Iterable[ArrayLike]) -> dict[str, Array]:
        """Per usage `public/confidence` (-inf: nothing was retrieved), `public/correct` (how probably, where several
        landmarks are the nearest), `public/shown` (1 where the query shows a landmark) and `public/ties` (1 where
        several landmarks are the nearest), (Q,) each; NaN where the query is of the other usage."""
        guesses = [guess for block in map(np.asarray, blocks) for guess in self._guesses(block)]
        if len(guesses) != len(self.queries):
            raise ValueError(f"scores must have a row for each of {len(self.queries)} queries, got {len(guesses)}")
        columns = {
            "confidence": [sure for _, sure in guesses],
            "correct": [
                min(1.0, sum(share for number, share in likely.items() if self.labels[number] in shown))
                for (likely, _), shown in zip(guesses, self.shows, strict=True)
            ],
            "shown": list(map(bool, self.shows)),
            metrics.TIES: [len(likely) > 1 for likely, _ in guesses],
        }
        mine = {usage: np.array(self.usage) == usage for usage in USAGES}
        return {
            f"{usage.lower()}/{name}": np.where(mine[usage], np.asarray(values, dtype=np.float64), np.nan)
            for usage in USAGES
            for name, values in columns.items()
        }

    def values(self, per_query: Mapping[str, Array]) -> dict[str, float]:
        """`public/micro-AP` and `private/micro-AP`; NaN where no query of that usage shows a landmark."""
        return {f"{u.lower()}/micro-AP": _micro(*(per_query[f"{u.lower()}/{n}"] for n in COLUMNS)) for u in USAGES}

    def judge(self, scores: NDArray) -> dict[str, float]:
        """The values for scores (Q, N)."""
        return self.values(self.per_query([scores]))

    def _guesses(self, block: NDArray) -> list[tuple[dict[int, float], float]]:
        """How probable each landmark is of those that are nearest, and the confidence, of each row of scores (c, N)."""
        if block.ndim != 2 or block.shape[1] != len(self.gallery) or np.isnan(block).any():
            raise ValueError(f"scores must be numbers (Q, {len(self.gallery)}), got {block.shape}, or NaN among them")
        return [self._vote(row, *nearest(row, self.neighbours)) for row in block]

    def _vote(self, row: NDArray, found: Indices, shares: Array) -> tuple[dict[int, float], float]:
        if not len(found):
            return {}, -np.inf
        numbers, member = np.unique(self.numbers[found], return_inverse=True)
        if self.neighbours == 1:
            return dict(zip(numbers.tolist(), np.bincount(member) / len(member), strict=True)), float(row[found[0]])
        sums = np.bincount(member, weights=row[found] * shares)
        best = numbers[sums == sums.max()].tolist()
        return dict.fromkeys(best, 1 / len(best)), float(sums.max())


COLUMNS = ("confidence", "correct", "shown")


def _micro(confidence: Array, correct: Array, shown: Array) -> float:
    made, queries = confidence > -np.inf, int(np.nansum(shown))
    return metrics.micro_average_precision(confidence[made], correct[made], queries) if queries else float("nan")


def nearest(scores: NDArray, k: int) -> tuple[Indices, Array]:
    """The images with the k highest scores (N,), and the share of each: images with the k-th highest score share the
    places that are left, all others have one. None that was not retrieved."""
    bound = (scores.max() if k == 1 else np.partition(scores, -k)[-k]) if k < len(scores) else -np.inf
    above, level = np.flatnonzero(scores > bound), np.flatnonzero(scores == bound)
    if bound == -np.inf:
        return above, np.ones(len(above))
    places = (k - len(above)) / len(level)
    return np.concatenate([above, level]), np.concatenate([np.ones(len(above)), np.full(len(level), places)])


def solution(file: Path, listed: str) -> dict[str, tuple[str, list[str]]]:
    """Usage and what is listed (each once) of every query that is not Ignored, in the order of their ids."""
    table = columns.read(file, ("id", listed, "Usage"))
    if odd := set(table["Usage"]) - {*USAGES, "Ignored"}:
        raise InputError(f"the column 'Usage' of {file} must say Public, Private or Ignored, got {min(odd)!r}")
    if len(set(table["id"])) < len(table["id"]):
        raise InputError(
            f"a query may stand in {file} once, {len(table['id']) - len(set(table['id']))} stand there again"
        )
    rows = sorted(zip(table["id"], table["Usage"], table[listed], strict=True))
    split = {name: (usage, list(dict.fromkeys(words.split()))) for name, usage, words in rows if usage != "Ignored"}
    return {name: (usage, [] if words == ["None"] else words) for name, (usage, words) in split.items()}
