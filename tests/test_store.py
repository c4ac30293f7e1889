"""A store ends with the same bytes whoever fills it, however often they are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from retrieval import store
from retrieval.embedder import Embedder, from_config
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.store import Store, fill

ROOT = Path(__file__).parent.parent
ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
BATCHES = [[7, 3], *([i] for i in range(40) if i not in (3, 7))]

# Describes photo i by row i, one batch in a twentieth of a second, and notes each photo in a file.
WORKER = """
import sys, time
import numpy as np
from pathlib import Path
from retrieval.store import Store, fill
rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
batches = [[7, 3], *([i] for i in range(40) if i not in (3, 7))]
def describe(batches):
    for indices in batches:
        time.sleep(0.05)
        with open(sys.argv[2], "a") as file:
            file.write("".join(f"{i}\\n" for i in indices))
        yield indices, [rows[indices]]
Path(sys.argv[2]).touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.01)
fill([Store(Path(sys.argv[1]), {"of": "noise"}, 40, 3, size=4)], lambda: batches, describe)
"""


def describe(batches: Iterable[list[int]]) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    for indices in batches:
        yield indices, [ROWS[indices]]


def started(folder: Path, seen: Path, after: Path = ROOT) -> subprocess.Popen:
    """A process that notes what it describes in `seen`, and begins when `after` exists."""
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(seen), str(after)], cwd=ROOT)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    fill([Store(tmp_path / "whole", {"of": "noise"}, 40, 3, size=4)], lambda: BATCHES, describe)
    return contents(tmp_path / "whole")


def test_rows_come_in_the_order_of_the_photos(tmp_path: Path) -> None:
    (filled,) = fill([Store(tmp_path, {}, 40, 3, size=4)], lambda: BATCHES, describe)
    assert np.array_equal(filled.all(), ROWS)


def test_a_killed_process_is_gone_on_with_to_the_same_bytes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    folder, seen = tmp_path / "killed", tmp_path / "seen"
    for _ in range(2):
        process = started(folder, seen)
        before = len(list(folder.glob("shard-*.npy")))
        while len(list(folder.glob("shard-*.npy"))) < before + 2:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert contents(folder) != whole
    assert started(folder, seen).wait() == 0
    assert contents(folder) == whole
    assert len(seen.read_text().split()) <= 40 + 2 * 5  # what a kill cost: at most the shard it met


def test_two_processes_describe_each_photo_once(tmp_path: Path, whole: dict[str, bytes]) -> None:
    seen = [tmp_path / "seen0", tmp_path / "seen1"]
    processes = [started(tmp_path / "shared", one, tmp_path / "go") for one in seen]
    while not all(one.exists() for one in seen):
        assert not any(process.poll() for process in processes)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [process.wait() for process in processes] == [0, 0]
    described = [sorted(map(int, one.read_text().split())) for one in seen]
    assert sorted(described[0] + described[1]) == list(range(40)) and all(described)
    assert contents(tmp_path / "shared") == whole


def test_what_is_there_is_not_described_again(tmp_path: Path) -> None:
    fill([Store(tmp_path, {}, 40, 3, size=4)], lambda: BATCHES, describe)
    (again,) = fill(
        [Store(tmp_path, {}, 40, 3, size=4)], lambda: pytest.fail("planned"), lambda _: pytest.fail("described")
    )
    assert np.array_equal(again.all(), ROWS)


def test_a_shard_that_fails_is_left_to_the_next_call(tmp_path: Path) -> None:
    def failing(batches: Iterable[list[int]]) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        for indices in batches:
            if 20 in indices:
                raise RuntimeError("cut off")
            yield indices, [ROWS[indices]]

    with pytest.raises(RuntimeError, match="cut off"):
        fill([Store(tmp_path, {}, 40, 3, size=4)], lambda: BATCHES, failing)
    assert 0 < len(list(tmp_path.glob("shard-*.npy"))) < 10
    assert np.array_equal(fill([Store(tmp_path, {}, 40, 3, size=4)], lambda: BATCHES, describe)[0].all(), ROWS)


def test_stores_of_one_pass_are_filled_together_and_what_one_has_is_kept(tmp_path: Path) -> None:
    fill([Store(tmp_path / "a", {}, 40, 3, size=4)], lambda: BATCHES, describe)
    kept = contents(tmp_path / "a")
    both = [Store(tmp_path / "a", {}, 40, 3, size=4), Store(tmp_path / "b", {}, 40, 2, size=4)]
    filled = fill(both, lambda: BATCHES, lambda b: ((i, [np.zeros((len(i), 3)), ROWS[i, :2]]) for i in b))
    assert contents(tmp_path / "a") == kept and np.array_equal(filled[1].all(), ROWS[:, :2])


def test_a_store_made_otherwise_is_refused_naming_the_difference(tmp_path: Path) -> None:
    Store(tmp_path, {"resolution": 224, "scales": [1.0]}, 40, 3, size=4)
    with pytest.raises(InputError, match="resolution is 224 there, 448 was asked for"):
        Store(tmp_path, {"resolution": 448, "scales": [1.0]}, 40, 3, size=4)


def test_float16_takes_half_the_room(tmp_path: Path) -> None:
    (half,) = fill([Store(tmp_path, {}, 40, 3, "float16")], lambda: BATCHES, describe)
    assert np.array_equal(half.all(), ROWS.astype(np.float16).astype(np.float32))
    assert np.load(tmp_path / "shard-00000.npy").dtype == np.float16


def test_another_kind_of_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float32 or float16, got 'int8'"):
        Store(tmp_path, {}, 40, 3, "int8")


def test_another_weight_is_another_fingerprint() -> None:
    torch.manual_seed(0)
    parts = {"backbone": {"_target_": "retrieval.backbones.TimmBackbone", "name": "test_resnet"}}
    parts |= {"pooling": {"_target_": "retrieval.poolings.GeM"}, "head": {"_target_": "torch.nn.Identity"}}
    network: Embedder = from_config(parts)
    before = store.fingerprint(network)
    assert store.fingerprint(network) == before
    with torch.no_grad():
        network.pooling.p += 1e-3
    assert store.fingerprint(network) != before


def test_what_made_descriptors_names_the_weights_and_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"backbone": {"_target_": "retrieval.backbones.TimmBackbone", "name": "test_resnet"}}
    parts |= {"pooling": {"_target_": "retrieval.poolings.GeM"}, "head": {"_target_": "torch.nn.Identity"}}
    network = from_config(parts)

    def made() -> dict:
        return store.made_of(network, Extract([48]), 48)

    before = made()
    with torch.no_grad():
        network.pooling.p += 1e-3
    assert {key for key, value in made().items() if value != before[key]} == {"weights"}
    monkeypatch.setattr(store, "CODE", "other")
    assert {key for key, value in made().items() if value != before[key]} == {"weights", "code"}
