"""Figures of what tenants do to each other, and of what giving up late queries does for everybody."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from veltair.evaluation.figures.grid import INTERVAL_NOTE, at_panel, panel_grid, sample_notes, with_models
from veltair.evaluation.figures.policy_plots import (
    BAR,
    WHISKER,
    bars,
    by_policy,
    name_x,
    policy_grid,
    qps_text,
)
from veltair.evaluation.figures.style import PolicyStyle, style
from veltair.evaluation.loadgen.tenants import OURS
from veltair.evaluation.metrics.capacity_table import capacities
from veltair.evaluation.metrics.neighbour_table import neighbour_shares
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, PolicyOrder, number
from veltair.evaluation.metrics.targets import SATISFACTION


def paper_noisy_neighbour_figure(
    table: pd.DataFrame, targets: pd.DataFrame, order: PolicyOrder = AS_THEY_COME
) -> Figure:
    """Return lines over what one tenant sends, times its share: the others on time, and under it that tenant.

    `table` has one row a run and tenant, as noisy_neighbour.csv. Several seeds are drawn as their mean with a
    band from the least to the largest.
    """
    shares = neighbour_shares(table)
    with style():
        drawn = panel_grid(shares, targets, (3.4, 4.2), ratios=(1.3, 1))
        styles = PolicyStyle(shares["policy"], order)
        for panel, (upper, lower) in drawn.stacks.items():
            here = at_panel(shares, panel)
            _draw_shares(upper, styles, here, "others")
            _draw_shares(lower, styles, here, "aggressor")
            upper.tick_params(labelbottom=False)
            if drawn.leftmost(panel):
                upper.set_ylabel("the others on time\n(% of queries)")
                lower.set_ylabel(f"{here['name'].iloc[0]} on time\n(% of queries)")
            lower.set_xlabel("what it sends (times its share)" if panel[:2] == drawn.lowest else "")
        lead = (
            f"One tenant, {', '.join(dict.fromkeys(shares['name']))}, sends more than its share while the "
            "others keep theirs: queries on time of all others together, and of that tenant. All at their "
            f"shares make {number(shares['load'].iloc[0])} of the reference rate. Dotted: "
            f"{number(100 * SATISFACTION)} %. Arrivals are drawn by {OURS}. Bands: from the least to the "
            "largest seed."
        )
        notes = [*sample_notes(shares, targets, interval=False), *styles.notes]
        return drawn.finish(styles.line_handles(), [lead, *notes])


def paper_equal_drops_figure(
    seeds: pd.DataFrame,
    usual: pd.DataFrame,
    rates: pd.DataFrame,
    targets: pd.DataFrame,
    order: PolicyOrder = AS_THEY_COME,
) -> Figure:
    """Return bars of QPS at 95 % QoS where all policies give up late queries by one rule, and diamonds else.

    `seeds` has a row a workload, policy and seed, as equal_drops.csv, whose `drop_late` is the rule; `usual`,
    as capacity_seeds.csv, is the comparison of the policies as they come.
    """
    ruled, as_they_come = capacities(seeds), capacities(usual)
    with style():
        drawn, styles = policy_grid(ruled, with_models(seeds, rates), targets, order)
        for panel, (axis,) in drawn.stacks.items():
            before = by_policy(as_they_come, panel)
            known = before["mean"].where(before["note"] == "").reindex(styles.policies)
            bars(axis, styles, by_policy(ruled, panel), drawn.leftmost(panel), qps_text, beyond=known)
            axis.plot(known, range(len(known)), "D", color="black", markerfacecolor="white", markersize=4)
            name_x(drawn, panel, axis, "QPS at 95 % QoS (queries/s)")
        diamond = Line2D(
            [], [], color="black", marker="D", markerfacecolor="white", ls="", label="with its own rule"
        )
        rules = dict(zip(seeds["policy"], seeds["drop_late"], strict=True))
        lead = (
            "QPS at 95 % QoS where all policies give up late queries alike: drop_late is "
            f"{', '.join(sorted({*rules.values()} - {''}))}. By what a bar is longer than its diamond, "
            f"giving up serves more, not scheduling. {INTERVAL_NOTE}"
        )
        own = [policy for policy in styles.policies if not rules.get(policy, "")]
        without = [f"Without that option: {', '.join(own)}."] if own else []
        notes = [*sample_notes(seeds, targets), *without, *_ruled(order, rules).options_note(styles.policies)]
        return drawn.finish([BAR, WHISKER, diamond], [lead, *notes])


def _ruled(order: PolicyOrder, rules: Mapping[str, str]) -> PolicyOrder:
    """Return an order that states the rule by which each policy gave up late queries."""
    options = {
        name: {**own, "drop_late": rules[name]} if rules.get(name) else own
        for name, own in order.options.items()
    }
    return replace(order, options=options)


def _draw_shares(axis: Axes, styles: PolicyStyle, here: pd.DataFrame, column: str) -> None:
    known = here.assign(drawn=100 * here[column]).dropna(subset=["drawn"])
    styles.lines(axis, known, "factor")
    axis.axhline(100 * SATISFACTION, color="black", linestyle=":", linewidth=1)
    axis.set_ylim(0, 103)
    axis.set_xlim(left=0)
