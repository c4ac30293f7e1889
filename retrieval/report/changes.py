"""The queries that gained and lost most between two lines of a table, with the photos that each of them found."""

import html
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.report import photos
from retrieval.report.differences import chosen
from retrieval.report.exports import change
from retrieval.report.kept import kept
from retrieval.report.lines import Line, Row, by_benchmark, judged_on, line_of
from retrieval.report.page import bullets
from retrieval.report.spread import mean_and_sd
from retrieval.report.table import scroll
from retrieval.report.tables import (
    Column,
    columns_of,
    gather,
    levels,
    line_labels,
    main_metric,
    named,
    values,
)
from retrieval.report.uncertainty import Missing

HEADING = "Queries that changed most"
EACH = 4  # that gained, and that lost
LIMIT = 4_000_000  # characters
MARKED = ("right", "wrong", "junk")  # by their numbers on disk, see `retrieval.tops`
TOPS = ("queries", "query_paths", "query_boxes", "top", "top_photos", "top_scores", "top_marks")


class Pair(NamedTuple):
    """One benchmark, level and resolution on which two lines were judged, and a row of each, of one seed."""

    level: str
    column: Column
    rows: tuple[Row, Row]
    labels: tuple[str, str]

    @property
    def metric(self) -> str:
        """The measure of one query."""
        return self.column.metric.removeprefix("m")

    @property
    def where(self) -> str:
        level = f", {self.level.capitalize()}" if self.level else ""
        return f"{self.column.benchmark}{level} at {self.column.resolution} px, seed {self.rows[0]['seed']}"


def changes(rows: Sequence[Row], pair: Sequence[str] = ()) -> tuple[str, str]:
    """Heading and HTML. pair: labels of two lines, or parts of them; without it the best two, see `best_two`.

    One seed, the lowest that both have, as the photos found are those of one model; the largest resolution of each
    benchmark. What cannot be shown is said in a sentence; the HTML is "" where there are no two lines.
    """
    lines, rows = [chosen(rows, text) for text in pair], [row for row in rows if row["metrics"]]
    if not pair and rows:
        lines = best_two(rows)
    if len(set(lines)) < 2:
        return HEADING, ""
    said: list[str] = []
    articles = list(_articles(rows, lines, said))
    shown = photos.within(articles, LIMIT)
    if len(shown) < len(articles):
        said.append(f"{len(articles) - len(shown)} of {len(articles)} queries are left out to keep the page small.")
    labels = [html.escape(line_labels(rows)[line]) for line in lines]
    which = "" if pair else " (the best, and the next of another pooling; --compare A B chooses others)"
    words = (
        f"<p>From <b>{labels[1]}</b> to <b>{labels[0]}</b>{which}: at most {EACH} queries that gained most and {EACH} "
        "that lost most on each benchmark, of one seed. Single queries say where two models differ, not which one is "
        "better.</p>"
    )
    return HEADING, words + (photos.LEGEND if shown else "") + "".join(shown) + bullets(said)


def best_two(rows: Sequence[Row]) -> list[Line]:
    """The line with the highest mean on the benchmark that most lines were judged on, and the next of those judged on
    the same photos, of another pooling where there is one; trained ones alone where there are two."""
    groups = by_benchmark(rows).values()
    mine = max(groups, key=lambda of_one: len({line_of(row) for row in of_one}))
    level, metric = levels(mine)[0], main_metric(mine)
    grid = gather(mine, level, {metric})
    column = max(columns_of(grid), key=lambda one: (sum(one in of for of in grid.values()), one.resolution))
    means = {line: mean_and_sd(values(of[column], level, metric))[0] for line, of in grid.items() if column in of}
    known = {line: mean for line, mean in means.items() if not math.isnan(mean)}
    trained = {line: mean for line, mean in known.items() if not line.model.untrained}
    among = trained if len(trained) > 1 else known
    on = {line: judged_on(grid[line][column][0]) for line in among}
    ranked = sorted(among, key=lambda line: -among[line])
    alike = [line for line in ranked[1:] if on[line] == on[ranked[0]]]
    return [*ranked[:1], *sorted(alike, key=lambda line: line.model.pooling == ranked[0].model.pooling)[:1]]


def pairs(rows: Sequence[Row], lines: Sequence[Line], said: list[str]) -> Iterator[Pair]:
    """For each benchmark its first level and largest resolution that both lines have; why not, goes to `said`."""
    first, second = lines
    labels = line_labels(rows)
    for benchmark, mine in by_benchmark(row for row in rows if line_of(row) in lines).items():
        level, metric = levels(mine)[0], main_metric(mine)
        grid = gather(mine, level, {metric})
        ours, theirs = ({(c, row["seed"]): row for c, of in grid.get(line, {}).items() for row in of} for line in lines)
        if not (common := sorted(ours.keys() & theirs.keys(), key=lambda key: (-key[0].resolution, key[1]))):
            said.append(f"{benchmark}: {labels[first]} and {labels[second]} share no resolution and seed.")
            continue
        yield Pair(level, common[0][0], (ours[common[0]], theirs[common[0]]), (labels[first], labels[second]))


def _articles(rows: Sequence[Row], lines: Sequence[Line], said: list[str]) -> Iterator[str]:
    for pair in pairs(rows, lines, said):
        try:
            first, second = _aligned([_sound(row, named(pair.level, pair.column.metric)) for row in pair.rows])
        except Missing as error:
            said.append(f"{pair.where}: {error}.")
            continue
        ours, theirs = (of[named(pair.level, pair.column.metric)] for of in (first, second))
        if not (found := most_changed(ours - theirs)):
            said.append(f"{pair.where}: every query has the same {pair.metric} in both.")
        for q in found:
            yield _article(pair, (first, second), (float(ours[q]), float(theirs[q])), q)


def _sound(row: Row, metric: str) -> dict[str, NDArray]:
    """What a row kept of its queries; Missing where its arrays do not fit each other, see `retrieval.tops.arrays`."""
    found = kept(row, (*TOPS, metric))
    if not _fit(found, metric):
        raise Missing(f"the arrays that {row['pooling']} kept of its queries do not fit together: judge it again")
    return found


def _fit(found: dict[str, NDArray], metric: str) -> bool:
    count, top, marks = found["queries"].shape, found["top"], found["top_marks"]
    wanted = {**dict.fromkeys(("query_paths", metric), count), "query_boxes": (*count, 4)}
    wanted |= dict.fromkeys(("top", "top_marks", "top_scores"), (*count, *top.shape[1:2]))
    kinds = {"top": "i", "top_marks": "i", **dict.fromkeys((metric, "query_boxes", "top_scores"), "fiu")}
    return (
        all(found[name].shape == shape for name, shape in wanted.items())
        and all(found[name].dtype.kind in kind for name, kind in kinds.items())
        and bool((top < len(found["top_photos"])).all() and (marks < len(MARKED)).all())
    )


def _aligned(each: Sequence[dict[str, NDArray]]) -> list[dict[str, NDArray]]:
    """What was kept of the same queries, in the order of the first."""
    first, second = each
    place = {query: i for i, query in enumerate(second["queries"])}
    if np.array_equal(first["queries"], second["queries"]):
        return [first, second]
    if set(place) != set(first["queries"]) or len(place) < len(first["queries"]):
        raise Missing("the two were not judged on the same queries")
    order = [place[query] for query in first["queries"]]
    return [first, {name: of if name == "top_photos" else of[order] for name, of in second.items()}]


def most_changed(differences: NDArray) -> list[int]:
    """Places of the EACH largest differences (Q,) above 0, largest first, and of the EACH smallest below 0, smallest
    first; NaN counts for nothing."""
    order = np.argsort(-differences, kind="stable")
    gained = [int(q) for q in order if differences[q] > 0][:EACH]
    return gained + [int(q) for q in order[::-1] if differences[q] < 0][:EACH]


def _article(pair: Pair, each: Sequence[dict[str, NDArray]], scores: tuple[float, float], q: int) -> str:
    name, difference = str(each[0]["queries"][q]), scores[0] - scores[1]
    path, box = str(each[0]["query_paths"][q]), each[0]["query_boxes"][q]
    strips = "".join(
        photos.strip(f"<b>{html.escape(label)}</b> {pair.metric} {100 * score:.1f}", _top(of, q))
        for label, score, of in zip(pair.labels, scores, each, strict=True)
    )
    asked = photos.photo(path, None if np.isnan(box).any() else tuple(box.tolist()), f"query {Path(path).name}")
    return (
        f"<article><h3>{html.escape(name)}</h3><p>{change(-difference).capitalize()} points of {pair.metric} "
        f"({100 * scores[1]:.1f} to {100 * scores[0]:.1f}) on {html.escape(pair.where)}</p>"
        f'<div class="query">{asked}</div>{scroll(strips, f"what both find for {name}")}</article>'
    )


def _top(of: dict[str, NDArray], q: int) -> list[dict[str, Any]]:
    found = zip(of["top"][q], of["top_scores"][q], of["top_marks"][q], strict=True)
    return [
        {"path": str(of["top_photos"][place]), "score": float(score), "mark": MARKED[mark]}
        for place, score, mark in found
        if place >= 0
    ]
