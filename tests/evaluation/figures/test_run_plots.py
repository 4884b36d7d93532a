import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from tests.support.evaluation.figure_texts import texts
from tests.support.evaluation.plot_tables import (
    SIX,
    conflict_table,
    granularity_table,
    rate_table,
    seed_table,
    target_table,
)
from veltair.evaluation.figures.run_plots import (
    latency_figure,
    paper_conflicts_figure,
    paper_granularity_figure,
)


def conflicts_figure(table: pd.DataFrame) -> Figure:
    return paper_conflicts_figure(table, rate_table(seed_table(seeds=[1])), target_table())


def test_granularity_is_satisfaction_over_the_offered_rate_with_a_band_of_seeds() -> None:
    runs = granularity_table().query("policy == 'LayerWise' and workload == 'mix'")
    runs = runs.assign(satisfaction=np.where(runs["seed"] == 1, 0.8, 0.9), qps=runs["qps"].round(-1))
    upper = paper_granularity_figure(runs, target_table()).axes[0]
    assert upper.lines[0].get_ydata() == pytest.approx(85.0)
    assert upper.collections[0].get_datalim(upper.transData).ymin == pytest.approx(80.0)


def test_a_strip_is_the_share_of_starts_in_conflict_with_gaps_where_nothing_started() -> None:
    figure = conflicts_figure(conflict_table(["Planaria"]))
    strip = next(patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch))
    values, edges, _ = strip.get_data()
    table = conflict_table(["Planaria"])
    assert np.isnan(values[:2]).all() and edges[-1] == pytest.approx(6.0)
    assert values[2:] == pytest.approx(100 * table["conflicts"][2:] / table["starts"][2:])


def test_each_policy_has_a_strip_with_the_share_of_the_whole_run_beside_it() -> None:
    table = conflict_table()
    figure = conflicts_figure(table)
    assert len(figure.axes) == 6
    own = table[table["policy"] == "Veltair-AS"]
    share = 100 * own["conflicts"].sum() / own["starts"].sum()
    assert f"{share:.3g} %" in texts(figure)


def test_a_policy_without_a_run_on_a_workload_is_said_to_be_missing() -> None:
    table = conflict_table(workloads=["light", "mix"])
    table = table[(table["workload"] == "mix") | (table["policy"] != "Planaria")]
    assert texts(conflicts_figure(table)).split("\n").count("not run") == 1


def test_policies_at_different_rates_are_refused() -> None:
    table = conflict_table(SIX[:2])
    table.loc[table["policy"] == "LayerWise", "qps"] = 61.0
    with pytest.raises(ValueError, match=r"has the qps \[60.0, 61.0\]"):
        conflicts_figure(table)


def test_missing_columns_and_empty_tables_are_refused() -> None:
    with pytest.raises(ValueError, match=r"conflicts: columns \['held_cores'\]"):
        conflicts_figure(conflict_table().drop(columns="held_cores"))
    with pytest.raises(ValueError, match=r"granularity: columns \['satisfaction'\]"):
        paper_granularity_figure(granularity_table().drop(columns="satisfaction"), target_table())
    with pytest.raises(ValueError, match="nothing to draw"):
        paper_granularity_figure(granularity_table()[:0], target_table())


def test_latency_is_drawn_over_the_offered_rate_with_a_band_of_seeds() -> None:
    seeds = seed_table(["Planaria"], [1, 2], ["mix"]).assign(qps_at_95=60.0)
    rates = rate_table(seeds).assign(latency_mean_s=lambda rows: 0.01 * rows["seed"])
    upper, lower = latency_figure(rates, target_table()).axes
    assert lower.lines[0].get_ydata() == pytest.approx([15.0] * 5)
    assert len(upper.collections) == len(lower.collections) == 1


@pytest.mark.parametrize(("slower", "top_ms"), [(1, 100.0), (100, 3680.0)])
def test_the_axis_of_latencies_ends_at_twenty_times_the_longest_qos(slower: float, top_ms: float) -> None:
    # The QoS of the mix reach up to 184 ms; latencies are 50 ms, drawn up to twice the QoS, or 5 s.
    seeds = seed_table(["Planaria"], [1], ["mix"])
    figure = latency_figure(rate_table(seeds).assign(latency_mean_s=0.05 * slower), target_table())
    assert figure.axes[1].get_ylim()[1] == pytest.approx(max(top_ms, 2 * 184.0), rel=1e-3)
    assert [line.get_ydata()[0] for line in figure.axes[1].lines if line.get_linestyle() == ":"] == [
        15.0,
        184.0,
    ]


@pytest.mark.filterwarnings("error")
def test_metrics_that_are_no_numbers_are_gaps() -> None:
    rates = rate_table(seed_table(["Planaria"], [1], ["mix"]))
    assert latency_figure(rates.assign(latency_mean_s=np.nan), target_table()).axes


def test_the_figure_of_latencies_needs_runs() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        latency_figure(rate_table(seed_table(["Planaria"], [1]))[:0], target_table())


@pytest.mark.parametrize(("count", "said"), [(10, "seeds 1, 2, 3, 4, 5, 6, 7, 8, 9, 10."), (11, "11 seeds.")])
def test_few_seeds_are_named_and_many_are_counted(count: int, said: str) -> None:
    rates = rate_table(seed_table(["Planaria"], range(1, count + 1), ["mix"]))
    assert said in " ".join(texts(latency_figure(rates, target_table())).split())
