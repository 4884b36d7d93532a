"""The figure of measured runs: satisfaction over the offered rate, and beside it QPS at 95 % QoS."""

from collections.abc import Hashable
from math import isinf, isnan
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from veltair.evaluation.figures.grid import UNVALIDATED, relaxed_here, relaxed_text
from veltair.evaluation.figures.style import PolicyStyle, finish, style, write_beside
from veltair.evaluation.loadgen.logs import LOADGEN
from veltair.evaluation.metrics.bounds import Bounds, Reach
from veltair.evaluation.metrics.capacity_table import REFERENCE
from veltair.evaluation.metrics.measured_tables import CURVE_COLUMNS, MEASURED_COLUMNS, RATIO_COLUMNS
from veltair.evaluation.metrics.policies_table import (
    AS_THEY_COME,
    PolicyOrder,
    Row,
    number,
    source_name,
    span,
)
from veltair.evaluation.metrics.records import check_columns
from veltair.evaluation.metrics.targets import SATISFACTION

CURVE_IN, CAPACITY_IN, TEXT_IN = 3.9, 2.4, 2.5  # widths
ROW_IN, LEAST_IN = 0.3, 2.6
BAND = 0.16  # opacity
BEYOND = {Reach.BELOW: "below the lowest rate", Reach.ABOVE: "above the highest rate"}
ARROW = {"arrowstyle": "->", "color": "black", "shrinkA": 4, "shrinkB": 0}


def measured_figure(
    curves: pd.DataFrame,
    capacities: pd.DataFrame,
    ratios: pd.DataFrame,
    targets: pd.DataFrame,
    order: PolicyOrder = AS_THEY_COME,
) -> Figure:
    """Return a row a workload: a line with a band a policy over the rate, and the rates where they cross.

    The tables are curves.csv, measured_capacity.csv, measured_ratios.csv and targets.csv.
    """
    check_columns(curves, (*CURVE_COLUMNS, "models", "client"), "curves")
    check_columns(capacities, MEASURED_COLUMNS, "measured_capacity")
    check_columns(ratios, RATIO_COLUMNS, "measured_ratios")
    if curves.empty:
        raise ValueError("there is nothing to draw: the table of curves is empty")
    workloads = list(dict.fromkeys(curves["workload"]))
    with style():
        styles = PolicyStyle(curves["policy"], order)
        row_in = max(LEAST_IN, 0.6 + ROW_IN * len(styles.policies))
        size = (CURVE_IN + CAPACITY_IN + TEXT_IN, (row_in + 0.35) * len(workloads))
        figure = Figure(figsize=size, layout="constrained")
        widths = (CURVE_IN, CAPACITY_IN)
        axes = figure.subplots(len(workloads), 2, squeeze=False, width_ratios=widths)
        for workload, (left, right) in zip(workloads, axes, strict=True):
            own, found, to = (table[table["workload"] == workload] for table in (curves, capacities, ratios))
            left.set_title(_title(own, targets, workload), loc="left", weight="bold", fontsize=9)
            if not own["validated"].astype(bool).all():
                for axis in (left, right):
                    axis.set_facecolor(UNVALIDATED)
            _draw_curves(left, styles, own)
            _draw_capacities(right, styles, found, to, own["qps"])
        left.set_xlabel("offered rate (queries/s)")
        right.set_xlabel("QPS at 95 % QoS (queries/s)")
        return finish(figure, _handles(styles), [_lead(curves), *_relaxed(targets, curves), *styles.notes])


def _title(curves: pd.DataFrame, targets: pd.DataFrame, workload: str) -> str:
    """Return workload, machine, a star where a target was relaxed, and a client that is not LoadGen."""
    first = curves.iloc[0]
    source = (str(first["backend"]), str(first["machine"]))
    star = " (* relaxed QoS)" if relaxed_here(curves, targets, source, workload) else ""
    client = "" if first["client"] == LOADGEN else f", {first['client']}"
    return f"{workload}{star}, {source_name(source, curves)}{client}"


def _draw_curves(axis: Axes, styles: PolicyStyle, curves: pd.DataFrame) -> None:
    for policy in styles.policies:
        own = curves[curves["policy"] == policy].sort_values("qps")
        colour = styles.colours[policy]
        if own["low"].notna().any():
            axis.fill_between(
                own["qps"], 100 * own["low"], 100 * own["high"], color=colour, alpha=BAND, linewidth=0
            )
        axis.plot(own["qps"], 100 * own["fitted"], color=colour, linestyle=styles.linestyle(policy))
        look: dict[str, Any] = {
            "color": colour,
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
            "markersize": 5,
        }
        axis.plot(own["qps"], 100 * own["satisfaction"], styles.markers[policy], **look)
    axis.axhline(100 * SATISFACTION, color="black", linestyle=":", linewidth=1)
    axis.set_ylabel("on time (% of queries)")
    axis.set_ylim(top=103)
    axis.set_xlim(left=0)
    axis.grid(color="0.85", linewidth=0.6)


def _draw_capacities(
    axis: Axes, styles: PolicyStyle, capacities: pd.DataFrame, ratios: pd.DataFrame, rates: "pd.Series[float]"
) -> None:
    """Draw a point a policy with its interval, cut where the rates end, and write its numbers beside."""
    lowest, highest = float(rates.min()), float(rates.max())
    rows = {row["policy"]: row for row in capacities.to_dict("records")}
    to_reference = ratios[ratios["reference"] == REFERENCE].set_index("policy").to_dict("index")
    styles.rows(axis, named=True)
    axis.set_xlim(0, 1.1 * highest)
    write_beside(axis, -0.8, f"queries/s; over {REFERENCE}'s" if to_reference else "queries/s")
    for edge in (lowest, highest):
        axis.axvline(edge, color="0.6", linestyle="--", linewidth=0.7, zorder=1)
    for place, policy in enumerate(styles.policies):
        row = rows.get(policy)
        if row is None:
            write_beside(axis, place, "not run")
            continue
        found = Bounds(row["at_least_qps"], row["at_most_qps"])
        if not isnan(row["low_qps"]):
            ends = max(row["low_qps"], lowest), min(row["high_qps"], highest)
            axis.plot(ends, (place, place), color="black", linewidth=1.1)
        look: dict[str, Any] = {"color": styles.colours[policy], "markeredgecolor": "black"}
        axis.plot([found.value], [place], styles.markers[policy], **look)
        if found.reach in BEYOND:
            end = 0.3 * lowest if found.reach is Reach.BELOW else 1.08 * highest
            axis.annotate("", (end, place), (found.value, place), arrowprops=ARROW)
        write_beside(axis, place, _numbers(found, row, to_reference.get(policy)))


def _numbers(found: Bounds, row: Row, ratio: "dict[Hashable, float] | None") -> str:
    """Return a policy's capacity and its interval, or on which side of the rates it is, and its ratio."""
    text = BEYOND.get(found.reach) or str(found)
    if found.reach is Reach.KNOWN:
        text += _interval(row["low_qps"], row["high_qps"])
    if ratio is None or row["policy"] == REFERENCE:
        return text
    to = Bounds(ratio["at_least"], ratio["at_most"])
    if to.reach is Reach.UNKNOWN:
        return text
    interval = _interval(ratio["low"], ratio["high"]) if to.reach is Reach.KNOWN else ""
    return f"{text}; {to}{interval}"


def _interval(low: float, high: float) -> str:
    """Return an interval in brackets; "…" where it reaches beyond the rates."""
    if isnan(low):
        return ""
    return f" [{number(low) if low else '…'}, {'…' if isinf(high) else number(high)}]"


def _handles(styles: PolicyStyle) -> list[Line2D]:
    whisker = Line2D([], [], color="black", linewidth=1.1, label="95 % interval")
    return [*styles.line_handles(), whisker]


def _lead(curves: pd.DataFrame) -> str:
    rounds = span(curves["rounds"])
    return (
        "Left: share of queries on time by offered rate, as measured (markers) and as the nearest curve that "
        "does not rise (lines), with its 95 % band. Right: where that falls below "
        f"{number(100 * SATISFACTION)} %, with its interval; and over {REFERENCE}'s, paired by round. "
        f"Intervals by bootstrap over {rounds} rounds; dashed: the lowest and the highest rate. Each round "
        "offers all policies the same arrivals. "
        f"n = {span(curves['queries'])} counted queries a policy and rate."
    )


def _relaxed(targets: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    text = relaxed_text(targets, dict.fromkeys(curves["machine"]))
    return [text] if text else []
