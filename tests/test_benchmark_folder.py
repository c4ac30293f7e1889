"""Labelled photos of one's own: folders and CSV files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_sets import jpegs, ranking, table, trapezoid

from retrieval.benchmarks.folder import Folder, Labelled, Listed
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.data.snapshot import Snapshot
from retrieval.errors import InputError

ROWS = [("path", "landmark", "query"), ("a.jpg", "arch", "no"), ("b.jpg", "arch", "yes"), ("c.jpg", "dome", "no"),
        ("d.jpg", "dome", "yes"), ("e.jpg", "arch", "no"), ("f.jpg", "tower", "no")]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    jpegs(tmp_path, [row[0] for row in ROWS[1:]])
    return table(tmp_path / "photos.csv", *ROWS)


def test_marked_photos_are_sought_among_the_others(file: Path) -> None:
    benchmark = Listed(str(file))
    assert [Path(photo.path).name for photo in benchmark.queries] == ["b.jpg", "d.jpg"]
    assert [Path(photo.path).name for photo in benchmark.gallery] == ["a.jpg", "c.jpg", "e.jpg", "f.jpg"]
    assert [rows.tolist() for rows in benchmark.relevant] == [[0, 2], [1]] and benchmark.landmarks == ["arch", "dome"]
    assert [rows.tolist() for rows in benchmark.ignored] == [[], []]


def test_without_marks_every_photo_finds_the_others_of_its_landmark(file: Path) -> None:
    table(file, *(row[:2] for row in ROWS))
    benchmark = Listed(str(file))
    assert [rows.tolist() for rows in benchmark.relevant] == [[1, 4], [0, 4], [3], [2], [0, 1], []]
    assert [rows.tolist() for rows in benchmark.ignored] == [[i] for i in range(6)]


def test_a_list_of_a_folders_photos_judges_as_the_folder_does(photos: Path, tmp_path: Path) -> None:
    paths = sorted(path.relative_to(photos) for path in photos.glob("*/*.jpg"))
    cfg = load_yaml(CONFIGS / "benchmark" / "csv.yaml")
    cfg.file = str(table(tmp_path / "list.csv", ("path", "landmark"), *((path, path.parent) for path in paths)))
    cfg.root = str(photos)
    scores = np.random.default_rng(0).random((20, 20))
    listed, folder = build(cfg), Folder(str(photos))
    assert listed.queries == folder.queries and listed.judge(scores) == folder.judge(scores)


def test_photos_are_left_as_stored_where_that_is_asked_for(photos: Path, file: Path) -> None:
    for benchmark in (Folder(str(photos), upright=False), Listed(str(file), upright=False)):
        assert not any(photo.upright for photo in (*benchmark.gallery, *benchmark.queries))
        assert benchmark.convention["upright"] is False


def test_values_are_those_of_sorted_lists(photos: Path) -> None:
    benchmark = Folder(str(photos))
    scores = np.random.default_rng(0).permutation(np.arange(400.0)).reshape(20, 20)
    each = benchmark.per_query([scores[:7], scores[7:]])
    for q, (relevant, ignored) in enumerate(zip(benchmark.relevant, benchmark.ignored, strict=True)):
        found = [image in relevant for image in ranking(scores[q], ignored)]
        assert each["AP"][q] == pytest.approx(trapezoid(ranking(scores[q], ignored), relevant))
        assert each["recall@5"][q] == any(found[:5])
        r = len(relevant)
        assert each["AP@R"][q] == pytest.approx(sum(sum(found[: i + 1]) / (i + 1) for i in range(r) if found[i]) / r)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [("path", "label"), ("a.jpg", "arch")],
            "one column 'landmark', it has it not at all: .*accepted: label, path",
        ),
        ([("path", "landmark", "landmark"), ("a.jpg", "x", "y")], "one column 'landmark', it has it twice"),
        ([("path", "landmark"), ("a.jpg", "arch", "x")], "line 2: 3 fields where its header has 2"),
        ([("path", "landmark"), ("a.jpg", "")], "must have a landmark, a.jpg has none"),
        ([("path", "landmark"), ("a.jpg", "arch"), ("a.jpg", "dome")], "once, a.jpg stands there twice"),
        ([("path", "landmark"), ("a.jpg", "arch"), ("z.jpg", "arch")], "1 photos are not there: .*z.jpg"),
        ([("path", "landmark"), ("../a.jpg", "arch")], "photos must lie below"),
        (
            [("path", "landmark", "query"), ("a.jpg", "arch", "maybe")],
            "must say 1, true, yes, 0, false, no, got 'maybe'",
        ),
        ([("path", "landmark"), ("a.jpg", "arch"), ("c.jpg", "dome")], "at least one of the 2 queries"),
        ([("path", "landmark", "query"), ("a.jpg", "arch", 0), ("b.jpg", "arch", 0)], "at least one of the 0 queries"),
        ([], "must begin with a header"),
    ],
)
def test_a_mistake_in_the_list_is_refused(file: Path, rows: list, said: str) -> None:
    table(file, *rows)
    with pytest.raises(InputError, match=said):
        Listed(str(file))


def test_a_file_that_is_no_text_is_refused(file: Path) -> None:
    file.write_bytes(b"path,landmark\n\xff\xfe,x\n")
    with pytest.raises(InputError, match="cannot be read as CSV in UTF-8"):
        Listed(str(file))


def test_long_fields_and_quotes_are_read(file: Path) -> None:
    table(file, ("path", "landmark", "note"), *((f"{n}.jpg", '"Arc, de Triomphe"', "x" * 200_000) for n in "ab"))
    assert Listed(str(file)).landmarks == ["Arc, de Triomphe"] * 2


@pytest.fixture
def doubled(photos: Path, tmp_path: Path) -> Path:
    """Two landmarks of two photos, each with a copy of its first one; and one of arch under dome."""
    for landmark in ("arch", "dome"):
        (tmp_path / landmark).mkdir()
        for name, of in (("0.jpg", "0.jpg"), ("1.jpg", "1.jpg"), ("copy.jpg", "0.jpg")):
            shutil.copy(photos / landmark / of, tmp_path / landmark / name)
    shutil.copy(photos / "arch/1.jpg", tmp_path / "dome/other.jpg")
    return tmp_path


def settled(root: Path, duplicates: str) -> Labelled:
    benchmark, files = Folder(str(root), duplicates=duplicates), Snapshot()
    files.hash_all(benchmark.gallery)
    return benchmark.settled(files)


def test_files_with_the_same_bytes_are_counted_and_named(doubled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = settled(doubled, "keep")
    assert benchmark.counts == {"copies": 2, "contradictions": 1}
    said = capsys.readouterr().out
    assert f"{doubled}/arch/1.jpg is {doubled}/dome/other.jpg" in said
    assert f"{doubled}/dome/0.jpg is {doubled}/dome/copy.jpg" in said


def test_copies_that_are_kept_count_as_any_photo(doubled: Path) -> None:
    kept, plain = settled(doubled, "keep"), Folder(str(doubled))
    assert [rows.tolist() for rows in kept.relevant] == [rows.tolist() for rows in plain.relevant]
    assert kept.convention["duplicates"] == "keep"


def test_copies_of_a_query_are_junk_for_it_alone_under_any_landmark(doubled: Path) -> None:
    benchmark = settled(doubled, "junk")
    names = ["/".join(Path(photo.path).parts[-2:]) for photo in benchmark.gallery]
    found = {
        name: ([names[i] for i in relevant], [names[i] for i in ignored])
        for name, relevant, ignored in zip(names, benchmark.relevant, benchmark.ignored, strict=True)
    }
    assert found["arch/0.jpg"] == (["arch/1.jpg"], ["arch/0.jpg", "arch/copy.jpg"])
    assert found["arch/1.jpg"] == (["arch/0.jpg", "arch/copy.jpg"], ["arch/1.jpg", "dome/other.jpg"])
    assert found["dome/1.jpg"] == (["dome/0.jpg", "dome/copy.jpg", "dome/other.jpg"], ["dome/1.jpg"])
    assert benchmark.convention["duplicates"] == "junk"


def test_copies_are_refused_if_asked(doubled: Path) -> None:
    with pytest.raises(InputError, match=r"2 photos are copies .* 1 stand under several landmarks: .*arch/1\.jpg is"):
        settled(doubled, "refuse")


def test_copies_are_refused_at_the_start_where_the_files_were_verified(doubled: Path) -> None:
    with pytest.raises(InputError, match="2 photos are copies"):
        Folder(str(doubled), duplicates="refuse", verify=True)


def test_another_way_with_copies_is_refused(photos: Path) -> None:
    with pytest.raises(InputError, match="duplicates must be one of keep, junk, refuse, got 'drop'"):
        Folder(str(photos), duplicates="drop")


def test_a_benchmark_of_nothing_but_copies_has_nothing_to_find_without_them(photos: Path, tmp_path: Path) -> None:
    for landmark in ("arch", "dome"):
        (tmp_path / landmark).mkdir()
        for name in ("0.jpg", "copy.jpg"):
            shutil.copy(photos / landmark / "0.jpg", tmp_path / landmark / name)
    with pytest.raises(InputError, match="are copies of their queries"):
        settled(tmp_path, "junk")
