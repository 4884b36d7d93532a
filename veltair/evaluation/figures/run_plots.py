"""Figures of what happens in runs: satisfaction and latency over offered rate, and conflicts over time."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from veltair.evaluation.figures.grid import at_panel, panel_grid, sample_notes, with_models
from veltair.evaluation.figures.style import SMALL, PolicyStyle, fold, make_log, style, wide
from veltair.evaluation.metrics.metrics import RATE_COLUMNS
from veltair.evaluation.metrics.policies_table import (
    AS_THEY_COME,
    SCENARIO_COLUMNS,
    PolicyOrder,
    number,
    span,
)
from veltair.evaluation.metrics.records import RUN_COLUMNS, check_columns
from veltair.evaluation.metrics.targets import SATISFACTION

CEILING = 20  # times the longest QoS: above it latency tells how long the run was, not how good the policy
GRANULARITY_COLUMNS = (*RUN_COLUMNS, "queries", "satisfaction", "conflict_rate")
CONFLICT_COLUMNS = (
    *RUN_COLUMNS,
    "begin_s",
    "end_s",
    "starts",
    "conflicts",
    "held_cores",
    "cores",
    "arrivals",
)


def latency_figure(rates: pd.DataFrame, targets: pd.DataFrame, order: PolicyOrder = AS_THEY_COME) -> Figure:
    """Return lines over the offered rate: queries on time and, under it, average latency beside the QoS.

    `rates` has one row a run, as rates.csv. Several seeds are drawn as their mean with a band from the least
    to the largest. The axis of latencies ends at `CEILING` times the longest QoS.
    """
    check_columns(rates, RATE_COLUMNS, "rates")
    with style():
        drawn = panel_grid(rates, targets, (2.9, 4.3), ratios=(1, 1.25))
        styles = PolicyStyle(rates["policy"], order)
        for panel, (upper, lower) in drawn.stacks.items():
            here = at_panel(rates, panel)
            _draw_lines(upper, styles, here, "satisfaction")
            _draw_lines(lower, styles, here, "latency_mean_s", factor=1000)
            upper.axhline(100 * SATISFACTION, color="black", linestyle=":", linewidth=1)
            upper.set_ylim(top=103)
            upper.tick_params(labelbottom=False)
            _draw_qos(lower, here, targets[targets["machine"] == panel[1]])
            if drawn.leftmost(panel):
                upper.set_ylabel("on time (% of queries)")
                lower.set_ylabel("average latency (ms)")
            lower.set_xlabel("offered rate (queries/s)" if panel[:2] == drawn.lowest else "")
        lead = (
            "Share of queries on time and average latency from the scheduled arrival, by offered rate. "
            f"Dotted: {number(100 * SATISFACTION)} %, and the QoS. Latencies above {CEILING} times the "
            "longest QoS are beyond the upper edge. Bands: from the least to the largest seed."
        )
        notes = [*sample_notes(rates, targets, interval=False), *styles.notes]
        return drawn.finish(styles.line_handles(), [lead, *notes])


def paper_granularity_figure(
    runs: pd.DataFrame, targets: pd.DataFrame, order: PolicyOrder = AS_THEY_COME
) -> Figure:
    """Return lines over the offered rate: queries on time and, under it, block starts in conflict.

    `runs` has one row a run, as granularity.csv. Several seeds are drawn as their mean with a band from the
    least to the largest.
    """
    check_columns(runs, GRANULARITY_COLUMNS, "granularity")
    with style():
        drawn = panel_grid(runs, targets, (2.7, 4.0), ratios=(1.3, 1))
        styles = PolicyStyle(runs["policy"], order)
        for panel, (upper, lower) in drawn.stacks.items():
            here = at_panel(runs, panel)
            _draw_lines(upper, styles, here, "satisfaction")
            _draw_lines(lower, styles, here, "conflict_rate")
            upper.axhline(100 * SATISFACTION, color="black", linestyle=":", linewidth=1)
            upper.set_ylim(0, 103)
            upper.tick_params(labelbottom=False)
            # Below 0, so that lines without a conflict are seen.
            lower.set_ylim(bottom=-0.04 * lower.get_ylim()[1])
            if drawn.leftmost(panel):
                upper.set_ylabel("on time (% of queries)")
                lower.set_ylabel("conflicts (% of starts)")
            lower.set_xlabel("offered rate (queries/s)" if panel[:2] == drawn.lowest else "")
        lead = (
            "Share of queries on time and of block starts with fewer cores than wanted, by offered rate. "
            f"Dotted: {number(100 * SATISFACTION)} %. Bands: from the least to the largest seed."
        )
        notes = [*sample_notes(runs, targets, interval=False), *styles.notes]
        return drawn.finish(styles.line_handles(), [lead, *notes])


def paper_conflicts_figure(
    bins: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame, order: PolicyOrder = AS_THEY_COME
) -> Figure:
    """Return the share of block starts in conflict over time: a strip for each policy, all at one rate.

    `bins` has one row a run and stretch of time, as conflicts.csv: one seed, and one rate a workload.
    `rates` names the models of a workload. The dotted line is the share of the cores that were held. Raises
    ValueError where policies were offered different rates, or a policy has several seeds.
    """
    check_columns(bins, CONFLICT_COLUMNS, "conflicts")
    _check_equal_load(bins)
    styles = PolicyStyle(bins["policy"], order)
    count = len(styles.policies)
    longest = max(len(line) for policy in styles.policies for line in fold(policy).split("\n"))
    with style():
        drawn = panel_grid(
            with_models(bins, rates),
            targets,
            (2.7, 0.45 + 0.62 * count),
            0.4 + 0.08 * longest,
            (1.0,) * count,
        )
        for panel, stack in drawn.stacks.items():
            here = at_panel(bins, panel)
            for axis, policy in zip(stack, styles.policies, strict=True):
                _draw_strip(axis, here[here["policy"] == policy])
                if drawn.leftmost(panel):
                    axis.set_ylabel(fold(policy), rotation=0, ha="right", va="center")
                else:
                    axis.tick_params(labelleft=False)
                axis.set_xlim(here["begin_s"].min(), here["end_s"].max())
                axis.tick_params(labelbottom=axis is stack[-1])
            stack[0].annotate(
                f"at {number(here['qps'].iloc[0])} queries/s",
                (1, 1),
                (0, 4),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                fontsize=SMALL,
            )
            stack[-1].set_xlabel("time since the run began (s)" if panel[:2] == drawn.lowest else "")
        handles = [
            Patch(facecolor="0.55", edgecolor="black", label="block starts in conflict (%)"),
            Line2D([], [], color="black", linestyle=":", label="cores held (%)"),
        ]
        lead = (
            "Block starts with fewer cores than wanted, as a share of the starts in each stretch of time. At "
            "the right the share over the whole run; a gap: no block started. Strips reach from 0 to 100 %."
        )
        return drawn.finish(handles, [lead, *sample_notes(bins, targets, interval=False), *styles.notes])


def _draw_lines(
    axis: Axes, styles: PolicyStyle, here: pd.DataFrame, metric: str, factor: float = 100
) -> None:
    known = here.assign(drawn=factor * here[metric].astype("float64")).dropna(subset=["drawn"])
    styles.lines(axis, known, "qps")
    if wide(here["qps"]):
        make_log(axis, "x")


def _draw_qos(axis: Axes, here: pd.DataFrame, targets: pd.DataFrame) -> None:
    """Draw the models' QoS as lines, and end the axis where latency no longer tells policies apart."""
    models = ", ".join(here["models"].unique()).split(", ")
    known = targets[targets["model"].isin(models)]
    latency_ms, qos_ms, ceiling_ms = 1000 * here["latency_mean_s"], 1000 * known["qos_s"], math.inf
    if len(known):
        for value in sorted(qos_ms.unique()):
            axis.axhline(value, color="black", linestyle=":", linewidth=1)
        star = "*" if known["relaxed"].astype(bool).any() else ""
        axis.set_title(f"QoS {span(qos_ms)} ms{star}", loc="right", fontsize=SMALL)
        ceiling_ms = CEILING * float(qos_ms.max())
    if wide(latency_ms.clip(upper=ceiling_ms)):
        make_log(axis, "y")
    if (latency_ms > 0).any():
        axis.set_ylim(top=min(ceiling_ms, 2 * max([latency_ms.max(), *qos_ms])))


def _draw_strip(axis: Axes, bins: pd.DataFrame) -> None:
    """Draw a policy's conflicts over time, or say that it was not run."""
    axis.set_ylim(0, 100)
    axis.set_yticks([0, 100])
    axis.tick_params(axis="y", labelsize=SMALL - 1)
    axis.grid(axis="y", color="0.85", linewidth=0.6)
    if bins.empty:
        axis.annotate(
            "not run", (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", fontsize=SMALL
        )
        return
    bins = bins.sort_values("begin_s")
    edges = [*bins["begin_s"], bins["end_s"].iloc[-1]]
    percent = 100 * (bins["conflicts"] / bins["starts"]).where(bins["starts"] > 0)
    axis.stairs(percent, edges, fill=True, color="0.55", linewidth=0)
    axis.stairs(percent, edges, color="black", linewidth=0.7)
    axis.stairs(100 * bins["held_cores"] / bins["cores"], edges, baseline=None, color="black", ls=":", lw=0.9)
    starts = int(bins["starts"].sum())
    mean = f"{number(100 * bins['conflicts'].sum() / starts)} %" if starts else "no start"
    axis.annotate(
        mean,
        (1, 0.5),
        (4, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
    )


def _check_equal_load(bins: pd.DataFrame) -> None:
    for index, rows in bins.groupby(list(SCENARIO_COLUMNS), sort=False):
        for column in ("qps", "seed"):
            values = sorted(rows[column].unique().tolist())
            if len(values) > 1:
                raise ValueError(
                    f"conflicts: {index} has the {column} {values}; give the runs of all policies at one "
                    "rate with one seed"
                )
