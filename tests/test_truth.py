"""Ground-truth files are read as plain data, and nothing that they ask for is run."""

import builtins
import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from retrieval.data import truth
from retrieval.errors import InputError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.text() | st.integers() | st.tuples(st.integers(), st.text())
PLAIN = st.recursive(
    SCALARS | st.sets(st.integers()),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner),
    max_leaves=12,
)
ARRAYS = [
    np.arange(12).reshape(3, 4),
    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    np.arange(3, dtype=">i4"),
    np.array(["arch", "dome"]),
    np.array([True, False]),
    np.zeros((0, 4)),
]


class Calls:
    """What a pickle of it does: calls the function."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.how = function, arguments

    def __reduce__(self) -> tuple:
        return self.how


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_comes_back_as_it_was(value: Any, protocol: int) -> None:
    back = truth.loads(pickle.dumps(value, protocol))
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_plain_arrays_come_back_as_they_were(array: np.ndarray, protocol: int) -> None:
    back = truth.loads(pickle.dumps({"easy": array}, protocol))["easy"]
    assert back.dtype == array.dtype and back.shape == array.shape and np.array_equal(back, array)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpys_numbers_become_pythons(protocol: int) -> None:
    assert truth.loads(pickle.dumps([np.float64(2.5), np.int32(4)], protocol)) == [2.5, 4]


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_arrays_are_read_whichever_numpy_wrote_them(module: str) -> None:
    pickled = pickle.dumps(np.arange(3), 2).replace(b"numpy._core", module.encode())
    assert truth.loads(pickled).tolist() == [0, 1, 2]


def test_text_of_python_2_is_read() -> None:
    assert truth.loads(b"(dp0\nS'imlist'\np1\n(lp2\nS'arch'\np3\nas.") == {"imlist": ["arch"]}


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_the_published_ground_truths_are_read_as_pickle_reads_them(shared: Path, name: str) -> None:
    path = shared / "data" / "revisited" / f"gnd_{name}.pkl"
    assert truth.read(path) == pickle.loads(path.read_bytes())


HOSTILE = {
    "posix.system": pickle.dumps(Calls(os.system, "touch ran")),
    "posix.system by protocol 0": pickle.dumps(Calls(os.system, "touch ran"), 0),
    "builtins.eval": pickle.dumps(Calls(eval, "open('ran', 'w')")),
    "builtins.exec": pickle.dumps({"gnd": [Calls(exec, "open('ran', 'w')")]}),
    "builtins.getattr": b"cbuiltins\ngetattr\n(cbuiltins\nset\nS'__class__'\ntR.",
    "builtins.open": pickle.dumps(Calls(open, "ran", "w")),
    "os.system": b"cos\nsystem\n(S'touch ran'\ntR.",
    "subprocess.run by INST": b"(S'touch ran'\nisubprocess\nrun\n.",
    "_codecs.decode": b"c_codecs\ndecode\n(S'touch ran'\ntR.",
    "_codecs.lookup": b"c_codecs\nlookup\n(S'rot13'\ntR.",
    "numpy.f2py.diagnose.os.system": b"\x80\x04\x8c\x13numpy.f2py.diagnose\x8c\x09os.system\x93\x8c\x09touch ran\x85R.",
    "numpy.lib.stride_tricks": pickle.dumps(Calls(as_strided, np.arange(3), (10**9,))),
    "numpy.load": pickle.dumps(Calls(np.load, "gnd.npy", None, True)),
    "torch": pickle.dumps(torch.zeros(2)),
    "torch.load": pickle.dumps(Calls(torch.load, "gnd.pt")),
    "copyreg._reconstructor": b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.",
    "pathlib": pickle.dumps(Path("ran")),
}


@pytest.mark.parametrize("pickled", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_pickle_that_asks_for_more_is_refused_and_nothing_runs(
    pickled: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="this asks for|no whole pickle"):
        truth.loads(pickled)
    assert not (tmp_path / "ran").exists()


def test_the_refusal_names_the_file_and_what_it_asked_for(tmp_path: Path) -> None:
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(Calls(eval, "1")))
    with pytest.raises(InputError, match="gnd.pkl is not read: .* asks for builtins.eval"):
        truth.read(tmp_path / "gnd.pkl")


def state_of(function: bytes, state: bytes) -> bytes:
    """A pickle that sets the state of a function it was allowed to name."""
    return b"\x80\x02c" + function + state + b"b."


@pytest.mark.parametrize("function", [b"_codecs\nencode\n", b"numpy\ndtype\n", b"builtins\nset\n"])
@pytest.mark.parametrize("state", [b"}X\x04\x00\x00\x00nameX\x01\x00\x00\x00xs", b"N}X\x04\x00\x00\x00nameNs\x86"])
def test_what_a_pickle_may_call_it_may_not_change(function: bytes, state: bytes) -> None:
    before = dict(truth.ALLOWED)
    with pytest.raises(ValueError, match="this sets the state of"):
        truth.loads(state_of(function, state))
    assert before == truth.ALLOWED and truth.loads(pickle.dumps(np.arange(2), 2)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([{"a": 1}, None]), "dtype must be a number, a boolean or text, got 'O8'"),
        (np.zeros(2, [("x", "i4"), ("y", "f4")]), "got 'V8'"),
        (np.array(["2020-01-01"], "M8[D]"), "got 'M8'"),
    ],
    ids=["objects", "records", "dates"],
)
def test_arrays_of_anything_but_numbers_and_text_are_refused(array: np.ndarray, said: str) -> None:
    for protocol in (2, 4, 5):
        with pytest.raises(ValueError, match=said):
            truth.loads(pickle.dumps(array, protocol))


def test_a_dtype_with_flags_of_an_object_is_still_a_dtype_of_numbers() -> None:
    pickled = pickle.dumps(np.arange(3), 2)
    plain = b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"  # itemsize, alignment, flags as NumPy writes them
    assert plain in pickled
    back = truth.loads(pickled.replace(plain, b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ft"))
    assert back.tolist() == [0, 1, 2] and not back.dtype.hasobject


def test_an_array_larger_than_its_bytes_is_refused() -> None:
    pickled = pickle.dumps(np.arange(3), 2).replace(b"K\x03\x85", b"K\x04\x85")
    with pytest.raises(ValueError, match=r"shape \(4,\) and dtype int64 is not made of 24 bytes"):
        truth.loads(pickled)


def doubled(times: int) -> list:
    inner: list = [0] * 8
    for _ in range(times):
        inner = [inner] * 8
    return inner


@pytest.mark.parametrize("times", [8, 25])
def test_a_small_file_that_describes_billions_by_repeating_is_refused(times: int) -> None:
    with pytest.raises(ValueError, match="far more than it holds"):
        truth.loads(pickle.dumps(doubled(times)))


@pytest.mark.parametrize(
    "end", [b"h\x00d0.", b"}h\x00Ns.", b"cbuiltins\nset\n]h\x00a\x85R."], ids=["value", "key", "set"]
)
def test_tuples_of_tuples_are_refused_before_they_are_hashed(end: bytes) -> None:
    level = b"h\x00h\x00\x86q\x000"
    with pytest.raises(ValueError, match="far more than it holds|no whole pickle"):
        truth.loads(b"\x80\x02)q\x000" + level * 60 + end)


def test_lists_that_grow_after_they_were_repeated_are_refused() -> None:
    nested = b"".join(b"]q" + bytes([i]) + b"0" for i in range(30))
    grown = b"".join(
        b"h" + bytes([i]) + b"(" + b"h" + bytes([i + 1]) + b"h" + bytes([i + 1]) + b"e0" for i in range(29)
    )
    with pytest.raises(ValueError, match="far more than it holds"):
        truth.loads(b"\x80\x02" + nested + grown + b"h\x00.")


def test_queries_may_share_a_list() -> None:
    junk = list(range(500))
    gnd = [{"easy": [q], "junk": junk} for q in range(200)]
    assert truth.loads(pickle.dumps(gnd)) == gnd


def test_one_array_many_times_is_refused() -> None:
    with pytest.raises(ValueError, match="far more than it holds"):
        truth.loads(pickle.dumps([np.zeros(10_000)] * 1000))


def test_bytes_made_again_and_again_from_one_text_are_refused() -> None:
    calls = (
        b"c_codecs\nencode\np0\n0X"
        + struct.pack("<i", 10_000)
        + b"a" * 10_000
        + b"q\x010X\x06\x00\x00\x00latin1q\x020("
    )
    with pytest.raises(ValueError, match="far more than it holds"):
        truth.loads(b"\x80\x02" + calls + b"g0\nh\x01h\x02\x86R" * 2000 + b"l.")


def test_a_memo_of_billions_of_places_is_refused_before_it_is_made() -> None:
    with pytest.raises(ValueError, match="memo of 2,147,483,632 places"):
        truth.loads(b"\x80\x02]r\xf0\xff\xff\x7f.")


@pytest.mark.parametrize("depth", [50, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="nested deeper than 32 levels"):
        truth.loads(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")


def test_a_list_that_holds_itself_is_refused() -> None:
    circle: list = []
    circle.append(circle)
    with pytest.raises(ValueError, match="nested deeper"):
        truth.loads(pickle.dumps(circle))


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_a_cut_off_pickle_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="no whole pickle"):
        truth.loads(pickle.dumps({"imlist": ["arch"], "gnd": [1, 2, 3]})[:cut])


@given(st.binary(max_size=60))
def test_noise_is_read_as_plain_data_or_refused(noise: bytes) -> None:
    for data in (noise, noise + b"."):
        try:
            value = truth.loads(data)
        except ValueError:
            continue
        assert isinstance(value, (*truth.SCALARS, list, tuple, dict, set, frozenset))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gnd.pkl", b"<html>302 Found</html>", "no whole pickle"),
        ("gnd.json", b"{'imlist': []}", "no JSON that can be read"),
        ("gnd.json", b"[" * 200_000, "no JSON that can be read"),
        ("gnd.mat", b"MATLAB 5.0", "must be one of .pkl, .pickle, .json"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        truth.read(tmp_path / name)
    assert name in str(caught.value)


def test_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "gnd.json").write_text(json.dumps({"imlist": ["é"]}), encoding="utf-8")
    assert truth.read(tmp_path / "gnd.json") == {"imlist": ["é"]}


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with io.FileIO(tmp_path / "gnd.pkl", "w") as file:
        file.truncate(truth.LIMIT + 1)
    with pytest.raises(InputError, match="268,435,457"):
        truth.read(tmp_path / "gnd.pkl")


def test_every_builtin_but_plain_types_is_refused() -> None:
    for name in set(dir(builtins)) - {"set", "frozenset", "bytes"}:
        with pytest.raises(ValueError, match=f"builtins.{name}|no whole pickle"):
            truth.loads(b"cbuiltins\n" + name.encode() + b"\n.")
