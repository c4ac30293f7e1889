"""Reports of small run folders, written as a run writes them."""

import csv
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retrieval.export import command
from retrieval.report import exports, notes, panels, pictures, runs, spread, tables, writing
from retrieval.report.__main__ import main
from retrieval.report.photos import thumbnail

Write = Callable[..., Path]


def result(value: float | None = 0.5, **other: Any) -> dict[str, Any]:
    """A row of results.json."""
    row = {
        "benchmark": "landmarks", "backbone": "resnet10t", "pooling": "gem", "head": "none", "resolution": 224,
        "scales": [1.0], "seed": 0, "untrained": False, "metrics": {"mAP": value, "mP@1": value}, "p": 3.0,
        "selected_by": "last epoch", "queries": 48, "images": 480, "skipped": 0, "dtype": "float32", "device": "cpu",
        "settings": "aaaaaaaaaa", "config": "c", "versions": {"torch": "2.9.0"}, "seconds": 1.5,
    }  # fmt: skip
    return row | other


def shown(folder: Path) -> list[list[str]]:
    """The cells of the first table of a folder's runs."""
    return [[cell.text for cell in line] for line in tables.tables(runs.collect([folder]).rows)[0].lines]


def picture(path: Path, size: tuple[int, int] = (640, 480), **save: Any) -> str:
    Image.new("RGB", size, "steelblue").save(path, **save)
    return str(path)


def ranking(query: str, top: list[str], **other: Any) -> dict[str, Any]:
    """An item of rankings.json; the photos are marked right, wrong and junk in turn."""
    marks = ["right", "wrong", "junk"]
    found = [{"path": path, "box": None, "score": 0.9, "mark": marks[i % 3]} for i, path in enumerate(top)]
    row = {
        "benchmark": "landmarks", "resolution": 224, "untrained": False, "pooling": "gem", "backbone": "resnet10t",
        "seed": 0, "settings": "aaaaaaaaaa", "query": {"path": query, "box": [10, 10, 300, 200]}, "ap": 0.425,
        "top": found,
    }  # fmt: skip
    return row | other


def page_of(folder: Path) -> str:
    return writing.write([folder], folder).read_text()


def test_mean_and_sample_standard_deviation() -> None:
    assert spread.mean_and_sd([0.1, 0.2, 0.6]) == pytest.approx((0.3, math.sqrt((0.04 + 0.01 + 0.09) / 2)))


def test_seeds_share_a_mean(write: Write, tmp_path: Path) -> None:
    for seed, value in enumerate((0.40, 0.42, 0.47)):
        write(f"seed{seed}", result(value, seed=seed))
    assert shown(tmp_path)[0][3:5] == ["3", "43.0 ± 3.6"]


def test_other_settings_share_no_mean(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4))
    write("b", result(0.6, seed=1, settings="bbbbbbbbbb"))
    assert [line[1] for line in shown(tmp_path)] == ["gem #aaaaaaa", "gem #bbbbbbb"]


def test_other_evaluation_shares_no_mean(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4, dtype="float32"))
    write("b", result(0.6, seed=1, dtype="bfloat16"))
    assert [line[2] for line in shown(tmp_path)] == ["dtype bfloat16", "dtype float32"]


def test_untrained_stands_beneath_trained_whatever_its_hash(write: Write, tmp_path: Path) -> None:
    write("a", result(0.2, untrained=True, settings="0000"), result(0.4), result(0.3, pooling="gap", settings="1111"))
    assert [line[1:3] for line in shown(tmp_path)] == [["gap", "trained"], ["gem", "trained"], ["gem", "untrained"]]


@pytest.mark.parametrize("of_untrained", [0.9, 0.2])
def test_the_best_value_of_a_column_is_bold_trained_or_not(write: Write, tmp_path: Path, of_untrained: float) -> None:
    write("a", result(of_untrained, untrained=True), result(0.4), result(0.3, pooling="gap"))
    assert main([str(tmp_path)]) == 0
    shown, best = {"md": "**{}**", "html": "<strong>{}</strong>", "tex": r"\textbf{{{}}}"}, max(of_untrained, 0.4)
    for kind, bold in shown.items():
        text = (tmp_path / f"report.{kind}").read_text()
        assert [value for value in ("90.0", "40.0", "30.0", "20.0") if bold.format(value) in text] == [f"{100 * best}"]
        assert "bold: the best value of its column, trained or not." in text


def test_the_best_is_that_of_those_judged_on_the_same_photos(write: Write, tmp_path: Path) -> None:
    others = [result(0.9 - i / 10, images=40, pooling=pooling) for i, pooling in enumerate(("gem", "gap"))]
    write("a", *others, result(0.4), result(0.3, pooling="gap"))
    rows = runs.collect([tmp_path]).rows
    cells = [line[5] for line in tables.tables(rows)[0].lines]
    assert [cell.text for cell in cells if cell.best] == ["90.0", "40.0"]
    assert any("bold: the best value of its column, of those evaluated on" in said for said in notes.notes(rows))


def test_untrained_lines_are_pale_beside_trained_ones_alone(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4, untrained=True), result(0.3, untrained=True, pooling="gap", settings="bbbb"))
    assert 'class="untrained"' not in page_of(tmp_path)
    write("b", result(0.4))
    assert 'class="untrained"' in page_of(tmp_path)


def test_options_name_a_line_and_numbers_order_them(write: Write, tmp_path: Path) -> None:
    for options in ("p=10", "p=5", ""):
        write(f"a{options}", result(options=options, settings=f"{options}hash"))
    assert [line[1] for line in shown(tmp_path)] == ["gem", "gem (p=5)", "gem (p=10)"]


def test_a_hash_stays_where_options_read_alike(write: Write, tmp_path: Path) -> None:
    for settings in ("aaaaaaaa", "bbbbbbbb"):
        write(settings, result(options="p=5", settings=settings))
    assert [line[1] for line in shown(tmp_path)] == ["gem (p=5) #aaaaaaa", "gem (p=5) #bbbbbbb"]


def test_a_row_without_options_takes_those_of_its_settings(write: Write, tmp_path: Path) -> None:
    write("old", result(resolution=224))
    write("new", result(resolution=320, options="p=5"))
    assert [line[1] for line in shown(tmp_path)] == ["gem (p=5)"]


def test_a_backbone_trained_with_another_pooling_is_said(write: Write, tmp_path: Path) -> None:
    write("a", result(pooling="max", options="", trained_with="gem p=5"))
    assert shown(tmp_path)[0][1] == "max (trained with gem p=5)"


def test_what_sets_a_training_apart_is_said(write: Write, tmp_path: Path) -> None:
    for loss, settings in (("arcface", "aaaa"), ("smooth_ap", "bbbb")):
        training = {"loss": loss, "sampler": "landmarks", "resolutions": [224, 320]}
        write(loss, result(settings=settings, training=training))
    assert [line[1] for line in shown(tmp_path)] == ["gem (loss=arcface)", "gem (loss=smooth_ap)"]


def test_curves_of_training_belong_to_the_pooling_trained(write: Write, tmp_path: Path) -> None:
    other = result(pooling="max", trained_with="gem", settings="bbbb")
    write("a", other, result(), history="epoch,step,p\n0,0,3.0\n0,1,3.1\n")
    (curve,) = pictures.charts_of(runs.collect([tmp_path]))["p"].panels[""]
    assert curve.label == "gem"


def test_csv_has_the_options(write: Write, tmp_path: Path) -> None:
    write("a", result(options="p=5"))
    writing.write([tmp_path], tmp_path)
    with (tmp_path / "report.csv").open() as lines:
        assert [line["options"] for line in csv.DictReader(lines)] == ["p=5"]


def test_medium_comes_first(write: Write, tmp_path: Path) -> None:
    write("a", result(metrics={"easy/mAP": 0.6, "hard/mAP": 0.2, "medium/mAP": 0.4, "medium/mP@10": 0.5}))
    titles = [table.title for table in tables.tables(runs.collect([tmp_path]).rows)]
    assert titles == ["mAP, Medium", "mAP, Hard", "mAP, Easy", "mP@k, Medium"]


def test_ranks_are_ordered_as_numbers(write: Write, tmp_path: Path) -> None:
    write("a", result(metrics={"mP@10": 0.1, "mP@5": 0.2, "mP@1": 0.3}))
    header = tables.tables(runs.collect([tmp_path]).rows)[0].header
    assert [title.split()[1] for title in header[4:7]] == ["mP@1,", "mP@5,", "mP@10,"]


def test_repeated_evaluation_counts_once(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4), result(0.5))
    assert shown(tmp_path)[0][3:5] == ["1", "50.0"]


def test_overlapping_folders_count_once(write: Write, tmp_path: Path) -> None:
    folder = write("a", result(0.4))
    assert len(runs.collect([tmp_path, folder]).rows) == 1


def test_copied_run_that_disagrees_is_said(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4))
    write("b", result(0.5))
    assert "differ with the same settings and seed 0" in runs.collect([tmp_path]).warnings[0]


def exported(lost: float) -> dict[str, Any]:
    """A row of export.json whose file was judged."""
    judged = {"benchmark": "folder", "metric": "mAP", "value": 0.5 - lost, "interval": [0.4, 0.6], "lost": lost}
    about = {"model": "gem", "file": "model.onnx", "format": "onnx", "dtype": "int8", "device": "CPU", "threads": 2}
    return about | {
        "bytes": 9e6,
        "resolution": 64,
        "cosine": 1.0,
        "seconds": 0.1,
        "why_fixed": None,
        "judged": [judged],
    }


@pytest.mark.parametrize(
    ("lost", "said", "in_csv"),
    [(0.191, "lost 19.10", -19.1), (-0.0014, "gained 0.14", 0.14), (0.0, "lost 0.00", 0.0), (-1e-9, "lost 0.00", 0.0)],
)
def test_a_loss_is_a_number_above_0_and_a_gain_is_called_one(lost: float, said: str, in_csv: float) -> None:
    table = exports.table([exported(lost)])
    assert table.lines[0][-1].text == said and table.records()[1][-1] == pytest.approx(in_csv, abs=1e-6)
    assert f"folder mAP {50 - 100 * lost:.1f} ({said} points)" in command.printed([exported(lost)])


def test_p_per_channel_shows_its_range(write: Write, tmp_path: Path) -> None:
    write("a", result(p={"mean": 3.2, "min": 1.5, "max": 6.0}))
    assert shown(tmp_path)[0][-1] == "3.20 (1.50 to 6.00)"


@pytest.mark.parametrize("value", [math.nan, None])
def test_nan_is_shown_and_the_rest_too(write: Write, tmp_path: Path, value: float | None) -> None:
    write("a", result(value), result(0.3, pooling="gap"))
    assert [line[4] for line in shown(tmp_path)] == ["30.0", "NaN"]


def test_nan_is_warned_of(write: Write, tmp_path: Path) -> None:
    write("a", result(math.nan))
    assert "NaN for mAP" in runs.collect([tmp_path]).warnings[0]


@pytest.mark.parametrize("bad", [{"pooling": "gem"}, result(resolution="224"), result(metrics={"mAP": "high"}), 3])
def test_bad_row_is_left_out_with_a_warning(write: Write, tmp_path: Path, bad: Any) -> None:
    write("a", bad, result(0.3))
    found = runs.collect([tmp_path])
    assert len(found.rows) == 1 and "results.json, item 1 is left out" in found.warnings[0]


def test_broken_json_is_named(write: Write, tmp_path: Path) -> None:
    write("a", result(0.3))
    broken = write("b") / "results.json"
    broken.write_text("[{")
    assert f"{broken} is not JSON" in runs.collect([tmp_path]).warnings[0]


def test_unfinished_run_is_listed(write: Write, tmp_path: Path) -> None:
    write("a", result())
    (tmp_path / "runs/b/model").mkdir(parents=True)
    for place in ("b", "b/model"):
        (tmp_path / "runs" / place / "config.yaml").write_text("seed: 1\n")
    assert runs.collect([tmp_path]).unfinished == [tmp_path / "runs/b"]


def test_absent_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2 and str(tmp_path / "nowhere") in capsys.readouterr().err


def test_folder_without_results_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2 and f"{tmp_path} is empty" in capsys.readouterr().err


def test_notes_state_what_selected_the_model(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        write(f"{seed}", result(seed=seed, selected_by=f"mAP 0.41{seed} on 3 held-out landmarks"))
    assert "Model selected by: mAP on 3 held-out landmarks." in notes.notes(runs.collect([tmp_path]).rows)


def test_csv_has_a_line_per_row(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4), result(0.3, resolution=320, scales=[1.0, 0.5]))
    writing.write([tmp_path], tmp_path)
    with (tmp_path / "report.csv").open() as lines:
        read = [(line["mAP"], line["scales"], line["versions/torch"]) for line in csv.DictReader(lines)]
    assert read == [("0.4", "1.0", "2.9.0"), ("0.3", "1.0 0.5", "2.9.0")]


def test_page_asks_for_nothing(write: Write, tmp_path: Path) -> None:
    photo = picture(tmp_path / "photo.jpg")
    history = "epoch,step,train/loss,p\n0,0,0.5,3.0\n0,1,0.4,\n0,2,,3.1\n"
    write("a", result(), result(0.6, resolution=320), rankings=[ranking(photo, [photo])], history=history)
    markup = re.sub("<script.*?</script>", "", page_of(tmp_path), flags=re.DOTALL)  # tests/test_page.py runs these
    links = re.findall(r"""(?:src|href)\s*=\s*["']?(.{5})|url\(|@import""", markup)
    assert links and all(link == "data:" or link.startswith("#") for link in links)


def test_photos_are_inlined(write: Write, tmp_path: Path) -> None:
    photo = picture(tmp_path / "photo.jpg")
    write("a", result(), rankings=[ranking(photo, [photo, photo])])
    assert page_of(tmp_path).count('src="data:image/webp;base64,') == 3


def test_missing_photo_has_a_placeholder(write: Write, tmp_path: Path) -> None:
    write("a", result(), rankings=[ranking(picture(tmp_path / "photo.jpg"), [str(tmp_path / "gone.jpg")])])
    assert "photo missing: gone.jpg" in page_of(tmp_path)


def test_marks_are_words_and_signs_too(write: Write, tmp_path: Path) -> None:
    photo = picture(tmp_path / "photo.jpg")
    write("a", result(), rankings=[ranking(photo, [photo] * 3)])
    found = re.findall(r'aria-label="(right|wrong|junk)">(.)<', page_of(tmp_path))
    assert found == [("right", "✓"), ("wrong", "✗"), ("junk", "○")]


def test_names_are_escaped(write: Write, tmp_path: Path) -> None:
    photo = picture(tmp_path / "a<b>.jpg")
    row = result(pooling="<script>x</script>", benchmark="<i>")
    write("a", row, rankings=[ranking(photo, [photo], pooling=row["pooling"], benchmark="<i>")], config="<b>")
    assert not re.search("<script>x|<i>|<b>\\.jpg|<pre><b>", page_of(tmp_path))


def test_thumbnail_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    photo = thumbnail(picture(tmp_path / "photo.jpg", (640, 480), exif=exif))
    assert photo is not None and photo.size == (90, 120)


def test_box_is_drawn_to_scale(tmp_path: Path) -> None:
    photo = thumbnail(picture(tmp_path / "photo.jpg"), (160, 120, 320, 240))
    assert photo is not None and photo.getpixel((40, 45)) == (255, 176, 0) != photo.getpixel((60, 45))


def test_per_channel_p_has_band_and_deciles() -> None:
    history = {name: {0: 1.0, 5: 2.0} for name in ("p/mean", "p/min", "p/max", *(f"p/d{i}" for i in range(1, 10)))}
    (curve,) = panels.channel_panels([panels.Training("gem", 0, "", "runs/a", history)])["gem, seed 0"]
    assert curve.x == [0, 5] and [len(band) for band in curve.bands] == [2] * 5


def test_charts_are_files(write: Write, tmp_path: Path) -> None:
    photo = picture(tmp_path / "photo.jpg")
    history = "epoch,step,train/loss,p\n0,0,0.5,3.0\n0,1,0.4,3.1\n"
    write("a", result(), result(0.6, resolution=320), rankings=[ranking(photo, [photo, "gone"])], history=history)
    assert main([str(tmp_path), "--charts", str(tmp_path / "charts")]) == 0
    names = sorted(path.name for path in (tmp_path / "charts").iterdir())
    assert names == ["p.svg", "ranking.png", "resolution.svg", "training.svg"]


def test_insert_replaces_only_between_the_markers(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- demo -->\nold 12.3\n<!-- /demo -->\nafter\n")
    assert main([str(tmp_path), "--insert", str(readme), "--marker", "demo"]) == 0
    text = readme.read_text()
    assert re.fullmatch(r"before\n<!-- demo -->\n.*\*\*40\.0\*\*.*\n<!-- /demo -->\nafter\n", text, re.DOTALL)
    assert "old 12.3" not in text


def test_tables_are_inserted_by_their_titles(write: Write, tmp_path: Path) -> None:
    write("a", result())
    readme = tmp_path / "README.md"
    readme.write_text("<!-- demo -->\n<!-- /demo -->")
    words = [str(tmp_path), "--insert", str(readme), "--marker", "demo", "--only", "mP@k"]
    assert main(words) == 0 and "**mP@k**" in readme.read_text() and "**mAP**" not in readme.read_text()
    assert "**mAP**" in (tmp_path / "report.md").read_text()


def test_a_title_that_no_table_has_is_refused_with_those_there_are(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a", result())
    words = [str(tmp_path), "--insert", str(tmp_path / "README.md"), "--only", "recall"]
    assert main(words) == 2 and "there are: mAP, mP@k" in capsys.readouterr().err


def test_insert_twice_changes_nothing_more(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("<!-- demo -->\n<!-- /demo -->")
    writing.insert(file, "demo", "table")
    once = file.read_text()
    writing.insert(file, "demo", "table")
    assert file.read_text() == once


def test_absent_markers_are_named(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("a", result())
    (tmp_path / "README.md").write_text("nothing here\n")
    assert main([str(tmp_path), "--insert", str(tmp_path / "README.md"), "--marker", "demo"]) == 2
    assert "<!-- demo -->" in capsys.readouterr().err
