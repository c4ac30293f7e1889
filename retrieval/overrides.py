"""Words KEY=VALUE of a command line, which Hydra's grammar may read as something else than the path that was typed.

A value that parses keeps Hydra's meaning: a comma sweeps, `${x}` is an interpolation. One that does not parse, or that
means something else where a file of that very name exists, is refused with the quoted word that means the name.
"""

import os
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from retrieval.errors import InputError

PATHS = {"root", "file", "weights", "dir", "save_dir", "output_dir", "cache", "store", "shards", "table", "truth"}
PATHS |= {"images", "distractors", "index", "run", "network", "whitening_file", "calibration.photos"}  # keys
WRITTEN = {"dir", "output_dir"}  # keys of folders that are written into
OF_WEIGHTS = WRITTEN | {"run", "network", "weights", "whitening_file"}
SWEEPING = ("-m", "--multirun", "hydra.mode=MULTIRUN")
BARE = re.compile(r"[\w./@%+:-]+", re.ASCII)  # Hydra reads it as it stands, or as a number


def quoted(text: str, quote: str = "'") -> str:
    """Text in quotes, which Hydra reads as it is: a backslash counts double before a quote alone."""
    escaped = re.sub(rf"(\\*)({quote}|\Z)", lambda found: 2 * found[1] + (f"\\{quote}" if found[2] else ""), text)
    return f"{quote}{escaped}{quote}"


def literal(text: str) -> str:
    r"""Text of which OmegaConf takes nothing for an interpolation: `\${x}` for `${x}`."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def shell(word: str) -> str:
    """The word as it is typed in a POSIX shell; what has no printable form is given to printf as numbers."""
    if not word.isprintable():  # the shell would drop newlines at the end, where Hydra's quote stands
        safe = (
            chr(byte) if 32 <= byte < 127 and chr(byte) not in "\"'\\%$`!" else f"\\{byte:03o}"
            for byte in os.fsencode(word)
        )
        return f"\"$(printf '{''.join(safe)}')\""
    within = re.sub(r'([$`\\"])', r"\\\1", word)
    return min([shlex.quote(word)] + ([] if "!" in word else [f'"{within}"']), key=len)


def typed(key: str, value: str) -> str:
    """How a key is given a text in a POSIX shell."""
    return shell(f"{key}={_in_quotes_if_needed(value)}")


def refuse_misread(words: Sequence[str], show: Callable[[str], str] = shell) -> None:
    """Refuse words that Hydra cannot read, and those that it reads otherwise than as the file whose name they give.

    show: how a word is typed.
    """
    # a recipe may be a sweep by itself
    sweeping = any(word in SWEEPING or word.startswith("experiment=") for word in words)
    for word in words:
        key, is_override, value = word.partition("=")
        if not is_override or word.startswith("-") or _fault(f"{key}="):  # Hydra says what is wrong with a key
            continue
        _refuse_name(key.rpartition(".")[2], value, word)
        if fault := _fault(word):
            raise InputError(f"{word} cannot be read, {fault}: {_meant(key, value, sweeping, show)}")
        if other := _other_than_typed(key, value, sweeping, show):
            raise InputError(f"{word} {other}; to mean it as it stands, type {_as_it_stands(key, value, show)}")


def _refuse_name(key: str, value: str, word: str) -> None:
    """Refuse what no quotes help: names that Hydra or safetensors cannot work with."""
    if key in WRITTEN and "${" in value and (r"\${" in value or os.path.lexists(value)):
        raise InputError(f"{word}: the name of a folder that is written into must have no ${{")
    if key in OF_WEIGHTS and any("\ud800" <= one <= "\udfff" for one in value):
        raise InputError(f"{word}: the path of a model's files must be UTF-8, as .safetensors are read from no other")


def _other_than_typed(key: str, value: str, sweeping: bool, show: Callable[[str], str]) -> str:
    """What the word means in place of the file of its name, or without -m; empty where it means what it says."""
    override = _parsed(f"{key}={value}")
    if override.is_choice_sweep():
        parts = [str(getattr(part, "text", part)) for part in override.sweep_iterator()]  # those in quotes have a text
        if not sweeping:
            listed = "" if _exists(key, value) else f", and a list of them is {show(f'{key}=[{value}]')}"
            return f"is a sweep of {len(parts)} values, which needs -m{listed}"
        return "is a sweep, and a file of that name exists" if _missing(parts) and _exists(key, value) else ""
    if not _exists(key, value) or override.value() is None:
        return ""
    if override.value() != value:
        return f"means {override.value()!r}, and a file of that name exists"
    return "is an interpolation, and a file of that name exists" if "${" in value else ""


def _meant(key: str, value: str, sweeping: bool, show: Callable[[str], str]) -> str:
    """How to type what was probably meant: a folder below home, a list, values to sweep over, or a text."""
    if not os.path.lexists(value):
        if os.path.lexists(home := os.path.expanduser(value)):
            return f"~ is not looked up, type {show(f'{key}={_in_quotes_if_needed(home)}')}"
        listed = re.fullmatch(r"\[(.*)\]", value, re.DOTALL)
        if listed or (sweeping and "," in value):
            parts = ",".join(map(_in_quotes_if_needed, (listed[1] if listed else value).split(",")))
            several = f"{key}=[{parts}]" if listed else f"{key}={parts}"
            if not _fault(several):
                return f"type {show(several)}"
    return f"to mean it as it stands, type {_as_it_stands(key, value, show)}"


def _as_it_stands(key: str, value: str, show: Callable[[str], str]) -> str:
    """The shorter of the two words that mean the value as a text."""
    return min((show(f"{key}={quoted(literal(value), quote)}") for quote in "'\""), key=len)


def _in_quotes_if_needed(text: str) -> str:
    return text if BARE.fullmatch(text) else quoted(literal(text))


def _exists(key: str, value: str) -> bool:
    names = key.lstrip("+").split(".")
    return not PATHS.isdisjoint((names[-1], ".".join(names[-2:]))) and not _missing([value])


def _missing(paths: Sequence[str]) -> bool:
    return not all(map(os.path.lexists, paths))


def _parsed(word: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(word)


def _fault(word: str) -> str:
    """What Hydra finds wrong with the word, in a line; empty where it can read it."""
    from hydra.errors import HydraException

    try:
        _parsed(word)
    except HydraException as error:
        return str(error).splitlines()[0]
    return ""
