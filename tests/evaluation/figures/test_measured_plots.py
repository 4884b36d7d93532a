import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from tests.support.evaluation.figure_texts import texts
from tests.support.evaluation.measured_tables import POLICIES, metric_tables
from tests.support.evaluation.plot_tables import target_table
from veltair.evaluation.figures.measured_plots import measured_figure

NAMES = ("curves", "measured_capacity", "measured_ratios")


def figure(**changes: object) -> Figure:
    made = metric_tables() | changes
    return measured_figure(*(made[name] for name in NAMES), target_table())  # type: ignore[arg-type]


def test_each_policy_has_a_line_that_does_not_rise_with_its_band_and_what_was_measured() -> None:
    left, _ = figure().axes
    lines = [line for line in left.lines if len(line.get_xdata()) == 4]
    assert len(lines) == 2 * len(POLICIES)  # fitted, and as measured
    assert len(left.collections) == len(POLICIES)
    for line in lines[::2]:
        values = list(line.get_ydata())
        assert values == sorted(values, reverse=True)


def test_a_policy_beyond_the_rates_is_told_in_words_and_by_an_arrow() -> None:
    shown = texts(figure())
    assert "below the lowest rate" in shown
    assert "above the highest rate" in shown
    arrows = [note for note in figure().axes[1].texts if isinstance(note, Annotation) and note.arrow_patch]
    begins = [(note.xyann[0], note.xy[0]) for note in arrows]
    assert begins == [(10.0, pytest.approx(3.0)), (40.0, pytest.approx(43.2))]


def test_a_policy_on_the_grid_is_told_with_its_interval_and_its_ratio_to_planaria() -> None:
    row = metric_tables()["measured_capacity"].set_index("policy").loc["Faster"]
    shown = texts(figure())
    assert f"{row['at_least_qps']:.1f} [" in shown
    assert "]; 1.11" in shown


def test_a_bound_of_a_ratio_is_told_as_one() -> None:
    shown = texts(figure())
    assert "below the lowest rate; < 0.4" in shown
    assert "above the highest rate; > 1.7" in shown


def test_without_planaria_there_are_no_ratios() -> None:
    made = metric_tables({"Faster": 27.0, "Other": 25.0})
    drawn = measured_figure(*(made[name] for name in NAMES), target_table())
    assert "over Planaria" not in texts(drawn).split("Left:")[0]


def test_whiskers_end_where_the_rates_do() -> None:
    made = metric_tables()["measured_capacity"]
    open_ended = made.assign(low_qps=0.0, high_qps=float("inf"))
    _, right = figure(measured_capacity=open_ended).axes
    whiskers = [line.get_xdata() for line in right.lines if len(line.get_xdata()) == 2]
    drawn = [tuple(ends) for ends in whiskers if tuple(ends) not in ((10.0, 10.0), (40.0, 40.0))]
    assert (10.0, 40.0) in drawn


def test_one_round_has_neither_bands_nor_whiskers() -> None:
    made = metric_tables()
    nothing = {"low": float("nan"), "high": float("nan")}
    curves = made["curves"].assign(**nothing, rounds=1)
    alone = made["measured_capacity"].assign(low_qps=float("nan"), high_qps=float("nan"))
    left, _ = figure(curves=curves, measured_capacity=alone).axes
    assert len(left.collections) == 0


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="there is nothing to draw"):
        figure(curves=metric_tables()["curves"][:0])
