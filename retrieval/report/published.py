"""Numbers that others published on the revisited Oxford and Paris, beside ours."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from retrieval.config import load_yaml
from retrieval.report.lines import Line, Row, evaluated, line_of, word
from retrieval.report.spread import cell, highest, rounded
from retrieval.report.table import Cell, Table
from retrieval.report.tables import named, names, values

FILE = Path(__file__).with_name("published.yaml")
BENCHMARKS = ("roxford5k", "rparis6k", "roxford5k_1m", "rparis6k_1m")
MILLION = 1_001_001  # distractors of revisitop1m
LEVELS = ("medium", "hard", "easy")
WORDS = ["source", "network", "training", "test"]
MARK = "†"
NOTE = (
    f"{MARK}: published by others, not measured here, and never bold. Networks, training data, photos and test sizes "
    "differ; the photos of both sets were replaced by copies with blurred faces in 2022."
)


def published(rows: Sequence[Row]) -> tuple[list[Table], list[str]]:
    """A table for each benchmark, ours first, and notes: whose numbers they are, and where there are none of ours."""
    known = _read()
    tables, alone = [], []
    for benchmark in BENCHMARKS:
        ours = [row for row in rows if benchmark_of(row) == benchmark and _levels(row)]
        tables.append(_table(benchmark, list(_ours(ours, rows)), known))
        alone += [] if ours else [benchmark]
    shown_alone = f"No run here was judged on {', '.join(alone)}: there the published numbers stand alone."
    addresses = [f"{MARK} {one['name']}: {one['address'] or 'no address known'}" for one in known["sources"].values()]
    return tables, [NOTE, *([shown_alone] if alone else []), *addresses]


def benchmark_of(row: Row) -> str:
    """The benchmark as others name it: with revisitop1m's distractors it is one of its own, with others none."""
    distractors = row["convention"].get("distractors") or 0
    base = row["benchmark"].removesuffix("_1m")
    return {0: base, MILLION: f"{base}_1m"}.get(distractors, "")


def _ours(rows: Sequence[Row], all_rows: Sequence[Row]) -> Iterator[list[Cell]]:
    """A line for each of our lines and resolutions, the best value of a level bold."""
    groups: dict[tuple[Line, int, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (line_of(row).order, row["resolution"])):
        groups.setdefault((line_of(row), row["resolution"], row["benchmark"]), []).append(row)
    named_as = names(all_rows)
    best = {level: highest(filter(None, (_scored(of, level) for of in groups.values()))) for level in LEVELS}
    for (line, *_), of in groups.items():
        training = of[0].get("trained_on") or "trained"
        words = [f"{line.model.backbone} · {named_as[line.model]}", "untrained" if of[0]["untrained"] else training]
        each = {level: _scored(of, level) for level in LEVELS}
        scores = [
            cell(each[level], rounded(each[level]) == best[level]) if each[level] else Cell("-") for level in LEVELS
        ]
        yield [*map(Cell, ("ours", *words, _test(of[0]))), *scores]


def _test(row: Row) -> str:
    """How descriptors were made and judged, in words."""
    said = evaluated(row)
    words = [word(key, said[key]) for key in ("scales", "whitening", "rerank", "junk_known")]
    dim = f"{row['dim']}-d" if row.get("dim") else ""
    return ", ".join(dict.fromkeys(filter(None, [f"{row['resolution']} px", dim, *words, row["descriptor"]])))


def _table(benchmark: str, ours: Sequence[list[Cell]], known: Mapping[str, Any]) -> Table:
    theirs = [_theirs(one, benchmark, known["sources"][one["source"]]) for one in known["results"] if benchmark in one]
    return Table(
        f"mAP on {benchmark}, beside published numbers",
        [*WORDS, *map(str.capitalize, LEVELS)],
        [*ours, *theirs],
        len(WORDS),
    )


def _theirs(one: Mapping[str, Any], benchmark: str, source: Mapping[str, str]) -> list[Cell]:
    words = [Cell(one[key] or "-") for key in WORDS[1:]]
    scores = [one[benchmark].get(level) for level in LEVELS]
    numbers = [Cell("-") if score is None else Cell(f"{score:.1f}", numbers={"mean": score}) for score in scores]
    return [Cell(f"{source['name']} {MARK}", link=source["address"]), *words, *numbers]


def _scored(rows: Sequence[Row], level: str) -> list[float]:
    return values([row for row in rows if level in _levels(row)], level, "mAP")


def _levels(row: Row) -> list[str]:
    return [level for level in LEVELS if named(level, "mAP") in row["metrics"]]


def _read() -> dict[str, Any]:
    known: Any = OmegaConf.to_container(load_yaml(FILE))
    return known
