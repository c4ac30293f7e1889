import io

import pytest

from retrieval.terminal import printable, say


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
