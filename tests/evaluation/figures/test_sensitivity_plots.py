import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from tests.support.evaluation.figure_texts import texts
from tests.support.evaluation.plot_tables import scale_table, sensitivity_table, target_table, unservable
from veltair.evaluation.figures.sensitivity_plots import (
    BAND,
    crossings,
    paper_scale_figure,
    paper_sensitivity_figure,
    sensitivity_ratios,
)


def of(assumption: str) -> pd.DataFrame:
    table = sensitivity_table()
    return table[table["assumption"] == assumption]


def line(axis: Axes, policy: str) -> tuple[list[float], list[float]]:
    """Return the values and means of a policy's line."""
    bars = next(container for container in axis.containers if container.get_label() == policy)
    return list(bars.lines[0].get_xdata()), list(bars.lines[0].get_ydata())


def test_ratios_are_paired_with_planaria_under_the_same_assumption() -> None:
    table = of("contention")
    found = sensitivity_ratios(table).query("policy == 'Veltair-FULL' and value == 2.6").iloc[0]
    by_seed = table[table["value"] == 2.6].pivot(index="seed", columns="policy", values="qps_at_95")
    assert found["mean"] == pytest.approx((by_seed["Veltair-FULL"] / by_seed["Planaria"]).mean())
    assert found["low"] < found["mean"] < found["high"]


def test_a_panel_draws_each_policys_ratio_over_the_range_of_its_assumption() -> None:
    axis = paper_sensitivity_figure(of("contention"), target_table()).axes[0]
    values, means = line(axis, "Veltair-AC")
    found = sensitivity_ratios(of("contention")).query("policy == 'Veltair-AC'")
    assert values == [1.0, 1.4, 2.6] and means == pytest.approx(list(found["mean"]))
    assert axis.get_xlabel() == "contention (times)" and "Planaria" in axis.get_ylabel()


def test_the_default_is_dotted_and_the_plausible_range_thick() -> None:
    axis = paper_sensitivity_figure(of("cost of a start"), target_table()).axes[0]
    dotted = [one.get_xdata()[0] for one in axis.lines if one.get_linestyle() == ":"]
    thick = [list(one.get_xdata()) for one in axis.lines if one.get_linewidth() == 4]
    assert dotted == [50.0] and thick == [[0.0, 150.0]]


def test_a_star_marks_where_the_winner_changes() -> None:
    axis = paper_sensitivity_figure(of("cost of a start"), target_table()).axes[0]
    marks = [
        one.get_xdata()[0] for one in axis.lines if one.get_marker() == "*" and one.get_color() == "black"
    ]
    assert marks == [pytest.approx(100, abs=5)]
    assert f"{marks[0]:.3g}" in [text.get_text() for text in axis.texts]


def test_what_cannot_be_served_is_a_cross_and_not_a_ratio_of_zero() -> None:
    table = of("contention")
    table = unservable(table, (table["policy"] == "Veltair-FULL") & (table["value"] == 2.6))
    axis = paper_sensitivity_figure(table, target_table()).axes[0]
    crosses = [list(one.get_xdata()) for one in axis.lines if one.get_marker() == "x"]
    assert [2.6] in crosses and line(axis, "Veltair-FULL")[0] == [1.0, 1.4]


def test_crosses_lie_under_every_ratio_that_an_axis_names() -> None:
    table = of("contention")
    table = unservable(table, (table["policy"] == "Veltair-FULL") & (table["value"] == 2.6))
    axis = paper_sensitivity_figure(table, target_table()).axes[0]
    (height,) = {
        float(one.get_ydata()[0]) for one in axis.lines if one.get_marker() == "x" and len(one.get_xdata())
    }
    low, high = axis.get_ylim()
    lowest = math.log(min(axis.get_yticks()) / low) / math.log(high / low)
    assert 0 < height < BAND <= lowest + 1e-9


def test_an_assumption_varied_for_several_workloads_has_a_panel_for_each() -> None:
    table = pd.concat([of("contention").assign(workload=name) for name in ("light", "mix")])
    figure = paper_sensitivity_figure(table.assign(models="resnet50"), target_table())
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()]
    assert titles == ["light: UNVALIDATED", "mix: UNVALIDATED"]


def test_where_the_workload_varies_its_values_share_a_panel_and_those_relaxed_have_a_star() -> None:
    table = of("workload").assign(models=lambda rows: rows["models"].replace("bert_large", "ssd_resnet34"))
    (axis,) = [axis for axis in paper_sensitivity_figure(table, target_table()).axes if axis.get_visible()]
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == ["mix*", "mobilenet_v2", "efficientnet_b0", "tiny_yolov2", "bert_large*"]


def test_where_planaria_cannot_serve_the_panel_says_so() -> None:
    table = of("contention")
    table = unservable(table, (table["policy"] == "Planaria") & (table["value"] == 2.6))
    axis = paper_sensitivity_figure(table, target_table()).axes[0]
    assert [text.get_text() for text in axis.texts].count("no Planaria") == 1
    assert axis.get_xlim()[1] > 2.6


def test_categories_are_named_and_not_joined_by_lines() -> None:
    axis = paper_sensitivity_figure(of("placement"), target_table()).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["spread", "pinned"]
    bars = next(container for container in axis.containers if container.get_label() == "Veltair-FULL")
    assert bars.lines[0].get_linestyle() == "None"


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([0.5, 1.5, 2.0], [0.5]),
        ([2.0, 1.5, 1.1], []),
        ([0.5, 1.0, 0.5], []),
        ([0.5, 1.0, 1.5], [1.0]),
        ([0.5, math.nan, 1.5], []),
        ([1.5, 0.5, 1.5], [0.5, 1.5]),
    ],
)
def test_crossings_lie_on_straight_lines_between_values(means: list[float], expected: list[float]) -> None:
    assert crossings([0.0, 1.0, 2.0], means) == pytest.approx(expected)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=12))
def test_a_line_that_ends_on_the_other_side_crosses_an_odd_number_of_times(means: list[float]) -> None:
    count = len(crossings([float(index) for index in range(len(means))], means))
    if (means[0] - 1) * (means[-1] - 1) < 0:
        assert count % 2 == 1
    if (means[0] - 1) * (means[-1] - 1) > 0:
        assert count % 2 == 0


def test_scale_draws_rates_and_ratios_over_the_cores() -> None:
    upper, lower = paper_scale_figure(scale_table(), target_table()).axes
    cores, qps = line(upper, "Planaria")
    assert cores == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert qps[-1] / qps[0] == pytest.approx(128**0.9)
    assert line(lower, "Planaria")[1] == pytest.approx([1.0] * 8)
    assert upper.get_ylabel() == "QPS at 95 % QoS (queries/s)" and lower.get_xlabel() == "cores"


def test_scale_marks_machines_whose_targets_were_relaxed_and_tells_to_what() -> None:
    figure = paper_scale_figure(scale_table(), target_table())
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert labels == ["8*", "16*", "32*", "64", "128", "256", "512", "1024"]
    shown = " ".join(texts(figure).split())
    assert "on 8 cores ssd_resnet34 100 to 184 ms, bert_large 130 to 155 ms; on 16 cores" in shown


def test_scale_marks_machines_on_which_a_policy_cannot_serve() -> None:
    upper, lower = paper_scale_figure(scale_table(), target_table()).axes
    assert [8, 16] in [list(one.get_xdata()) for one in lower.lines if one.get_marker() == "x"]
    assert line(upper, "LayerWise")[0] == [32, 64, 128, 256, 512, 1024]


def test_missing_columns_and_empty_tables_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sensitivity: columns \['is_default'\]"):
        paper_sensitivity_figure(sensitivity_table().drop(columns="is_default"), target_table())
    with pytest.raises(ValueError, match=r"scale: columns \['cores'\]"):
        paper_scale_figure(scale_table().drop(columns="cores"), target_table())
    with pytest.raises(ValueError, match="sensitivity is empty"):
        paper_sensitivity_figure(sensitivity_table()[:0], target_table())
