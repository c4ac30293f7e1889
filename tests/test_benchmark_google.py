"""Google Landmarks v2: retrieval and recognition, as the authors' metrics judge them."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from small_sets import jpegs, perfect, ranking, table

from retrieval import metrics
from retrieval.benchmarks.google import Recognition, Retrieval, nearest
from retrieval.config import CONFIGS, build, load_yaml
from retrieval.errors import InputError
from retrieval.method import Method
from retrieval.rerank import AlphaQE, SuperGlobal

INDEX = ["aaa1", "aab2", "abc3", "bbb4", "bcd5"]
RETRIEVAL = [
    ("id", "images", "Usage"),
    ("fff1", "bbb4", "Private"),
    ("eee1", "aaa1 abc3 aaa1", "Public"),
    ("ddd1", "None", "Ignored"),
    ("eee2", "abc3 aaa1", "Private"),
]
RECOGNITION = [
    ("id", "landmarks", "Usage"),
    ("fff1", "7", "Public"),
    ("eee1", "8 7", "Public"),
    ("ddd1", "", "Public"),
    ("eee2", "9", "Private"),
    ("eee3", "", "Private"),
]


def at(names: list[str]) -> list[str]:
    return [f"{'/'.join(name[:3])}/{name}.jpg" for name in names]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "gldv2"
    for part, names in (("index", INDEX), ("train", INDEX), ("test", ["ddd1", "eee1", "eee2", "eee3", "fff1"])):
        jpegs(folder / part, at(names))
    table(folder / "index.csv", ("id",), *((name,) for name in INDEX))
    table(folder / "retrieval_solution_v2.1.csv", *RETRIEVAL)
    table(folder / "recognition_solution_v2.1.csv", *RECOGNITION)
    rows = zip(INDEX, (7, 7, 8, 8, 8), strict=True)
    table(folder / "train.csv", ("id", "url", "landmark_id"), *((name, "http", label) for name, label in rows))
    table(folder / "train_clean.csv", ("landmark_id", "images"), (7, "aaa1 aab2"), (8, "abc3 bbb4 bcd5"))
    return tmp_path


def average_precision_at_100(found: list[int], relevant: set[int]) -> float:
    """A ranked list, gone through as the authors' metrics.py does."""
    hits, total = 0, 0.0
    for place, image in enumerate(found[:100], 1):
        if image in relevant:
            hits += 1
            total += hits / place
    return total / min(len(relevant), 100)


def test_photos_lie_by_the_first_three_letters_of_their_ids(root: Path) -> None:
    benchmark = Retrieval(str(root))
    assert benchmark.gallery[1].path == str(root / "gldv2" / "index" / "a" / "a" / "b" / "aab2.jpg")
    assert [Path(photo.path).stem for photo in benchmark.queries] == ["eee1", "eee2", "fff1"]


def test_ignored_queries_are_not_described_and_usages_are_levels(root: Path) -> None:
    benchmark = Retrieval(str(root))
    assert {name: [rows.tolist() for rows in both[0]] for name, both in benchmark.levels.items()} == {
        "public": [[0, 2], [], []],
        "private": [[], [2, 0], [3]],
    }


def test_queries_of_one_landmark_share_its_name(root: Path) -> None:
    assert Retrieval(str(root)).landmarks == ["aaa1", "aaa1", "bbb4"]


@pytest.mark.parametrize("kind", [Retrieval, Recognition])
def test_photos_are_turned_where_that_is_asked_for(root: Path, kind: type[Retrieval | Recognition]) -> None:
    for upright in (False, True):
        benchmark = kind(str(root), upright=upright)
        assert {photo.upright for photo in (*benchmark.gallery, *benchmark.queries)} == {upright}
        assert benchmark.convention["upright"] is upright


def test_retrieval_worked_by_hand(root: Path) -> None:
    scores = np.array([[3, 5, 1, 2, 4], [1, 5, 3, 4, 2], [1, 2, 3, 4, 5.0]])
    # eee1: 1 4 0 3 2, relevant 0 and 2; eee2: 1 3 2 4 0, the same; fff1: 4 3 2 1 0, relevant 3.
    public, private = (1 / 3 + 2 / 5) / 2, ((1 / 3 + 2 / 5) / 2 + 1 / 2) / 2
    expected = {"public/mAP@100": pytest.approx(public), "private/mAP@100": pytest.approx(private)}
    assert Retrieval(str(root)).judge(scores) == expected


def test_retrieval_is_that_of_sorted_lists_over_a_hundred(tmp_path: Path) -> None:
    folder, rng = tmp_path / "gldv2", np.random.default_rng(0)
    names = [f"{i:016x}" for i in range(150)]
    for part in ("index", "test"):
        (folder / part / "0" / "0" / "0").mkdir(parents=True)
        for name in names:
            (folder / part / "0" / "0" / "0" / f"{name}.jpg").touch()
    table(folder / "index.csv", ("id",), *((name,) for name in names))
    wanted = [set(rng.choice(150, n, replace=False).tolist()) for n in (1, 40, 120)]
    rows = [(names[q], " ".join(names[i] for i in sorted(found)), "Public") for q, found in enumerate(wanted)]
    table(folder / "retrieval_solution_v2.1.csv", ("id", "images", "Usage"), *rows)
    benchmark, scores = Retrieval(str(tmp_path)), rng.permutation(np.arange(450.0)).reshape(3, 150)
    slow = [average_precision_at_100(ranking(row), found) for row, found in zip(scores, wanted, strict=True)]
    assert benchmark.per_query([scores])["public/AP@100"] == pytest.approx(slow)
    assert benchmark.judge(perfect(3, 150, wanted))["public/mAP@100"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("file", "rows", "said"),
    [
        (
            "retrieval_solution_v2.1.csv",
            [RETRIEVAL[0], ("fff1", "bbb4 zzz9", "Private")],
            "lists zzz9, which index.csv",
        ),
        ("retrieval_solution_v2.1.csv", [RETRIEVAL[0], ("fff1", "None", "Private")], "query fff1, it lists none"),
        ("retrieval_solution_v2.1.csv", [RETRIEVAL[0], ("fff1", "bbb4", "Secret")], "got 'Secret'"),
        ("retrieval_solution_v2.1.csv", [*RETRIEVAL, RETRIEVAL[1]], "a query may stand in .* once"),
        ("retrieval_solution_v2.1.csv", [("id", "usage"), ("a", "b")], "one column 'images'.*accepted: id, usage"),
        ("retrieval_solution_v2.1.csv", [RETRIEVAL[0], ("fff9", "bbb4", "Private")], "1 photos are not there: .*fff9"),
        ("index.csv", [("id",), *((name,) for name in [*INDEX, INDEX[0]])], "1 stand there again"),
    ],
)
def test_a_mistake_in_a_table_is_refused(root: Path, file: str, rows: list, said: str) -> None:
    table(root / "gldv2" / file, *rows)
    with pytest.raises(InputError, match=said):
        Retrieval(str(root))


def micro(confidence: list[float], correct: list[bool], queries: int) -> float:
    """All predictions in one list, gone through as the authors' metrics.py does."""
    hits, total = 0, 0.0
    for place, (_, right) in enumerate(sorted(zip(confidence, correct, strict=True), key=lambda pair: -pair[0]), 1):
        hits += right
        total += hits / place * right
    return total / queries


def test_recognition_worked_by_hand(root: Path) -> None:
    scores = np.full((5, 5), 0.1)
    scores[0, 2] = 0.8  # ddd1, which shows none: 8
    scores[1, 3] = 0.7  # eee1: 8, right
    scores[2, 0] = 0.9  # eee2, of a landmark without training photos: 7
    scores[3, 1] = 0.2  # eee3, which shows none: 7
    scores[4, 1] = 0.9  # fff1: 7, right
    benchmark = Recognition(str(root))
    assert [Path(photo.path).stem for photo in benchmark.queries] == ["ddd1", "eee1", "eee2", "eee3", "fff1"]
    # Public by confidence: fff1 right, ddd1 wrong, eee1 right; two queries show a landmark.
    expected = {"public/micro-AP": pytest.approx((1 + 2 / 3) / 2), "private/micro-AP": 0}
    assert benchmark.judge(scores) == expected


def test_each_query_has_its_confidence_and_whether_it_is_right(root: Path) -> None:
    scores = np.tile([0.1, 0.2, 0.3, 0.4, 0.5], (5, 1))
    each = Recognition(str(root)).per_query([scores[:2], scores[2:]])
    assert each["public/confidence"] == pytest.approx([0.5, 0.5, np.nan, np.nan, 0.5], nan_ok=True)
    assert each["public/correct"] == pytest.approx([0, 1, np.nan, np.nan, 0], nan_ok=True)
    assert each["private/shown"] == pytest.approx([np.nan, np.nan, 1, 0, np.nan], nan_ok=True)


@pytest.mark.parametrize("neighbours", [1, 2, 3, 9])
def test_recognition_is_that_of_sorted_lists(root: Path, neighbours: int) -> None:
    benchmark, rng = Recognition(str(root), neighbours), np.random.default_rng(neighbours)
    labels = ["7", "7", "8", "8", "8"]
    for _ in range(20):
        scores = rng.permutation(np.arange(1.0, 26)).reshape(5, 5)
        guesses = []
        for row in scores:
            sums: dict[str, float] = {}
            for i in ranking(row)[:neighbours]:
                sums[labels[i]] = sums.get(labels[i], 0) + row[i]
            guesses.append(max(sums.items(), key=lambda pair: (pair[1], -int(pair[0]))))
        public = [(0, set()), (1, {"7", "8"}), (4, {"7"})]
        right = [guesses[q][0] in shown for q, shown in public]
        slow = micro([guesses[q][1] for q, _ in public], right, 2)
        assert benchmark.judge(scores)["public/micro-AP"] == pytest.approx(slow)


def test_what_was_not_retrieved_is_no_prediction(root: Path) -> None:
    for neighbours in (1, 3):
        scores = np.full((5, 5), -np.inf)
        scores[4, 1] = 0.5
        benchmark = Recognition(str(root), neighbours)
        assert benchmark.judge(scores)["public/micro-AP"] == 0.5
        assert benchmark.per_query([scores])["public/confidence"][0] == -np.inf


def test_recognition_by_equal_scores_is_the_mean_over_all_orders_of_the_training_photos(root: Path) -> None:
    benchmark, rng = Recognition(str(root)), np.random.default_rng(0)
    labels, shows = "77888", ["", "87", "9", "", "7"]
    for _ in range(20):
        scores = rng.integers(1, 4, (5, 5)) + np.arange(5)[:, None] / 10.0  # confidences of their own
        means = []
        for order in permutations(range(5)):
            best = [max(order, key=lambda i, row=row: row[i]) for row in scores]
            right = [labels[i] in shown for i, shown in zip(best, shows, strict=True)]
            means.append(micro([scores[q][best[q]] for q in (0, 1, 4)], [right[q] for q in (0, 1, 4)], 2))
        assert benchmark.judge(scores)["public/micro-AP"] == pytest.approx(np.mean(means))


def test_equal_scores_of_two_landmarks_are_a_tie_and_those_of_one_are_none(root: Path) -> None:
    scores = np.array([[2, 2, 1, 1, 1], [1, 2, 2, 0, 0], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5], [1, 1, 2, 2, 2.0]])
    each = Recognition(str(root)).per_query([scores])
    assert each["public/ties"] == pytest.approx([0, 1, np.nan, np.nan, 0], nan_ok=True)
    assert metrics.tied_queries(each) == 2


def test_equal_scores_share_the_places_that_are_left() -> None:
    found, shares = nearest(np.array([1.0, 2, 1, 1, 0]), 3)
    assert dict(zip(found.tolist(), shares, strict=True)) == {0: 2 / 3, 1: 1, 2: 2 / 3, 3: 2 / 3}
    assert nearest(np.array([-np.inf, 2, -np.inf]), 2)[0].tolist() == [1]


@pytest.mark.parametrize("neighbours", [1, 2, 4])
def test_the_order_of_equal_training_photos_is_nothing_to_recognition(root: Path, neighbours: int) -> None:
    benchmark, values = Recognition(str(root), neighbours), set()
    for order in permutations([3.0, 1.0, 1.0]):
        scores = np.tile([0, 0, *order], (5, 1))  # photos of landmark 8
        values.add(benchmark.judge(scores)["public/micro-AP"])
    assert len(values) == 1


@pytest.mark.parametrize("train", ["train.csv", "train_clean.csv"])
def test_either_table_of_training_photos_is_read(root: Path, train: str) -> None:
    benchmark = Recognition(str(root), train=train)
    assert [Path(photo.path).stem for photo in benchmark.gallery] == INDEX
    assert [sorted(rows.tolist()) for rows in benchmark.relevant] == [[], [0, 1, 2, 3, 4], [], [], [0, 1]]
    assert benchmark.convention == {"neighbours": 1, "train": train, "upright": False}
    assert benchmark.landmarks == ["ddd1", "8", "9", "eee3", "7"]


def test_scores_that_do_not_fit_are_refused(root: Path) -> None:
    benchmark = Recognition(str(root))
    for scores in (np.zeros((4, 5)), np.zeros((5, 4)), np.full((5, 5), np.nan)):
        with pytest.raises(ValueError, match="scores must"):
            benchmark.judge(scores)


@pytest.mark.parametrize("name", ["gldv2", "gldv2_recognition"])
def test_an_absent_set_is_refused_with_what_goes_where_and_where_it_comes_from(tmp_path: Path, name: str) -> None:
    cfg = load_yaml(CONFIGS / "benchmark" / f"{name}.yaml")
    with pytest.raises(InputError) as caught:
        build({**cfg, "root": str(tmp_path)})
    for said in (".csv is not there", "gldv2/index", "s3.amazonaws.com/google-landmark", "download=true"):
        assert said in str(caught.value)


def test_recognition_refuses_a_step_that_gives_an_order_and_no_scores(root: Path) -> None:
    method = Method(rerank=[SuperGlobal()])
    with pytest.raises(InputError, match="superglobal .* gives an order and no scores"):
        method.check([], {"google": Recognition(str(root))}, 1)
    Method(rerank=[AlphaQE()]).check([], {"google": Recognition(str(root))}, 1)
