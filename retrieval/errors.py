"""Refusals that name the rule, the value and what is accepted."""

import difflib
from collections.abc import Iterable
from typing import Any

from retrieval.terminal import printable


class InputError(ValueError):
    """What the person asked for cannot be done; the message names the rule, the value and what is accepted.

    As text it is one line without control characters, whatever the names of files in it hold.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def near(word: str, accepted: Iterable[str]) -> str:
    """'did you mean ...?' where something is close, then the accepted words (all, or how many)."""
    accepted = sorted(map(str, accepted))
    matches = difflib.get_close_matches(str(word), accepted, n=5, cutoff=0.5)
    guess = f"did you mean {' or '.join(matches)}? " if matches else ""
    return guess + (f"accepted: {', '.join(accepted)}" if len(accepted) <= 60 else f"{len(accepted)} are known")


def flag(name: str, value: Any) -> bool:
    """true or false; anything else is refused, as any text would count as true."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {value!r}")
    return value
