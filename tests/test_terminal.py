import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InputError
from retrieval.terminal import printable, printable_lines, say

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\x1b[31m.jpg", r"a\x1b[31m.jpg"), ("a\nb", r"a\nb"), ("ünï 中", "ünï 中"), ("\udcff.jpg", r"\udcff.jpg")],
)
def test_control_characters_of_a_name_are_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_a_line_for_a_stream_of_ascii_is_escaped() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("100 photos of 中", stream)
    assert stream.buffer.getvalue() == b"100 photos of \\u4e2d\n"  # pyright: ignore[reportAttributeAccessIssue]


def test_lines_stay_apart_and_what_is_in_them_is_escaped() -> None:
    assert printable_lines("first\x1b\nsecond\r") == "first\\x1b\nsecond\\r"


@given(st.text() | st.binary().map(os.fsdecode))
def test_no_error_carries_control_characters_to_the_terminal(name: str) -> None:
    assert str(InputError(f"no image at {name}")).isprintable()


@pytest.mark.parametrize("name", ["a\x1b[31m", "ünï"])
@pytest.mark.parametrize("module", ["embed", "index", "report", "sweep"])
def test_what_is_refused_is_said_in_escapes_where_the_terminal_knows_ascii_alone(module: str, name: str) -> None:
    words = {"embed": ["none.onnx", f"@{name}", "-o", "x"], "index": ["search", name, "x"]}
    call = [sys.executable, "-m", f"retrieval.{module}", *words.get(module, [name])]
    done = subprocess.run(
        call, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert done.stderr.isascii() and b"\x1b" not in done.stderr and b"error: " in done.stderr
