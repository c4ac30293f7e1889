"""What is known of a model away from here: written, and read again from anyone."""

import json
from typing import Any

import pytest

from retrieval.errors import InputError
from retrieval.spec import Spec

SPEC = Spec("a model", 8, 8, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 448)
OUTSIDE = Spec(
    "a model", 4, 8, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 448, multiple=16, batch=2, normalised=False, scales=(1.0, 0.5),
    scaled=False, aggregate="max", exponent=2.5, whitening="whitening.safetensors", whitened=False, dtype="int8",
)  # fmt: skip


def changed(spec: Spec, **changes: Any) -> str:
    return json.dumps({**json.loads(spec.json()), **changes})


@pytest.mark.parametrize("spec", [SPEC, OUTSIDE, Spec(**{**SPEC.__dict__, "size": (224, 192)})])
def test_what_is_written_is_read_again(spec: Spec) -> None:
    assert Spec.read(spec.json(), "here") == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no JSON", "here is no JSON"),
        (b"\xff\xfe\x00", "here is no JSON"),
        ("[" * 100_000, "here is no JSON"),
        ("[1]", "an object of JSON, got list"),
        ("{}", "here lacks name, dim"),
        (changed(SPEC, colour=1), "unknown key 'colour'"),
    ],
)
def test_what_is_no_spec_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Spec.read(text, "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ""),
        ("name", "two\nlines"),
        ("name", 7),
        ("name", "x" * 2000),
        ("dim", 0),
        ("dim", 8.0),
        ("dim", True),
        ("dim", 65_537),
        ("graph_dim", "8"),
        ("resolution", -1),
        ("multiple", None),
        ("batch", 0),
        ("mean", [0.5, 0.5]),
        ("mean", 0.5),
        ("mean", [0.5, 0.5, float("nan")]),
        ("mean", [0.5, 0.5, True]),
        ("std", [0.2, 0.2, 0]),
        ("std", [0.2, 0.2, float("inf")]),
        ("scales", []),
        ("scales", [0.5] * 17),
        ("scales", [1, -0.5]),
        ("scales", 1.0),
        ("scales", [9]),
        ("size", [224]),
        ("size", [224, 10**9]),
        ("size", {"height": 1}),
        ("aggregate", "median"),
        ("aggregate", ["paper"]),
        ("exponent", 0),
        ("exponent", 10**400),
        ("whitening", "../whitening.safetensors"),
        ("whitening", "/etc/whitening.safetensors"),
        ("whitening", "folder\\whitening.safetensors"),
        ("whitening", "whitening.pkl"),
        ("whitening", ".safetensors"),
        ("input", None),
        ("output", ""),
        ("normalised", 1),
        ("scaled", "false"),
        ("whitened", None),
        ("dtype", "float64"),
    ],
    ids=lambda part: repr(part)[:20],
)
def test_a_value_out_of_range_is_refused_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"here: {key} must be"):
        Spec.read(changed(SPEC, **{key: value}), "here")


@pytest.mark.parametrize(
    "changes",
    [
        {"whitened": False},
        {"dim": 4},
        {"dim": 4, "whitening": "whitening.safetensors"},
        {"scaled": False},
        {"scaled": False, "normalised": False, "size": [224, 224]},
        {"scaled": False, "normalised": False, "whitening": "whitening.safetensors"},
    ],
)
def test_a_spec_at_odds_with_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="here: (whitened is|dim is|scaled is)"):
        Spec.read(changed(SPEC, **changes), "here")
