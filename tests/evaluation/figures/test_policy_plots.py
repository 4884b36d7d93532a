from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.support.evaluation.figure_texts import overlaps, texts
from tests.support.evaluation.plot_tables import ENGINE, SIX, rate_table, seed_table, target_table, unservable
from veltair.evaluation.figures.policy_plots import (
    paper_efficiency_figure,
    paper_fluid_figure,
    paper_latency_figure,
    paper_qps_figure,
    paper_ratio_figure,
)

FIGURES = (
    paper_qps_figure,
    paper_ratio_figure,
    paper_fluid_figure,
    paper_efficiency_figure,
    paper_latency_figure,
)
Draw = Callable[[pd.DataFrame, pd.DataFrame, pd.DataFrame], Figure]


def draw(figure: Draw, *args: Any, **kwargs: Any) -> Figure:
    """Return a figure of made-up seeds; the arguments are those of `seed_table`."""
    kwargs = {"seeds": [1, 2, 3], "workloads": ["medium", "heavy"]} | kwargs
    return of(figure, seed_table(*args, **kwargs))


def of(figure: Draw, seeds: pd.DataFrame) -> Figure:
    return figure(seeds, rate_table(seeds), target_table())


def bar_widths(figure: Figure, axis: int = 0) -> list[float]:
    return [patch.get_width() for patch in figure.axes[axis].patches]


def whiskers(figure: Figure, axis: int = 0) -> list[tuple[float, float]]:
    """Return where the error bars of a panel begin and end, from the top."""
    found = []
    for collection in figure.axes[axis].collections:
        for (begin, _), (end, _) in collection.get_segments():
            found.append((float(begin), float(end)))
    return found


@pytest.mark.parametrize("figure", FIGURES[:3])
@pytest.mark.filterwarnings("error")
def test_what_nobody_can_serve_is_written_not_drawn(figure: Draw) -> None:
    seeds = seed_table(workloads=["heavy"])
    drawn = of(figure, unservable(seeds, seeds["policy"] != ""))
    assert texts(drawn).split("\n").count("unservable") == 6
    assert bar_widths(drawn) == []


@pytest.mark.parametrize("figure", FIGURES)
def test_a_workload_that_was_not_run_here_has_no_panel(figure: Draw) -> None:
    seeds = pd.concat([seed_table(SIX[:3], [1]), seed_table(["Planaria"], [1], ["light"], [ENGINE])])
    drawn = of(figure, seeds)
    assert sum(axis.get_visible() for axis in drawn.axes) == 5
    assert "not run" in texts(drawn) and overlaps(drawn) == []


def test_bars_are_means_over_seeds_and_whiskers_students_intervals() -> None:
    seeds = seed_table(["Planaria"], [1, 2, 3], ["mix"]).assign(qps_at_95=[10.0, 20.0, 30.0])
    drawn = of(paper_qps_figure, seeds)
    assert bar_widths(drawn) == [20.0]
    # Standard deviation 10, t of 2 degrees of freedom 4.3027: 43.027 / sqrt(3) = 24.84.
    assert whiskers(drawn)[0] == (pytest.approx(-4.84, abs=0.01), pytest.approx(44.84, abs=0.01))


def test_the_worst_models_rate_is_a_diamond() -> None:
    drawn = draw(paper_qps_figure, ["Planaria"], seeds=[1], workloads=["mix"])
    diamonds = [line for line in drawn.axes[0].lines if line.get_marker() == "D"]
    assert diamonds[0].get_xdata()[0] == pytest.approx(0.9 * bar_widths(drawn)[0])


def test_bars_differ_by_hatch_where_colour_is_lost() -> None:
    bars = (
        draw(paper_qps_figure, [*SIX, "Planaria-aware", "EdfMin"], seeds=[1], workloads=["mix"])
        .axes[0]
        .patches
    )
    assert len({bar.get_hatch() for bar in bars}) == len(bars) == 8


def test_an_open_search_is_a_lower_bound() -> None:
    seeds = seed_table(["Planaria"], [1], ["mix"]).assign(high_qps=float("inf"), qps_at_95=60.0)
    assert "≥ 60" in texts(of(paper_qps_figure, seeds))


def ratio_points(drawn: Figure, marker: str) -> list[float]:
    return [float(line.get_xdata()[0]) for line in drawn.axes[0].lines if line.get_marker() == marker]


def with_answers(answers: dict[str, Sequence[float]]) -> pd.DataFrame:
    seeds = seed_table(list(answers), [1, 2], ["mix"])
    return seeds.assign(qps_at_95=[value for values in answers.values() for value in values])


def test_ratios_to_both_references_are_drawn_and_the_first_is_written_with_its_interval() -> None:
    drawn = of(
        paper_ratio_figure,
        with_answers({"LayerWise": (5.0, 10.0), "Planaria": (10.0, 20.0), "Veltair-FULL": (15.0, 30.0)}),
    )
    assert ratio_points(drawn, "o") == [0.5, 1.0, 1.5]
    assert ratio_points(drawn, "s") == [1.0, 2.0, 3.0]
    assert "1.5" in texts(drawn).split("\n")


def test_the_papers_own_ratio_is_a_star_where_it_is_known() -> None:
    seeds = seed_table(workloads=["light", "mix"])
    drawn = paper_ratio_figure(seeds, rate_table(seeds), target_table(), published={"light": 1.71})
    stars = [[line for line in axis.lines if line.get_marker() == "*"] for axis in drawn.axes]
    assert [len(found) for found in stars] == [1, 0]
    assert list(stars[0][0].get_xdata()) == [1.71] and "Veltair-FULL in the paper" in texts(drawn)


def test_latencies_are_drawn_in_milliseconds_with_their_change_against_planaria() -> None:
    seeds = with_answers({"Planaria": (10.0, 20.0), "Veltair-FULL": (15.0, 30.0)})
    rates = rate_table(seeds, (0.5, 0.7, 0.9))
    rates["latency_mean_s"] = [0.1] * 6 + [0.05, 0.06, 0.07] * 2
    drawn = paper_latency_figure(seeds, rates, target_table())
    squares = [line.get_xdata()[0] for line in drawn.axes[0].lines if line.get_marker() == "s"]
    assert squares == pytest.approx([100.0, 60.0])
    assert "\N{MINUS SIGN}50 / \N{MINUS SIGN}40 / \N{MINUS SIGN}30 %" in texts(drawn)


def test_efficiency_is_that_at_seven_tenths_of_planarias_capacity() -> None:
    seeds = seed_table(["Planaria"], [1, 2], ["mix"])
    rates = rate_table(seeds, (0.5, 0.7, 0.9)).assign(cpu_efficiency=[0.1, 0.4, 0.9] * 2)
    assert bar_widths(paper_efficiency_figure(seeds, rates, target_table())) == pytest.approx([40.0])


@pytest.mark.parametrize("figure", FIGURES[3:])
def test_rates_without_the_loads_asked_for_are_refused(figure: Draw) -> None:
    seeds = seed_table(["Planaria"], [1], ["mix"])
    with pytest.raises(ValueError, match="no run of the table of rates is at a load asked for"):
        figure(seeds, rate_table(seeds, (0.2,)), target_table())


@pytest.mark.parametrize("figure", FIGURES)
def test_missing_columns_are_named(figure: Draw) -> None:
    seeds = seed_table()
    with pytest.raises(ValueError, match=r"columns \['unservable'\] are missing"):
        figure(seeds.drop(columns="unservable"), rate_table(seeds), target_table())


def test_whose_capacity_loads_are_shares_of_is_said_where_planaria_serves_nothing() -> None:
    seeds = seed_table(["LayerWise", "Planaria", "Veltair-FULL"], [1], ["mix"])
    seeds = unservable(seeds, seeds["policy"] == "Planaria").assign(fluid_qps=600.0)
    shown = " ".join(texts(of(paper_efficiency_figure, seeds)).split())
    assert "loads are shares of another rate (mix on threadripper-3990x: a tenth of the fluid bound)" in shown
