import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from tests.support.figure_texts import overlaps, texts
from tests.support.plot_tables import (
    SIX,
    conflict_table,
    granularity_table,
    rate_table,
    seed_table,
    target_table,
)
from veltair.evaluation.figures.run_plots import paper_conflicts_figure, paper_granularity_figure


def conflicts_figure(table: pd.DataFrame) -> Figure:
    return paper_conflicts_figure(table, rate_table(seed_table(seeds=[1])), target_table())


def test_no_texts_of_either_figure_cover_each_other() -> None:
    assert overlaps(paper_granularity_figure(granularity_table(), target_table())) == []
    assert overlaps(conflicts_figure(conflict_table(workloads=["light", "mix"]))) == []


def test_granularity_is_satisfaction_over_the_offered_rate_with_a_band_of_seeds() -> None:
    runs = granularity_table().query("policy == 'LayerWise' and workload == 'mix'")
    runs = runs.assign(satisfaction=np.where(runs["seed"] == 1, 0.8, 0.9), qps=runs["qps"].round(-1))
    upper = paper_granularity_figure(runs, target_table()).axes[0]
    assert upper.lines[0].get_ydata() == pytest.approx(85.0)
    assert upper.collections[0].get_datalim(upper.transData).ymin == pytest.approx(80.0)


def test_axes_have_units_and_the_caption_the_sample() -> None:
    figure = paper_granularity_figure(granularity_table(), target_table())
    labels = " ".join(axis.get_xlabel() + axis.get_ylabel() for axis in figure.axes)
    assert all(unit in labels for unit in ("(queries/s)", "(% of queries)", "(% of starts)"))
    assert "n = 9000 counted queries a run, seeds 1, 2." in " ".join(texts(figure).split())


def test_conflicts_tell_how_many_queries_the_run_had() -> None:
    assert "n = 500 queries a run, seed 1." in " ".join(texts(conflicts_figure(conflict_table())).split())


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
