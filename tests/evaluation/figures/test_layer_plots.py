import pandas as pd
import pytest
from matplotlib.patches import StepPatch

from tests.support.evaluation.figure_texts import texts
from tests.support.evaluation.plot_tables import need_table, slowdown_table, target_table
from veltair.evaluation.figures.layer_plots import paper_core_need_figure, paper_slowdown_figure


def test_core_need_has_steps_of_the_lowest_and_highest_pressure_and_their_means() -> None:
    table = need_table(["resnet50"])
    axis = paper_core_need_figure(table, target_table()).axes[0]
    steps = [patch.get_data() for patch in axis.patches if isinstance(patch, StepPatch)]
    alone, pressed = (table[table["level"] == level] for level in (0.0, 1.0))
    assert [list(step.values) for step in steps] == [
        list(alone["needed_cores"]),
        list(pressed["needed_cores"]),
    ]
    assert (steps[0].edges[0], steps[0].edges[-1]) == (-0.5, 49.5)
    means = [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == ":"]
    assert means == [alone["average_cores"].iloc[0], pressed["average_cores"].iloc[0]]


def test_layers_whose_budget_is_out_of_reach_are_crossed() -> None:
    axis = paper_core_need_figure(need_table(["resnet50"]), target_table()).axes[0]
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[25], [25]]


def test_of_a_long_model_the_first_layers_are_drawn_and_all_are_counted() -> None:
    parts = [
        need_table(["bert_large"]).assign(layer=lambda table, by=by: table["layer"] + 50 * by)
        for by in range(3)
    ]
    axis = paper_core_need_figure(pd.concat(parts), target_table()).axes[0]
    steps = [patch.get_data() for patch in axis.patches if isinstance(patch, StepPatch)]
    assert [len(step.values) for step in steps] == [60, 60]
    assert axis.get_xlabel() == "layer (first 60 of 150); out of reach: 2 / 2 %"


def test_panels_of_slowdown_have_the_same_limits() -> None:
    axes = paper_slowdown_figure(slowdown_table()).axes
    assert len({axis.get_ylim() for axis in axes[:3]}) == 1


def test_slowdown_is_over_the_same_version_alone_and_latency_over_the_best_alone() -> None:
    upper, lower = paper_slowdown_figure(slowdown_table(["resnet50"])).axes
    # Version 4 is 1.32 times as slow alone as the best and loses 24 % at full pressure.
    assert upper.lines[4].get_ydata()[-1] == pytest.approx(1.24)
    assert lower.lines[4].get_ydata()[-1] == pytest.approx(1.32 * 1.24)
    assert list(upper.lines[4].get_xdata()) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_versions_differ_by_marker_and_the_ends_are_named() -> None:
    figure = paper_slowdown_figure(slowdown_table(["resnet50"]))
    assert len({line.get_marker() for line in figure.axes[0].lines}) == 5
    assert "version 0 (most local)" in texts(figure) and "version 4 (most parallel)" in texts(figure)


def test_one_level_and_one_version_are_figures() -> None:
    needs = need_table(["resnet50"])
    assert len(paper_core_need_figure(needs[needs["level"] == 0], target_table()).axes[0].patches) == 1
    table = slowdown_table(["resnet50"])
    assert "version 0\n" in texts(paper_slowdown_figure(table[table["version"] == 0])) + "\n"


def test_missing_columns_and_empty_tables_are_refused() -> None:
    with pytest.raises(ValueError, match=r"core_need: columns \['average_cores'\]"):
        paper_core_need_figure(need_table().drop(columns="average_cores"), target_table())
    with pytest.raises(ValueError, match=r"slowdown: columns \['alone_s'\]"):
        paper_slowdown_figure(slowdown_table().drop(columns="alone_s"))
    with pytest.raises(ValueError, match="the table slowdown is empty"):
        paper_slowdown_figure(slowdown_table()[:0])
