import os
import socket
from pathlib import Path

import pytest

from retrieval.data.contents import hash_bytes, hash_file, stamp
from retrieval.errors import InputError


def test_a_file_and_its_bytes_have_one_hash(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"pixels" * 1000)
    assert hash_file(tmp_path / "a.jpg") == hash_bytes(b"pixels" * 1000)


def test_a_file_replaced_under_its_name_size_and_mtime_has_another_stamp(tmp_path: Path) -> None:
    path, times = tmp_path / "a.jpg", (1_700_000_000, 1_700_000_000)
    path.write_bytes(b"one")
    os.utime(path, times)
    before = stamp(path)
    (tmp_path / "b.jpg").write_bytes(b"two")
    os.utime(tmp_path / "b.jpg", times)
    (tmp_path / "b.jpg").replace(path)
    after = stamp(path)
    assert (before.size, before.mtime_ns) == (after.size, after.mtime_ns)
    assert before != after


def test_a_named_pipe_is_named_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")  # opening it would wait for ever
    with pytest.raises(InputError, match=r"a\.jpg is a named pipe"):
        stamp(tmp_path / "a.jpg")


def test_a_socket_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("a.jpg")
        with pytest.raises(InputError, match="is a socket"):
            stamp("a.jpg")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image at .*gone\.jpg"):
        stamp(tmp_path / "gone.jpg")
