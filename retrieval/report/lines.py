"""What tells the rows of `results.json` apart: the model, and how its descriptors were made and judged."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from retrieval.report.configs import config_of

Row = dict[str, Any]  # one evaluation, as in results.json, and the `folder` it came from

# Rows that differ here share no mean. The values are those of rows that lack the key, as older rows do; what a
# benchmark adds stands in a row's `convention`.
EVALUATED: dict[str, Any] = {
    "scales": [1.0],
    "aggregate": None,
    "aspect": "native",
    "dtype": "float32",
    "draft": None,
    "compile": None,
    "store_dtype": None,
    "whitening": None,
    "search": "exact",
    "rerank": None,
    "junk_known": None,
}
CONVENTION = {"duplicates": "keep"}  # likewise, of what every benchmark may add
SAID_AS = {"upright": "EXIF orientation"}  # of keys whose own name says too little
THEIR_OWN_NAME = ("whitening", "rerank")  # texts that need no key before them
SIZES = ("queries", "images", "skipped")  # of a benchmark: fewer photos are another benchmark
LONGEST, MOST = 40, 5  # of the values of configs that are said in words, and how many


class Model(NamedTuple):
    """What was judged: rows of one model differ in seed and in how they were evaluated.

    options: what the pooling has set otherwise than its YAML, the pooling that the backbone was trained with where
    that is another, and what sets its training apart from the others shown, in words; "" where nothing does.
    """

    backbone: str
    pooling: str
    head: str
    options: str
    untrained: bool
    settings: str

    @property
    def order(self) -> tuple[Any, ...]:
        """Numbers in `options` count as numbers: p=5 stands before p=10."""
        return self.backbone, self.pooling, self.head, natural(self.options), self.untrained, self.settings


class Line(NamedTuple):
    """A line of a table: rows of one line are comparable, and differ in seed alone.

    descriptor: what sets its evaluation apart from the others shown, in words; "" where nothing does.
    """

    model: Model
    descriptor: str

    @property
    def order(self) -> tuple[Any, ...]:
        return *self.model.order, natural(self.descriptor)


def natural(text: str) -> list[str | float]:
    """A key that sorts the numbers in a text as numbers."""
    pieces = re.split(r"(\d+(?:\.\d+)?)", text)  # every second one is a number
    return [float(piece) if i % 2 else piece for i, piece in enumerate(pieces)]


def model_of(row: Row) -> Model:
    trained_with = f"trained with {row['trained_with']}" if row["trained_with"] else ""
    options = ", ".join(part for part in (row["options"], trained_with, row.get("apart")) if part)
    return Model(row["backbone"], row["pooling"], row["head"], options, row["untrained"], row["settings"])


def line_of(row: Row) -> Line:
    return Line(model_of(row), row["descriptor"])


def evaluated(row: Row) -> dict[str, Any]:
    """The value of each key of EVALUATED; without `aggregate` where there is one scale, so nothing to aggregate."""
    said = {key: default if row.get(key) is None else row[key] for key, default in EVALUATED.items()}
    said["scales"] = [float(scale) for scale in said["scales"]]
    return {key: value for key, value in said.items() if key != "aggregate" or len(said["scales"]) > 1}


def evaluation(row: Row) -> tuple[str, ...]:
    """Equal for rows that were evaluated alike."""
    either = evaluated(row), convention(row), sizes(row)
    return tuple(canonical({key: value for key, value in said.items() if value}) for said in either)


def judged_on(row: Row) -> str:
    """Equal for rows that were judged on the same photos by the same convention: others are no better or worse."""
    return canonical({key: value for key, value in {**convention(row), **sizes(row)}.items() if value})


def convention(row: Row) -> dict[str, Any]:
    """What a benchmark says of how it was evaluated, without what is so in rows that lack the key."""
    return {key: value for key, value in row["convention"].items() if key not in CONVENTION or value != CONVENTION[key]}


def sizes(row: Row) -> dict[str, Any]:
    return {key: row.get(key) for key in SIZES}


def canonical(value: Any) -> str:
    """Null, false, 0 and empty are one value: that of rows written before there was such a key."""
    return json.dumps(value or None, sort_keys=True)


def describe(rows: Sequence[Row]) -> None:
    """Write into each row, in words, what differs: as `descriptor` among all evaluations or by its benchmark's
    convention, as `apart` among all trainings."""
    trained = [row for row in rows if row.get("training")]
    for row in rows:
        row["apart"] = ""
    for row in trained:
        own = {key: row["training"].get(key) for key in varying([row["training"] for row in trained])}
        row["apart"] = ", ".join(f"{key}={short(value)}" for key, value in own.items() if value is not None)
    _name_settings(rows)
    said: dict[int, list[str]] = {id(row): [] for row in rows}
    groups = [(rows, [evaluated(row) for row in rows])]
    for mine in by_benchmark(rows).values():
        groups += [(mine, conventions(mine)), (mine, list(map(sizes, mine)))]
    for group, each in groups:
        for key in varying(each):
            words = _words(key, [one[key] for one in each if key in one])
            for row, one in zip(group, each, strict=True):
                said[id(row)] += [words[canonical(one[key])]] if key in one else []
    for row in rows:
        row["descriptor"] = ", ".join(filter(None, said[id(row)]))


def _name_settings(rows: Sequence[Row]) -> None:
    """Where models that read alike differ in `settings`, add to `apart` what their configs differ in."""
    alike: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in rows:
        alike.setdefault(model_of(row)[:5], {}).setdefault(row["settings"], []).append(row)
    for by_settings in alike.values():
        if len(by_settings) > 1:
            words = _of_configs({settings: config_of(same[0]) for settings, same in by_settings.items()})
            for row in (row for same in by_settings.values() for row in same):
                row["apart"] = ", ".join(filter(None, [row["apart"], words.get(row["settings"])]))


def _of_configs(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What differs among the configs that could be read, in a few short words for each."""
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    full = {name: {key: config.get(key) for key in keys} for name, config in configs.items() if config}
    differing = varying(list(full.values()))
    said = {
        name: [f"{key}={short(config[key])}" for key in differing if config[key] is not None]
        for name, config in full.items()
    }
    return {name: ", ".join([word for word in words if len(word) <= LONGEST][:MOST]) for name, words in said.items()}


def short(value: Any) -> str:
    """A value as one types it in a config."""
    return json.dumps(value, separators=(",", ":")).replace('"', "")


def conventions(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The convention of each row of one benchmark, None under a key that others alone have."""
    each = [convention(row) for row in rows]
    keys = dict.fromkeys(key for one in each for key in one)
    return [{key: one.get(key) for key in keys} for one in each]


def by_benchmark(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each benchmark, benchmarks by name."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["benchmark"], []).append(row)
    return dict(sorted(groups.items()))


def varying(each: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys under which not all that have them have the same value."""
    keys = dict.fromkeys(key for one in each for key in one)
    return [key for key in keys if len({canonical(one[key]) for one in each if key in one}) > 1]


def shared(each: Sequence[Mapping[str, Any]], but: Iterable[str] = ()) -> str:
    """What all that have a key have in common, in words; "" where there is nothing to say."""
    different = {*varying(each), *but}
    agreed = {key: value for one in each for key, value in one.items() if key not in different}
    return ", ".join(filter(None, (word(key, value) for key, value in agreed.items())))


def word(key: str, value: Any) -> str:
    """A value in short words; "" where nothing was done."""
    name = SAID_AS.get(key, key.replace("_", " "))
    if key == "scales":
        return "1 scale" if value == [1.0] else f"{len(value)} scales {' '.join(f'{scale:.3g}' for scale in value)}"
    if isinstance(value, bool):
        return (name if value else "") if key in EVALUATED else f"{name} {'on' if value else 'off'}"
    if not value:
        return ""
    return str(value) if key in THEIR_OWN_NAME else f"{name} {value}"


def _words(key: str, values: Sequence[Any]) -> dict[str, str]:
    """Words by value; values that would read alike are given in full."""
    off = False if any(value is True for value in values) else None
    words = {canonical(value): word(key, value or off) for value in values}
    return words if len(set(words.values())) == len(words) else {value: f"{key} {value}" for value in words}
