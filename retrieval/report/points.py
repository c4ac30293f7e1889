"""The values of rows, each with all that a table may sort it by."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from retrieval.errors import near
from retrieval.report.configs import config_of
from retrieval.report.lines import EVALUATED, Line, Row, by_benchmark, evaluated, judged_on, line_of, short, sizes
from retrieval.report.tables import main_metric, metrics

# What came out, what is different for every seed, and what stands in the table under another name.
NO_KEYS = {
    *("seed", "metrics", "macro", "intervals", "tied_queries", "search_recall", "p", "per_query", "whitening_file"),
    *("seconds", "poolings_in_pass", "described", "trained_seconds", "peak_memory", "steps", "validation"),
    *("config", "folder", "training", "convention", "versions", "tied_queries", "duplicates"),
}


class Point(NamedTuple):
    """One value of one row, and all that it may be sorted by."""

    value: float
    seed: int
    is_of: tuple[Line, str, int, str, str]  # alike for points that differ in seed alone
    judged_on: str
    facts: Mapping[str, Any]

    def says(self, key: str) -> str:
        return text(key, self.facts.get(key))


def points(rows: Sequence[Row], wanted: Sequence[str] = ()) -> Iterator[Point]:
    """Each value of each row, of the metrics wanted (`mAP`), else of the main one of its benchmark."""
    if absent := [metric for metric in wanted if metric not in metrics(rows)]:
        raise ValueError(f"no row has the metric {absent[0]!r}: {near(absent[0], metrics(rows))}")
    main = {benchmark: main_metric(mine) for benchmark, mine in by_benchmark(rows).items()}
    for row in rows:
        facts, on = _facts(row), judged_on(row)
        for name, value in row["metrics"].items():
            level, _, metric = name.rpartition("/")
            if metric in (wanted or [main[row["benchmark"]]]):
                is_of = (line_of(row), row["benchmark"], row["resolution"], level, metric)
                yield Point(float(value), row["seed"], is_of, on, {**facts, "level": level, "metric": metric})


def text(key: str, value: Any) -> str:
    """The value of a key as a cell shows it; "-" where there is none."""
    if key == "untrained":
        return "untrained" if value else "trained"
    if key == "level":
        return str(value).capitalize() or "-"
    if value is None or value in ("", [], {}):
        return "-"
    return value if isinstance(value, str) else short(value).removesuffix(".0")


def _facts(row: Row) -> dict[str, Any]:
    """All that a row says, by key: its config's keys are dotted, as are `convention.crop` and `versions.torch`."""
    own = {key: value for key, value in row.items() if key not in (*NO_KEYS, *EVALUATED)}
    versions = {f"versions.{library}": version for library, version in (row.get("versions") or {}).items()}
    convention = {f"convention.{key}": value for key, value in row["convention"].items()}
    judged = {key: value or None for key, value in (*convention.items(), *evaluated(row).items(), *sizes(row).items())}
    return {**config_of(row), **versions, **(row.get("training") or {}), **own, **judged}
