"""What a search over settings maximises, of the rows that a job leaves."""

import pytest

from retrieval.results import objective


def row(metrics: dict[str, float | None], untrained: bool = False, validation: float | None = None) -> dict:
    return {"metrics": metrics, "untrained": untrained, "validation": validation}


def test_it_is_the_map_on_held_out_training_landmarks_where_there_are_any() -> None:
    assert objective([row({"mAP": 0.9}, validation=0.4), row({"mAP": 0.8}, validation=0.6)]) == pytest.approx(0.5)


def test_it_is_the_medium_map_of_a_benchmark_with_levels() -> None:
    assert objective([row({"easy/mAP": 0.9, "medium/mAP": 0.5, "hard/mAP": 0.1})]) == 0.5


def test_it_is_the_first_value_of_a_benchmark_without_levels() -> None:
    assert objective([row({"mAP@100": 0.3, "recall@1": 0.9}), row({"mAP": 0.5})]) == pytest.approx(0.4)


def test_rows_of_the_untrained_model_count_only_where_there_are_no_others() -> None:
    untrained = row({"mAP": 0.1}, untrained=True)
    assert objective([untrained, row({"mAP": 0.7})]) == 0.7
    assert objective([untrained]) == 0.1


def test_a_value_that_is_not_known_counts_as_nothing_found() -> None:
    assert objective([row({"mAP": None})]) == 0


def test_nothing_judged_is_nothing_to_maximise() -> None:
    assert objective([]) is None
