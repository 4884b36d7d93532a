"""Every registered figure with made-up tables to draw it from: few policies, or as many as a run may have."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from tests.support.isolation_tables import equal_drops_table, neighbour_table
from tests.support.measured_tables import metric_tables, spread_out
from tests.support.plot_tables import (
    SIX,
    conflict_table,
    corun_table,
    cost_table,
    fidelity_table,
    granularity_table,
    need_table,
    rate_table,
    scale_table,
    seed_table,
    sensitivity_table,
    slowdown_table,
    target_table,
    unservable,
)
from veltair.evaluation.reports.paper_figures import PAPER_FIGURES

Tables = Mapping[str, pd.DataFrame]
MANY = (*SIX, "Planaria-aware", "my_schedulers.experimental.slack:SlackPricedElasticPolicyWithAdmission")
# Of policies with capacities by seed, of runs, and of none of these.
OF_CAPACITIES = (
    *("paper_qps", "paper_ratio", "paper_fluid"),
    *("paper_sensitivity", "paper_scale", "paper_equal_drops"),
)
OF_LOADS = ("paper_efficiency", "paper_latency")
OF_RUNS = ("latency", "paper_granularity", "paper_conflicts", "paper_noisy_neighbour")
MEASURED = ("paper_fidelity", "paper_cost_fit", "paper_corun_fit")


def tables(
    policies: Sequence[str] = SIX,
    seeds: Sequence[int] = (1, 2, 3),
    workloads: Sequence[str] = ("medium", "heavy"),
) -> dict[str, pd.DataFrame]:
    """Return all tables that figures are drawn from."""
    made = seed_table(policies, seeds, workloads)
    return {
        "capacity_seeds": made,
        "rates": rate_table(made),
        "targets": target_table(),
        "granularity": granularity_table(seeds),
        "conflicts": conflict_table(policies, workloads),
        "noisy_neighbour": neighbour_table(policies, seeds),
        "equal_drops": equal_drops_table(made),
        "core_need": need_table(),
        "slowdown": slowdown_table(),
        "sensitivity": sensitivity_table(seeds),
        "scale": scale_table(seeds),
        "fidelity": fidelity_table(policies),
        "cost_fit": cost_table(),
        "corun_fit": corun_table(),
        **metric_tables(spread_out(policies), workloads),
    }


def draw(name: str, made: Tables) -> Figure:
    """Return a registered figure."""
    figure = PAPER_FIGURES[name]
    return figure.draw(*(made[table] for table in figure.tables))


def changed(made: Tables, change: Callable[[pd.DataFrame], pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the tables with a change to all but the targets."""
    return {name: table if name == "targets" else change(table) for name, table in made.items()}


def nothing_served(made: Tables) -> dict[str, pd.DataFrame]:
    """Return the tables where no policy can serve anything."""
    names = ("capacity_seeds", "sensitivity", "scale", "equal_drops")
    served_nothing = {name: unservable(made[name], made[name]["seed"] > 0) for name in names}
    return {**made, **served_nothing}
