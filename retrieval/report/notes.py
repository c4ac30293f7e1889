"""What a reader of a report's tables must know, in sentences."""

import re
from collections.abc import Iterable, Sequence

from retrieval.report.lines import (
    Row,
    by_benchmark,
    conventions,
    evaluated,
    judged_on,
    line_of,
    shared,
    sizes,
    varying,
)
from retrieval.report.tables import family, line_labels, metrics, names, repeats

DEFINITIONS = {
    "mAP": "AP is the trapezoid average precision of the revisited Oxford and Paris protocol",
    "mAP@R": "AP@R is the sum of the precision at each relevant image among the first R, divided by R, the number of "
    "relevant images",
    "mAP@k": "AP@k is the sum of the precision at each relevant image among the first k, divided by k or by the number "
    "of relevant images, whichever is less",
    "micro-AP": "micro-AP ranks the best answers to all queries in one list: the sum of the precision at each correct "
    "one, divided by the number of queries that have a correct answer",
    "mP@k": "P@k is the share of relevant images among the first k, or up to the last relevant one if that comes "
    "before",
    "recall@k": "recall@k is the share of queries with a relevant image among the first k",
}
TIES = "equal scores count as the mean over random orders"
FIRST = 2  # notes that tell what values are and which are bold
FEW = 5  # lines of a table that a note names


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the tables must know: the protocol, the seeds, the selection, the sizes, the versions."""
    families = dict.fromkeys(family(metric) for metric in metrics(rows))
    defined = [DEFINITIONS[family] for family in families if family in DEFINITIONS]
    said = ["; ".join([*defined, "values in percent."])]
    said.append(f"Mean ± sample standard deviation over seeds; bold: {_bold(rows)}.")
    if repeats(rows):
        said.append("mP@1 equals recall@1 here, so it is shown once, as recall@1.")
    if any("#" in name for name in names(rows).values()):
        said.append(
            "Lines that differ in #hash differ in settings other than the seed, so they share no mean; "
            "report.csv gives the folder of each."
        )
    said += _evaluations(rows)
    for benchmark, mine in by_benchmark(rows).items():
        agreed = shared(conventions(mine))
        sizes = ", ".join(f"{_distinct(mine, key)} {key}" for key in ("queries", "images"))
        skipped = max(row.get("skipped") or 0 for row in mine)
        name = f"{benchmark} ({agreed})" if agreed else benchmark
        said.append(f"{name}: {sizes}" + (f", {skipped} photos skipped" if skipped else "") + ".")
    said += _ties(rows)
    trained = [row for row in rows if not row["untrained"]]
    if trained:
        # The score that won differs from run to run; what was scored is what a reader needs.
        selected = re.sub(r"\d+\.\d+ ", "", _distinct(trained, "selected_by"))
        said.append(f"Model selected by: {', '.join(dict.fromkeys(selected.split(', ')))}.")
    versions = {f"{name} {number}" for row in rows for name, number in (row.get("versions") or {}).items()}
    said.append(f"Computed in {_distinct(rows, 'dtype')} on {_distinct(rows, 'device')}.")
    return said + ([f"Versions: {', '.join(sorted(versions))}."] if versions else [])


def _ties(rows: Sequence[Row]) -> list[str]:
    """Of which lines some queries had equal scores at a labeled image, and what the values are then."""
    labels = line_labels(rows)
    most: dict[tuple[str, str], tuple[int, int]] = {}
    for row in rows:
        if tied := int(row.get("tied_queries") or 0):
            where = labels[line_of(row)], row["benchmark"]
            most[where] = max(most.get(where, (0, 0)), (tied, int(row.get("queries") or 0)))
    each = [f"{label} on {on}: {tied} of {of} queries" for (label, on), (tied, of) in most.items()]
    others = f", and {len(each) - FEW} other lines" if len(each) > FEW else ""
    return [f"{'; '.join(each[:FEW])}{others} had equal scores at a labeled image; {TIES}."] if each else []


def mixed(rows: Sequence[Row]) -> list[str]:
    """Which means are over seeds that were judged on several devices, or with several versions of a library."""
    labels = line_labels(rows)
    cells: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        cells.setdefault((labels[line_of(row)], row["benchmark"], row["resolution"]), []).append(row)
    said = []
    for (label, benchmark, _), seeds in cells.items():
        each = [{"device": row.get("device")} | (row.get("versions") or {}) for row in seeds]
        several = {key: sorted({str(one.get(key) or "not stated") for one in each}) for one in each for key in one}
        parts = [f"{key} {' and '.join(found)}" for key, found in several.items() if len(found) > 1]
        said += [f"{label} on {benchmark}: the mean is over seeds judged with {'; '.join(parts)}"] if parts else []
    return list(dict.fromkeys(said))


def _evaluations(rows: Sequence[Row]) -> list[str]:
    """Which settings of the evaluation differ from line to line, and which are those of every row."""
    each = [evaluated(row) for row in rows]
    differing = varying(each)
    for mine in by_benchmark(rows).values():
        differing += varying(conventions(mine)) + varying([sizes(row) for row in mine])
    said = []
    if differing:
        keys = ", ".join(key.replace("_", " ") for key in dict.fromkeys(differing))
        said.append(f"Lines differ in how they were evaluated ({keys}); no mean is taken over lines.")
    if "contents" in differing:
        said.append(
            "contents: a hash of the photos evaluated and of their labels; lines of different ones do not compare."
        )
    agreed = shared(each, but=["dtype"])  # said beside the device
    return [*said, f"All rows: {agreed}."] if agreed else said


def _bold(rows: Sequence[Row]) -> str:
    """Which values are bold, in words."""
    several = any(len({judged_on(row) for row in mine}) > 1 for mine in by_benchmark(rows).values())
    untrained = any(row["untrained"] for row in rows) and not all(row["untrained"] for row in rows)
    return (
        "the best value of its column"
        + ", trained or not" * untrained
        + ", of those evaluated on the same photos in the same way" * several
    )


def _distinct(rows: Iterable[Row], key: str) -> str:
    return ", ".join(sorted({str(row.get(key) or "not stated") for row in rows}))
