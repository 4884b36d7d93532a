import numpy as np
import pytest

from tests.support.evaluation.figure_texts import texts
from tests.support.evaluation.plot_tables import corun_table, cost_table, fidelity_table
from veltair.evaluation.figures.fidelity_plots import (
    paper_corun_fit_figure,
    paper_cost_fit_figure,
    paper_fidelity_figure,
)


def test_each_policy_is_a_point_with_the_null_model_as_an_open_ring() -> None:
    table = fidelity_table(["Planaria"]).query("metric == 'latency_p95_s'")
    lines = [line for line in paper_fidelity_figure(table).axes[0].lines if line.get_linestyle() == "None"]
    null, simulated = ((float(one.get_xdata()[0]), float(one.get_ydata()[0])) for one in lines)
    assert null == pytest.approx((250.0, 212.5)) and simulated == pytest.approx((250.0, 240.0))


def test_identity_is_drawn_and_both_axes_have_the_same_limits() -> None:
    for axis in paper_fidelity_figure(fidelity_table()).axes:
        assert axis.get_xlim() == axis.get_ylim()
        (identity,) = [line for line in axis.lines if line.get_linestyle() == "-"]
        assert list(identity.get_xdata()) == list(identity.get_ydata())


def test_titles_tell_the_error_beside_that_of_the_null_model() -> None:
    shown = texts(paper_fidelity_figure(fidelity_table()))
    assert "QPS at 95 % QoS\nerror 4 %, null 15 %" in shown
    assert " points, null " in shown


def test_a_null_model_that_was_not_run_is_left_out() -> None:
    shown = texts(paper_fidelity_figure(fidelity_table().assign(null=np.nan)))
    assert "error 4 %\n" in shown + "\n" and "null 1" not in shown


def test_the_error_of_the_cost_model_is_that_of_the_held_out_layers() -> None:
    table = cost_table(["resnet50"])
    held = table[table["held_out"]]
    error = 100 * (held["modelled_s"] / held["measured_s"] - 1).abs().median()
    assert f"error {error:.3g} %, null " in texts(paper_cost_fit_figure(table))


def test_dots_of_the_fit_and_held_out_ones_are_told_apart_by_shape() -> None:
    fitted, held = paper_cost_fit_figure(cost_table(["resnet50"])).axes[0].collections[:2]
    table = cost_table(["resnet50"])
    assert len(held.get_offsets()) == table["held_out"].sum()
    assert len(fitted.get_offsets()) == (~table["held_out"]).sum()
    assert len(fitted.get_paths()[0]) != len(held.get_paths()[0])


def test_slowdowns_stand_beside_a_null_model_at_one() -> None:
    axis = paper_corun_fit_figure(corun_table()).axes[0]
    assert [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == ":"] == [1]
    assert "slowdown (\N{MULTIPLICATION SIGN})" in axis.get_xlabel()


def test_without_held_out_rows_there_is_no_error_to_print() -> None:
    table = corun_table().assign(held_out=False)
    assert "nothing was held out" in texts(paper_corun_fit_figure(table))


def test_missing_columns_unknown_metrics_and_empty_tables_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fidelity: columns \['null'\]"):
        paper_fidelity_figure(fidelity_table().drop(columns="null"))
    with pytest.raises(ValueError, match=r"metrics \['speed'\]; known are qps_at_95"):
        paper_fidelity_figure(fidelity_table().assign(metric="speed"))
    with pytest.raises(ValueError, match="cost_fit is empty"):
        paper_cost_fit_figure(cost_table()[:0])
    with pytest.raises(ValueError, match="corun_fit is empty"):
        paper_corun_fit_figure(corun_table()[:0])
