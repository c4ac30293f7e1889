"""Benchmarks in the form of Revisited Oxford and Paris: queries with boxes; easy, hard and junk images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from retrieval import metrics
from retrieval.config import InputError
from retrieval.data import landmarks
from retrieval.data.images import Photo, unreadable


class Revisited:
    """`imlist` and `qimlist` name images below `images`; per query `bbx`, `easy`, `hard`, `junk`.

    crop: describe the query's box alone, as the protocol does.
    """

    def __init__(self, images: Path, truth: Mapping[str, Any], crop: bool = True) -> None:
        checked(truth)
        self.gallery = [Photo(str(images / name), upright=False) for name in truth["imlist"]]
        boxes = [tuple(map(float, entry["bbx"])) if crop else None for entry in truth["gnd"]]
        self.queries = [
            Photo(str(images / name), box, upright=False)  # pyright: ignore[reportArgumentType]
            for name, box in zip(truth["qimlist"], boxes, strict=True)
        ]
        unreadable([*self.gallery, *self.queries], "refuse")
        self.truth: Sequence[Mapping[str, Any]] = truth["gnd"]
        self.relevant, self.ignored = metrics.levels(self.truth)["medium"]
        self.crop, self.skipped = crop, 0

    def judge(self, scores: NDArray) -> dict[str, float]:
        """`easy/mAP`, `medium/mP@10`, ... from scores (Q, N)."""
        return metrics.revisited(scores, self.truth)


class Landmarks(Revisited):
    """The test part of the embedded landmarks, drawn into `root` if it is not there yet."""

    def __init__(self, root: str, seed: int = 0, crop: bool = True) -> None:
        where = landmarks.write(Path(root), seed)
        super().__init__(where / "test", json.loads((where / "gnd.json").read_text()), bool(crop))


def checked(truth: Mapping[str, Any]) -> None:
    """Refuse a ground truth whose parts do not fit each other."""
    for key in ("imlist", "qimlist", "gnd"):
        if key not in truth:
            raise InputError(f"a ground truth needs imlist, qimlist and gnd, it has {', '.join(map(str, truth))}")
    if len(truth["qimlist"]) != len(truth["gnd"]):
        raise InputError(f"gnd has {len(truth['gnd'])} entries for {len(truth['qimlist'])} queries in qimlist")
    for query, entry in zip(truth["qimlist"], truth["gnd"], strict=True):
        listed = [int(i) for level in ("easy", "hard", "junk") for i in entry[level]]
        outside = [i for i in listed if not 0 <= i < len(truth["imlist"])]
        if outside or len(set(listed)) < len(listed):
            fault = f"{outside[0]} is outside imlist" if outside else "an image has two labels"
            raise InputError(f"the labels of query {query} must be indices into imlist, each once: {fault}")
