"""The one path by which anything is evaluated."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from small_sets import jpegs

from retrieval import config, embedder, evaluation, extraction, results, subjects, whitening
from retrieval.benchmarks import revisited
from retrieval.benchmarks.folder import Folder
from retrieval.benchmarks.revisited import Revisited, checked
from retrieval.data import contents, images, landmarks
from retrieval.data.images import UnreadablePhoto
from retrieval.data.snapshot import Snapshot
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.passes import Pass
from retrieval.report import lines, runs

TRUTH = {"imlist": ["arch/0.jpg", "arch/1.jpg", "dome/0.jpg"], "qimlist": ["arch/2.jpg"]}
LABELS = {"bbx": [4.6, 2.2, 60.1, 61.0], "easy": [0], "hard": [1], "junk": []}


def off_the_shelf(photos: Path, out: Path, *words: str) -> list[results.Row]:
    given = f"backbone=timm backbone.name=test_resnet benchmark=folder benchmark.folder.root={photos}".split()
    cfg = config.compose("eval", [*given, "extract.workers=0", *words], out)
    return evaluation.from_config(cfg, set())


def test_off_the_shelf_rows_are_marked_untrained_one_a_resolution(photos: Path, tmp_path: Path) -> None:
    rows = off_the_shelf(photos, tmp_path, "extract.resolutions=[48,96]", "pooling=gap")
    assert [row["resolution"] for row in rows] == [48, 96] and all(row["untrained"] for row in rows)
    assert json.loads((tmp_path / "results.json").read_text()) == rows


def test_a_run_is_judged_in_its_own_folder_and_rows_are_appended(photos: Path, tmp_path: Path) -> None:
    first = off_the_shelf(photos, tmp_path / "model", "extract.resolutions=[48]")
    words = [f"run={tmp_path / 'model'}", "benchmark=folder", f"benchmark.folder.root={photos}"]
    again = evaluation.from_config(
        config.compose("eval", [*words, "extract.resolutions=[48]"], tmp_path / "new"), set()
    )
    assert again[0]["metrics"] == pytest.approx(first[0]["metrics"])
    assert len(json.loads((tmp_path / "model" / "results.json").read_text())) == 2


def test_a_model_that_was_never_trained_stays_untrained_as_a_run(photos: Path, tmp_path: Path) -> None:
    off_the_shelf(photos, tmp_path / "model", "extract.resolutions=[48]")
    words = [f"run={tmp_path / 'model'}", "benchmark=folder", f"benchmark.folder.root={photos}"]
    again = evaluation.from_config(
        config.compose("eval", [*words, "extract.resolutions=[48]"], tmp_path / "new"), set()
    )
    assert again[0]["untrained"]


def test_a_model_that_sees_all_photos_alike_scores_chance_and_is_warned_of(tmp_path: Path) -> None:
    jpegs(tmp_path / "grey", [f"{landmark}/{i}.jpg" for landmark in range(10) for i in range(10)], grey=[90])
    words = ["extract.resolutions=[32]", "evaluate.poolings=[gem,strided_conv]", "extract.batch_size=7"]
    with pytest.warns(UserWarning, match=r"test_resnet strided_conv gives all 100 queries of folder .* at 32 pixels"):
        rows = off_the_shelf(tmp_path / "grey", tmp_path / "out", *words)
    assert [round(100 * row["metrics"]["mAP"], 2) for row in rows] == [11.03, 11.03]
    assert [row["tied_queries"] for row in rows] == [100, 100]


def test_photos_that_are_told_apart_are_not_warned_of(photos: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        (row,) = off_the_shelf(photos, tmp_path, "extract.resolutions=[48]")
    assert not any("one descriptor" in str(each.message) for each in said) and row["tied_queries"] == 0


def test_an_output_folder_with_another_run_is_refused(photos: Path, tmp_path: Path) -> None:
    off_the_shelf(photos, tmp_path, "extract.resolutions=[48]")
    with pytest.raises(InputError, match="holds another run"):
        off_the_shelf(photos, tmp_path, "extract.resolutions=[48]")


def test_a_backbone_set_by_hand_is_called_by_its_own_name(tmp_path: Path) -> None:
    cfg = config.compose("eval", ["backbone=resnet18", "backbone.name=resnet34"], tmp_path)
    assert subjects.backbone_name(cfg) == "resnet34"


def test_poolings_that_differ_in_a_setting_share_no_kept_descriptors(photos: Path, tmp_path: Path) -> None:
    described = []
    for levels in (1, 3):
        given = ["backbone=timm", "backbone.name=test_resnet", "pooling=rmac", f"pooling.levels={levels}"]
        cfg = config.compose("eval", given, tmp_path)
        model, about = embedder.from_config(cfg), subjects.subject(cfg, True, "")
        parts, how = evaluation.parted({"folder": Folder(str(photos))}), Extract([96], workers=0)
        described += Pass([model], [about], how, tmp_path / "cache", tmp_path).described(parts, 96)
    assert not np.allclose(described[0].all(), described[1].all())


def test_a_model_given_beside_a_run_is_refused(photos: Path, tmp_path: Path) -> None:
    cfg = config.compose("eval", [f"run={tmp_path}", "benchmark=folder", f"benchmark.folder.root={photos}"], tmp_path)
    with pytest.raises(InputError, match="already has its own pooling"):
        evaluation.from_config(cfg, {"pooling", "benchmark"})


def test_every_photo_of_a_folder_finds_the_others_of_its_landmark(photos: Path) -> None:
    benchmark = Folder(str(photos))
    labels = np.repeat(np.arange(4), 5)
    values = benchmark.judge((labels[:, None] == labels).astype(float))
    assert values == dict.fromkeys(("mAP", "mP@1", "mP@5", "mP@10", "recall@1", "recall@5", "recall@10", "mAP@R"), 1)


def test_a_photo_does_not_find_itself(photos: Path) -> None:
    scores = np.eye(20) + 0.1 * (np.repeat(np.arange(4), 5)[:, None] != np.repeat(np.arange(4), 5))
    assert Folder(str(photos)).judge(scores)["mP@1"] == 0


def test_rankings_leave_the_query_out_and_mark_what_was_found(photos: Path, tmp_path: Path) -> None:
    off_the_shelf(photos, tmp_path, "extract.resolutions=[48]")
    for entry in json.loads((tmp_path / "rankings.json").read_text()):
        found = [one["path"] for one in entry["top"]]
        assert len(found) == 10 and entry["query"]["path"] not in found
        landmark = Path(entry["query"]["path"]).parent
        assert [one["mark"] == "right" for one in entry["top"]] == [Path(path).parent == landmark for path in found]


def test_queries_in_the_revisited_form_are_cropped_unless_told_otherwise(photos: Path) -> None:
    truth = {**TRUTH, "gnd": [LABELS]}
    assert Revisited(photos, truth).queries[0].box == (4.6, 2.2, 60.1, 61.0)
    assert Revisited(photos, truth, crop=False).queries[0].box is None


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        (TRUTH, "needs imlist, qimlist and gnd"),
        ({**TRUTH, "gnd": []}, "0 entries for 1 queries"),
        ({**TRUTH, "gnd": [{**LABELS, "junk": [3]}]}, "3 is outside imlist"),
        ({**TRUTH, "gnd": [{**LABELS, "junk": [0]}]}, "an image has two labels"),
    ],
)
def test_a_ground_truth_that_does_not_fit_is_refused(truth: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        checked(truth)


def test_the_embedded_landmarks_are_a_revisited_benchmark(tmp_path: Path) -> None:
    root = landmarks.write(tmp_path / "set", train_landmarks=2, test_landmarks=2, photos=6, distractors=3)
    benchmark = Revisited(root / "test", json.loads((root / "gnd.json").read_text()))
    perfect = np.zeros((len(benchmark.queries), len(benchmark.gallery)))
    for row, relevant in zip(perfect, benchmark.relevant, strict=True):
        row[relevant] = 1
    assert benchmark.judge(perfect)["medium/mAP"] == 1


def whitened(photos: Path, out: Path, *words: str) -> results.Row:
    """One row of GeM at 48 px, whitened by PCA to four dimensions that were fitted to the same photos."""
    chosen = ["whitening=pca", "whitening.dim=4", "whitening_set=folder", f"whitening_set.root={photos}"]
    (row,) = off_the_shelf(photos, out, "extract.resolutions=[48]", *chosen, *words)
    return row


def test_a_row_says_how_descriptors_were_whitened_and_what_was_fitted_lies_in_the_run(
    photos: Path, tmp_path: Path
) -> None:
    row = whitened(photos, tmp_path)
    assert row["whitening"].startswith("pca 4, ") and row["dim"] == 4
    (file,) = (tmp_path / "whitening").glob("*.safetensors")
    listed = Folder(str(photos)).gallery
    rows = extraction.describe(embedder.load(tmp_path), listed, 48)
    values = Folder(str(photos)).judge((white := whitening.load(file)(rows)) @ white.T)
    assert values == pytest.approx(row["metrics"], abs=1e-6)


def test_a_row_says_how_it_was_re_ranked(photos: Path, tmp_path: Path) -> None:
    plain = off_the_shelf(photos, tmp_path / "plain", "extract.resolutions=[48]")[0]
    words = ["extract.resolutions=[48]", "rerank=[database_augmentation,alpha_qe]", "rerank.alpha_qe.k=3"]
    again = off_the_shelf(photos, tmp_path / "again", *words)[0]
    assert plain["rerank"] is None and "alpha_qe k=3" in again["rerank"] and not again["junk_known"]
    assert again["rerank"].startswith("database_augmentation")
    assert again["metrics"] != plain["metrics"]


def test_an_approximate_search_says_what_it_found_of_the_exact_one(photos: Path, tmp_path: Path) -> None:
    words = ["extract.resolutions=[48]", "search=faiss", "search.factory=HNSW8", "search.neighbours=15"]
    row = off_the_shelf(photos, tmp_path, *words)[0]
    assert row["search"].startswith("HNSW8") and 0.5 < row["search_recall"]["recall@10"] <= 1


def test_the_values_of_every_query_are_kept(photos: Path, tmp_path: Path) -> None:
    (row,) = off_the_shelf(photos, tmp_path, "extract.resolutions=[48]")
    kept = np.load(tmp_path / row["per_query"])
    assert np.mean(kept["AP"]) == pytest.approx(row["metrics"]["mAP"])
    assert list(kept["queries"][:2]) == ["arch/0.jpg", "arch/1.jpg"] and list(np.unique(kept["landmarks"])) == [
        "arch",
        "bridge",
        "castle",
        "dome",
    ]


def test_a_mean_stands_inside_its_interval_over_landmarks(photos: Path, tmp_path: Path) -> None:
    (row,) = off_the_shelf(photos, tmp_path, "extract.resolutions=[48]")
    low, high = row["intervals"]["mAP"]
    assert low < row["metrics"]["mAP"] < high
    assert row["macro"]["mAP"] == pytest.approx(row["metrics"]["mAP"])  # as many photos of each landmark


def test_what_is_kept_is_not_described_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["extract.resolutions=[48]", f"cache={tmp_path / 'cache'}"]
    before = off_the_shelf(photos, tmp_path / "first", *words)[0]
    monkeypatch.setattr(extraction, "vectors", lambda *_: pytest.fail("described again"))
    again = off_the_shelf(photos, tmp_path / "second", *words, "rerank=[alpha_qe]")[0]
    assert again["backbone"] == before["backbone"]


def test_a_named_store_made_otherwise_is_refused(photos: Path, tmp_path: Path) -> None:
    store = f"extract.store={tmp_path / 'store'}"
    off_the_shelf(photos, tmp_path / "first", "extract.resolutions=[48]", store)
    with pytest.raises(InputError, match=r"made otherwise: scales is \[1.0\] there, \[1.0, 0.5\] was asked for"):
        off_the_shelf(photos, tmp_path / "second", "extract.resolutions=[48]", "extract.scales=[1.0,0.5]", store)


def test_what_benchmarks_share_is_one_part_and_distractors_are_another(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "castle", tmp_path / "extra")
    truth = {**TRUTH, "gnd": [LABELS]}
    both = {
        "one": Revisited(photos, truth, distractors=str(tmp_path / "extra")),
        "two": Revisited(photos, {**truth, "imlist": TRUTH["imlist"][::-1]}, distractors=str(tmp_path / "extra")),
    }
    parts = evaluation.parted(both)
    assert {name: len(part) for name, part in parts.items()} == {"one+two": 4, "distractors": 5}


def test_of_two_processes_both_describe_and_one_judges(photos: Path, tmp_path: Path) -> None:
    words = f"backbone=timm backbone.name=test_resnet benchmark=folder benchmark.folder.root={photos}".split()
    place = [f"output_dir={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}", "extract.resolutions=[48,64]"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "eval.py"]
    subprocess.run([*torchrun, *words, *place, "extract.workers=0"], check=True, cwd=config.CONFIGS.parent)
    rows = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["resolution"] for row in rows] == [48, 64]
    alone = off_the_shelf(photos, tmp_path / "alone", "extract.resolutions=[48,64]", f"cache={tmp_path / 'other'}")
    assert [row["metrics"] for row in rows] == [row["metrics"] for row in alone]


def test_one_option_lets_every_benchmark_fetch_what_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(revisited, "prepare", lambda name, root: asked.append((name, root)))
    words = ["benchmark=[rparis6k]", "benchmark.download=true", f"benchmark.rparis6k.root={tmp_path}"]
    with pytest.raises(InputError, match=r"gnd_rparis6k\.pkl"):
        evaluation.benchmarks_of(config.compose("eval", words, tmp_path))
    assert asked == [("rparis6k", tmp_path)]


def test_an_index_file_for_several_galleries_is_refused(photos: Path, tmp_path: Path) -> None:
    words = ["search=faiss", "search.factory=Flat", f"search.index={tmp_path / 'flat.index'}"]
    with pytest.raises(InputError, match=r"one gallery, asked for were 2: 1 models x 1 benchmarks x 2 resolutions"):
        off_the_shelf(photos, tmp_path / "run", *words, "extract.resolutions=[48,64]")


def test_junk_may_be_known_to_re_ranking_and_then_the_row_says_so(photos: Path, tmp_path: Path) -> None:
    words = ["rerank=[alpha_qe]", "rerank.alpha_qe.k=3", "rerank.alpha_qe.junk=removed"]
    row = off_the_shelf(photos, tmp_path, "extract.resolutions=[48]", *words)[0]
    assert row["junk_known"] and row["rerank"].endswith("junk=removed")


def test_several_poolings_are_each_whitened_by_their_own(photos: Path, tmp_path: Path) -> None:
    words = ["whitening=pca", "whitening.dim=4", "whitening_set=folder", f"whitening_set.root={photos}"]
    rows = off_the_shelf(photos, tmp_path, *words, "extract.resolutions=[48]", "evaluate.poolings=[gap,gem]")
    assert [row["pooling"] for row in rows] == ["gap", "gem"]
    assert len({row["whitening_file"] for row in rows}) == len(list((tmp_path / "whitening").iterdir())) == 2


def test_rows_of_other_photos_under_the_same_name_are_other_rows(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "dome")
    off_the_shelf(photos, tmp_path / "run", "extract.resolutions=[48]")
    words = [f"run={tmp_path / 'run'}", "benchmark=folder", f"benchmark.folder.root={tmp_path / 'other'}"]
    evaluation.from_config(config.compose("eval", [*words, "extract.resolutions=[48]", "extract.workers=0"]), set())
    kept = runs.collect([tmp_path / "run"]).rows
    assert sorted(row["images"] for row in kept) == [15, 20]
    assert kept[0]["per_query"] != kept[1]["per_query"]


def test_whitenings_fitted_to_other_pairs_are_kept_apart(photos: Path, tmp_path: Path) -> None:
    off_the_shelf(photos, tmp_path, "extract.resolutions=[48]")
    words = [f"run={tmp_path}", "benchmark=folder", f"benchmark.folder.root={photos}", "extract.resolutions=[48]"]
    words += ["extract.workers=0", "whitening=learned", "whitening_set=folder", f"whitening_set.root={photos}"]
    for seed in (0, 1):
        evaluation.from_config(config.compose("eval", [*words, f"whitening_set.seed={seed}"]), set())
    assert len(list((tmp_path / "whitening").iterdir())) == 2
    assert len(runs.collect([tmp_path]).rows) == 3


def test_a_call_that_was_killed_goes_on_when_it_is_made_again(photos: Path, tmp_path: Path) -> None:
    whole = off_the_shelf(photos, tmp_path, "extract.resolutions=[48,64]")
    (tmp_path / "results.json").write_text(json.dumps(whole[:1]))
    again = off_the_shelf(photos, tmp_path, "extract.resolutions=[48,64]")
    assert json.loads((tmp_path / "results.json").read_text()) == again
    assert [row["metrics"] for row in again] == [row["metrics"] for row in whole]


def test_a_call_that_was_killed_goes_on_with_other_workers_and_another_cache(photos: Path, tmp_path: Path) -> None:
    off_the_shelf(photos, tmp_path / "run", "extract.resolutions=[48]", "extract.workers=0")
    (tmp_path / "run/results.json").unlink()
    more = ["extract.workers=1", f"cache={tmp_path / 'elsewhere'}"]
    assert len(off_the_shelf(photos, tmp_path / "run", "extract.resolutions=[48]", *more)) == 1


def test_random_weights_are_not_judged_without_a_word(photos: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"test_resnet is judged with random weights: backbone\.pretrained=true"):
        off_the_shelf(photos, tmp_path, "extract.resolutions=[48]")


def test_another_call_does_not_go_on_where_one_was_killed(photos: Path, tmp_path: Path) -> None:
    off_the_shelf(photos, tmp_path, "extract.resolutions=[48]", "pooling=gap")
    (tmp_path / "results.json").unlink()
    with pytest.raises(InputError, match="holds another run"):
        off_the_shelf(photos, tmp_path, "extract.resolutions=[48]", "pooling=max")


def test_a_whitening_set_without_a_whitening_is_refused(photos: Path, tmp_path: Path) -> None:
    cfg = config.compose("eval", ["whitening_set=folder", f"whitening_set.root={photos}"], tmp_path)
    with pytest.raises(InputError, match="give whitening=pca"):
        evaluation.from_config(cfg, {"whitening_set"})


def test_other_labels_are_other_contents_though_their_union_is_the_same(photos: Path) -> None:
    swapped = {**LABELS, "easy": LABELS["hard"], "hard": LABELS["easy"]}
    one, other = (Revisited(photos, {**TRUTH, "gnd": [labels]}) for labels in (LABELS, swapped))
    files = Snapshot()
    files.hash_all([*one.queries, *one.gallery])
    assert results.contents(one, files) == results.contents(Revisited(photos, {**TRUTH, "gnd": [LABELS]}), files)
    assert results.contents(one, files) != results.contents(other, files)


def test_contents_are_of_bytes_and_labels_wherever_the_photos_lie(photos: Path, tmp_path: Path) -> None:
    words = ["extract.resolutions=[48]", f"cache={tmp_path / 'cache'}"]
    for name in ("here", "there", "changed"):
        shutil.copytree(photos, tmp_path / name, copy_function=shutil.copy)
    shutil.copy(photos / "dome/0.jpg", tmp_path / "changed/arch/0.jpg")
    rows = {name: off_the_shelf(tmp_path / name, tmp_path / f"{name}.run", *words)[0] for name in ("here", "there")}
    other = off_the_shelf(tmp_path / "changed", tmp_path / "run", *words)[0]
    assert rows["here"]["convention"] == rows["there"]["convention"]
    assert other["convention"]["contents"] != rows["here"]["convention"]["contents"]
    assert (rows["there"]["described"], other["described"]) == (0, 0)  # a copy of a photo has its row


def test_a_photo_that_cannot_be_decoded_is_left_out_of_the_gallery_and_counted(photos: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    (root / "dome/0.jpg").write_bytes(b"no photo")
    words = ["extract.resolutions=[48,64]", "benchmark.folder.on_unreadable=skip", f"cache={tmp_path / 'cache'}"]
    rows = off_the_shelf(root, tmp_path / "run", *words)
    (root / "dome/0.jpg").unlink()
    alone = off_the_shelf(root, tmp_path / "alone", *words)
    assert [(row["images"], row["skipped"]) for row in rows] == [(19, 1)] * 2
    assert [row["metrics"] for row in rows] == [row["metrics"] for row in alone]


def test_a_landmark_left_with_one_photo_is_refused(photos: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    for i in range(4):
        (root / f"dome/{i}.jpg").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"at least two readable photos; too few in dome \(1\)"):
        off_the_shelf(root, tmp_path / "run", "extract.resolutions=[48]", "benchmark.folder.on_unreadable=skip")


def test_an_unreadable_photo_is_refused_in_one_line(photos: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    (root / "dome/0.jpg").write_bytes(b"no photo")
    with pytest.raises(UnreadablePhoto) as told:
        off_the_shelf(root, tmp_path / "run", "extract.resolutions=[48]", "extract.workers=1", "extract.aspect=square")
    assert str(told.value).startswith(f"unreadable photo {root / 'dome/0.jpg'}") and "\n" not in str(told.value)


def test_photos_of_a_whitening_that_cannot_be_decoded_are_left_out(photos: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    (root / "dome/0.jpg").write_bytes(b"no photo")
    skip = ["benchmark.folder.on_unreadable=skip", "whitening_set.on_unreadable=skip"]
    row = whitened(root, tmp_path / "run", *skip)
    (root / "dome/0.jpg").unlink()
    assert row["metrics"] == whitened(root, tmp_path / "alone")["metrics"]


def test_duplicates_stand_in_the_row_and_junk_is_told_from_kept(photos: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    for path in sorted(root.rglob("*.jpg")):
        shutil.copy(path, path.with_name(f"copy_{path.name}"))
    words = ["extract.resolutions=[48]", f"cache={tmp_path / 'cache'}"]
    kept, junk = (
        off_the_shelf(root, tmp_path / way, *words, f"benchmark.folder.duplicates={way}")[0] for way in ("keep", "junk")
    )
    assert [(row["copies"], row["contradictions"]) for row in (kept, junk)] == [(20, 0)] * 2
    assert kept["metrics"]["recall@1"] == 1 > junk["metrics"]["recall@1"]
    assert lines.judged_on(kept) != lines.judged_on(junk)


def test_each_file_is_stated_once_and_its_header_read_once_a_call(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    stamp, full_size = contents.stamp, images.full_size
    monkeypatch.setattr(contents, "stamp", lambda path: seen.append("stamp") or stamp(path))
    monkeypatch.setattr(
        images,
        "full_size",
        lambda photo, data=None, known=False: (
            seen.append("bytes" if data else "header") or full_size(photo, data, known)
        ),
    )
    off_the_shelf(photos, tmp_path, "extract.resolutions=[48,64]", f"cache={tmp_path / 'cache'}")
    assert (seen.count("stamp"), seen.count("header")) == (20, 20)


def test_each_photo_is_decoded_once_a_resolution(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = extraction.images.decode
    monkeypatch.setattr(evaluation, "look", lambda *_: None)  # pictures decode what they show
    monkeypatch.setattr(images, "decode", lambda photo, *how: decoded.append(photo.path) or decode(photo, *how))
    off_the_shelf(photos, tmp_path, "extract.resolutions=[48]", f"cache={tmp_path / 'cache'}")
    assert len(decoded) == len(set(decoded)) == 20
