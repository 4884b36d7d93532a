from itertools import product

import pandas as pd
import pytest

from tests.support.figure_texts import overlaps, texts
from veltair.evaluation.figures.readings_plots import readings_figure
from veltair.evaluation.metrics.reading_ratios import READING_COLUMNS

SOURCE = ("simulator", "toy", False)
ALPHAS, CONFLICTS, WORKLOADS = (1.0, 0.6), ("shrink", "backfill", "wait"), ("light", "heavy")


def table() -> pd.DataFrame:
    rows = [
        (*SOURCE, workload, "Veltair-FULL", "Planaria", 1, 100, qps, 10.0, qps == 4.0, alpha, conflict)
        for workload in WORKLOADS
        for qps, (alpha, conflict) in zip(
            (4.0, 5.0, 6.0, 8.0, 12.0, 0.0), product(ALPHAS, CONFLICTS), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=[*READING_COLUMNS, "alpha", "conflict"])


def test_each_workload_has_a_panel_and_each_value_a_row() -> None:
    figure = readings_figure(table())
    assert [axis.get_title() for axis in figure.axes] == list(WORKLOADS)
    shown = texts(figure).splitlines()
    for name in ("alpha:", "conflict:", "1.0", "0.6", *CONFLICTS):
        assert name in shown
    assert "6 readings of Veltair-FULL" in " ".join(shown)
    assert "UNVALIDATED" in " ".join(shown)
    assert overlaps(figure) == []


def test_the_means_are_drawn_where_they_are() -> None:
    figure = readings_figure(table())
    drawn = {
        (round(float(line.get_xdata()[0]), 6), float(line.get_ydata()[0]))
        for line in figure.axes[0].lines
        if line.get_marker() == "o"
    }
    # alpha 1.0: 0.4, 0.5, 0.6; alpha 0.6: 0.8, 1.2, 0. Each option's name has a row before its values.
    means = {ratio for ratio, _ in drawn}
    assert {0.5, round(2.0 / 3, 6)} <= means
    assert len(drawn) == 5


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        readings_figure(table().iloc[:0])
