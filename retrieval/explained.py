"""`--help` of a script: its groups and keys, with the comments that its YAML files have beside them."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from retrieval.errors import InputError, near

LEFT_OUT = ("defaults", "hydra", "names", "_target_")  # no keys of a person's
SEVERAL = ("benchmark", "logger", "callbacks", "rerank")  # groups of which a list is chosen: keys have its names
HYDRA = (
    "-m runs a job for each combination of values that stand with commas (pooling=gap,gem seed=0,1).",
    "--cfg job prints the whole config and runs nothing; --info says how it was composed; --hydra-help has more.",
)


@dataclass(frozen=True)
class Key:
    """A key of a YAML file, as it is written there, and the comment beside it."""

    name: str
    value: str
    comment: str


def page(configs: Path, script: str, words: Sequence[str]) -> str:
    """The help of a script; words: of its command line, where a group's choice decides which keys are explained."""
    width = min(shutil.get_terminal_size().columns, 120)
    text = (configs / f"{script}.yaml").read_text(encoding="utf-8")
    groups = defaults(text)
    lines = [*header(text), "", *HYDRA, "", "Keys (KEY=VALUE):"]
    lines += table([(f"{key.name}={key.value}", key.comment) for key in keys(text)], width)
    lines += ["", "Groups (GROUP=CHOICE, or GROUP=[CHOICE,CHOICE] of " + ", ".join(SEVERAL) + "):"]
    for group, default in groups.items():
        names = choices(configs, group, script)
        others = ", ".join(one for one in names if one not in default)
        lines += table([(f"{group}={shown(default)}", others and f"or {others}")], width)
    asked = {word.split("=", 1)[0]: word.split("=", 1)[1] for word in words if "=" in word}
    for group, default in groups.items():
        for choice in re.findall(r"[\w./-]+", asked[group]) if group in asked else default:
            lines += of_choice(configs, script, group, choice, width)
    return "\n".join(lines)


def defaults(text: str) -> dict[str, list[str]]:
    """The groups of a script, in its order, with the choices that it begins with."""
    entries = [one for one in yaml.safe_load(text).get("defaults", ()) if isinstance(one, dict)]
    found = {group: choice for one in entries for group, choice in one.items() if not group.startswith("override")}
    return {group: choice if isinstance(choice, list) else [choice or "null"] for group, choice in found.items()}


def choices(configs: Path, group: str, script: str) -> list[str]:
    """What a group may be; of recipes those of the script."""
    folder = configs / group / script if group == "experiment" else configs / group
    return sorted(path.stem for path in folder.glob("*.yaml"))


def shown(chosen: Sequence[str]) -> str:
    return chosen[0] if len(chosen) == 1 else f"[{','.join(chosen)}]"


def of_choice(configs: Path, script: str, group: str, choice: str, width: int) -> Iterator[str]:
    """What a choice is, and its keys; InputError for one that there is not."""
    if choice == "null":
        return
    names = choices(configs, group, script)
    if choice.removeprefix(f"{script}/") not in names:
        raise InputError(f"unknown {group} '{choice}': {near(choice, names)}")
    folder = configs / group / script if group == "experiment" else configs / group
    name = choice.removeprefix(f"{script}/")
    found = {key.name: key for key in inherited(folder, name)} if group != "experiment" else {}
    about = header((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    if not found and not about:
        return
    place = f"{group}.{name}" if group in SEVERAL else group
    yield ""
    yield from textwrap.wrap(f"{group}={choice}: {' '.join(about)}".rstrip(": "), width)
    yield from table([(f"{place}.{key.name}={key.value}", key.comment) for key in found.values()], width)


def inherited(folder: Path, choice: str) -> Iterator[Key]:
    """The keys of a choice, after those of the choices that it takes over."""
    text = (folder / f"{choice}.yaml").read_text(encoding="utf-8")
    for other in yaml.safe_load(text).get("defaults", ()):
        if isinstance(other, str) and other != "_self_":
            yield from inherited(folder, other)
    yield from keys(text)


def header(text: str) -> list[str]:
    """The comments at the head of a YAML file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def keys(text: str) -> Iterator[Key]:
    """The keys of a YAML file, each with the comment on its line or else on the lines above it."""
    lines, root = text.splitlines(), yaml.compose(text)
    pairs: Any = root.value if isinstance(root, yaml.MappingNode) else ()
    first = pairs[0][0].start_mark.line if pairs else 0
    for name, value in pairs:
        if name.value in LEFT_OUT:
            continue
        start, end = value.start_mark, value.end_mark
        written = lines[end.line][start.column : end.column] if start.line == end.line else shown_block(value)
        beside = lines[start.line][end.column :].strip() if start.line == end.line else ""
        above: list[str] = []
        row = name.start_mark.line - 1
        while row >= first and lines[row].startswith("#"):
            above.insert(0, lines[row].lstrip("# "))
            row -= 1
        yield Key(name.value, written, beside.lstrip("# ") or " ".join(above))


def shown_block(value: yaml.Node) -> str:
    return yaml.serialize(value).strip().replace("\n", ", ")


def table(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """A line for each row, its words wrapped in the second column."""
    column = min(max((len(left) for left, _ in rows), default=0), 44) + 4
    lines = []
    for left, right in rows:
        wrapped = textwrap.wrap(right, max(20, width - column)) or [""]
        if len(left) > column - 2:
            lines.append(f"  {left}")
            lines += [" " * column + one for one in wrapped if one]
        else:
            lines.append(f"  {left:{column - 2}}{wrapped[0]}".rstrip())
            lines += [" " * column + one for one in wrapped[1:]]
    return lines
