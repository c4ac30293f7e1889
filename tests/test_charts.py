"""What charts show, by what colours, and what a report says first."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import result

from retrieval.report import curves, panels, pictures, plots, runs, summary

Write = Callable[..., Path]


def shelf(p: float, value: float, **other: Any) -> dict[str, Any]:
    """A row of GeM off the shelf."""
    how = {"p": p, "options": "" if p == 3 else f"p={p:g}", "settings": f"p{p}", "untrained": True}
    return result(value, **(how | other))


def over_p(folder: Path) -> panels.Panels:
    return panels.exponent_panels(runs.collect([folder]).rows)


def logged(*columns: str) -> panels.Training:
    return panels.Training("gem", 0, "", "runs/a", {column: {0: 1.0, 1: 2.0} for column in columns})


def said(folder: Path) -> str:
    return summary.summary(runs.collect([folder]))[-1]


def test_a_sweep_of_p_is_one_line(write: Write, tmp_path: Path) -> None:
    write("a", *(shelf(p, p / 10) for p in (5, 1, 3)))
    (curve,) = over_p(tmp_path)["landmarks, 224 px"]
    assert (curve.name, curve.x, curve.joined) == ("gem, untrained", (1, 3, 5), True)
    assert curve.y == pytest.approx([10, 30, 50])


def test_trained_models_are_points_at_the_p_that_they_ended_with(write: Write, tmp_path: Path) -> None:
    write("a", *(result(0.5, p=3 + seed / 8, seed=seed) for seed in range(2)))
    (curve,) = over_p(tmp_path)["landmarks, 224 px"]
    assert (curve.name, curve.x, curve.joined) == ("gem", (3, 3.125), False)


def test_runs_that_agree_share_a_point_that_names_them(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        write(f"{seed}", shelf(3, 0.4, seed=seed), shelf(5, 0.5, seed=seed))
    (curve,) = over_p(tmp_path)["landmarks, 224 px"]
    assert curve.said == ["seed 0, runs/0\nseed 1, runs/1"] * 2


def test_p_per_channel_counts_by_its_mean(write: Write, tmp_path: Path) -> None:
    write("a", shelf(3, 0.4), shelf(4, 0.3), result(0.5, p={"mean": 3.5, "min": 1.0, "max": 6.0}))
    assert [curve.x for curve in over_p(tmp_path)["landmarks, 224 px"]] == [(3.5,), (3, 4)]


@pytest.mark.parametrize("p", [3.0, 3.35, None, {"mean": None, "min": None, "max": None}])
def test_a_p_before_and_one_after_training_make_no_chart(write: Write, tmp_path: Path, p: Any) -> None:
    write("a", shelf(3, 0.4), result(0.5, p=p))
    assert over_p(tmp_path) == {}


def axes_of(folder: Path) -> dict[str, str]:
    """What the y axis of each panel says, in the still charts too."""
    found = runs.collect([folder])
    drawn, svgs = pictures.charts_of(found), pictures.draw(found)
    axes = {title: chart.y_of(title) for chart in drawn.values() for title in chart.panels}
    assert all(f"<!-- {axis} -->" in "".join(svgs.values()) for axis in axes.values())
    for chart in drawn.values():
        for title in chart.panels:
            drawn_axis = plots.figure(chart, title, curves.colours([chart])).to_dict()["layout"]["yaxis"]["title"]
            assert drawn_axis["text"] == axes[title]
    return axes


def test_the_axis_of_a_panel_names_its_measure(write: Write, tmp_path: Path) -> None:
    write("a", *(result(metrics={"mAP": 0.5, "mAP@R": 0.4}, resolution=r) for r in (224, 320)))
    assert axes_of(tmp_path) == {"landmarks": "mAP (%)", "landmarks, mAP@R": "mAP@R (%)"}
    headings = [heading for heading, _ in pictures.chart_sections(runs.collect([tmp_path]))]
    assert headings == ["mAP and mAP@R against resolution"]


def test_values_over_p_are_named_where_they_are_no_average_precision(write: Write, tmp_path: Path) -> None:
    write("a", *(shelf(p, 0.5, metrics={"recall@1": p / 10}) for p in (1, 3)))
    assert axes_of(tmp_path) == {"landmarks, 224 px": "recall@1 (%)"}


def test_training_curves_are_losses_then_what_was_judged_then_how_it_went() -> None:
    order = ["train/loss", "validation/mAP", "oxford/medium/mAP@224", "lr-AdamW", "train/waiting"]
    assert list(panels.training_panels([logged("p", "mining/seconds", *reversed(order))])) == order


def test_a_line_per_run_has_the_colour_of_its_model(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        for pooling in ("gap", "gem"):
            both = [result(pooling=pooling, settings=pooling, seed=seed, resolution=r) for r in (224, 320)]
            write(f"{pooling}{seed}", *both, history="epoch,step,train/loss,p\n0,0,0.5,3.0\n0,1,0.4,3.1\n")
    drawn = pictures.charts_of(runs.collect([tmp_path]))
    colour = curves.colours(drawn.values())
    figures = [plots.figure(chart, title, colour) for chart in drawn.values() for title in chart.panels]
    used = {
        (trace["legendgroup"], trace["line"]["color"])
        for one in figures
        for trace in one.to_dict()["data"]
        if "fill" not in trace
    }
    assert set(drawn) == {"resolution", "p", "training"} and used == set(colour.items()) and len(colour) == 2


@given(st.integers(1, 60))
def test_no_two_models_share_a_colour(count: int) -> None:
    chart = curves.Chart({"": [curves.Curve(str(i), [0], [0]) for i in range(count)]}, "x")
    assert len(set(curves.colours([chart]).values())) == count


def test_several_backbones_have_panels_of_their_own(write: Write, tmp_path: Path) -> None:
    rows = [result(backbone=b, settings=b, resolution=r) for b in ("a", "b") for r in (224, 320)]
    write("a", *rows)
    found = panels.resolution_panels(runs.collect([tmp_path]).rows)
    assert {title: [curve.label for curve in of] for title, of in found.items()} == {
        "landmarks, a": ["gem"],
        "landmarks, b": ["gem"],
    }


def test_the_data_of_a_chart_cannot_end_its_script() -> None:
    chart = curves.Chart({"</script>": [curves.Curve("</script><b>", [0], [1], said="</script>")]}, "x")
    drawn = plots.panels(chart, {"</script><b>": "#000000"})
    content = drawn.partition('<script type="application/json">')[2].partition("</script>")[0]
    (trace,) = json.loads(content)["data"]
    assert trace["name"] == "</script><b>" and "<b>&lt;/script&gt;&lt;b&gt;</b>" in trace["hovertemplate"]


def test_a_name_is_told_as_it_is() -> None:
    chart = curves.Chart({"": [curves.Curve('"%{x}"', [0], [1], said="%{y}")]}, "x")
    (trace,) = plots.figure(chart, "", {'"%{x}"': "#000000"}).to_dict()["data"]
    assert trace["hovertemplate"].startswith('<b>"%&#123;x}"</b>') and "%&#123;y}" in trace["hovertemplate"]


def test_of_many_panels_one_is_chosen_and_of_few_all() -> None:
    for count in (2, 13):
        titles = [f"panel {i}" for i in range(count)]
        chart = curves.Chart({title: [curves.Curve("gem", [0], [1])] for title in titles}, "x", "y")
        assert plots.panels(chart, {"gem": "#000000"}).count('value="panel 0" selected>') == (count > 12)


def test_the_summary_names_the_best_and_the_next_line(write: Write, tmp_path: Path) -> None:
    write("a", result(0.5), result(0.4, pooling="gap", settings="b"), result(0.3, untrained=True, settings="c"))
    assert said(tmp_path) == (
        "landmarks: the highest mAP is 50.0 by gem at 224 px; next is 40.0 by gap at 224 px (not tested: values per "
        "query are missing)."
    )


def test_the_summary_names_an_untrained_line_that_is_ahead(write: Write, tmp_path: Path) -> None:
    write("a", result(0.5), result(0.9, untrained=True, settings="c"))
    assert said(tmp_path).startswith("landmarks: the highest mAP is 90.0 by gem, untrained, at 224 px; next is 50.0 by")


def test_the_summary_ranks_no_lines_of_different_photos(write: Write, tmp_path: Path) -> None:
    write("a", result(0.5), result(0.9, images=40, pooling="gap"))
    assert said(tmp_path) == (
        "landmarks: the highest values of mAP are of different photos or protocols, so they do not compare: 90.0 by "
        "gap, images 40, at 224 px, 50.0 by gem, images 480, at 224 px."
    )


def test_the_summary_names_all_that_print_alike(write: Write, tmp_path: Path) -> None:
    write("a", result(0.5001), result(0.5002, pooling="gap", settings="b"))
    assert said(tmp_path) == "landmarks: the highest mAP is 50.0 by gap at 224 px and 50.0 by gem at 224 px."


def test_the_summary_says_where_nothing_is_known(write: Write, tmp_path: Path) -> None:
    write("a", result(math.nan))
    assert said(tmp_path) == "landmarks: no mAP is known."
