"""The figures of the validation: what was measured on a machine against what the models say of it."""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from veltair.evaluation.figures.grid import UNVALIDATED, sample_text
from veltair.evaluation.figures.style import PolicyStyle, finish, flow, make_log, name_outer, style, wide
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, PolicyOrder, number
from veltair.evaluation.metrics.records import check_columns

FIDELITY_COLUMNS = (
    *("machine", "validated", "workload", "policy", "seed", "queries"),
    *("metric", "measured", "simulated", "null"),
)
COST_COLUMNS = (
    "machine",
    "validated",
    "model",
    "cores",
    "level",
    "held_out",
    "measured_s",
    "modelled_s",
    "null_s",
)
CORUN_COLUMNS = (
    "machine",
    "validated",
    "corun",
    "cores",
    "held_out",
    "measured_slowdown",
    "modelled_slowdown",
)
PANEL_IN = 2.75
COLUMNS = 4
TIMES = "\N{MULTIPLICATION SIGN}"
DOT: dict[str, Any] = {"s": 11, "linewidth": 0.5}


class MetricStyle(NamedTuple):
    """How a metric is drawn: its name, unit and factor to it, and the error that the validation aims at.

    `relative` tells whether the goal is a share of the measured value or, as it stands, in the unit.
    """

    name: str
    unit: str
    factor: float
    goal: float
    relative: bool


METRICS = {
    "qps_at_95": MetricStyle("QPS at 95 % QoS", "queries/s", 1.0, 0.05, True),
    "served_qps": MetricStyle("queries served", "queries/s", 1.0, 0.05, True),
    "latency_p50_s": MetricStyle("median latency", "ms", 1e3, 0.08, True),
    "latency_p95_s": MetricStyle("95th percentile of latency", "ms", 1e3, 0.08, True),
    "satisfaction": MetricStyle("on time", "% of queries", 100.0, 2.0, False),
}
BAND = "0.8"  # grey of the errors aimed at
FEW_TICKS = 5  # that an axis of a square panel has room for
LAYER_GOAL = 0.1  # of the cost model and of the model of co-runs, relative


def paper_fidelity_figure(table: pd.DataFrame, order: PolicyOrder = AS_THEY_COME) -> Figure:
    """Return simulated over measured values of the same traces: a panel a metric, a marker a policy.

    `table` has one row a policy, workload, trace and metric, as fidelity.csv. Large open markers are the
    null model, which knows no contention; the band is the error aimed at. Raises ValueError for a metric
    that is not among `METRICS`.
    """
    check_columns(table, FIDELITY_COLUMNS, "fidelity")
    unknown = sorted(set(table["metric"]) - set(METRICS))
    if unknown or table.empty:
        raise ValueError(
            f"there is nothing to draw: the table fidelity has {len(table)} rows and the metrics {unknown}; "
            f"known are {', '.join(METRICS)}"
        )
    styles = PolicyStyle(table["policy"], order)
    metrics = [name for name in METRICS if name in set(table["metric"])]
    with style():
        figure, axes = _squares(len(metrics))
        for axis, name in zip(axes, metrics, strict=True):
            _draw_metric(axis, styles, table[table["metric"] == name], METRICS[name])
        handles: list[Line2D | Patch] = [
            styles.handle(policy, linestyle="none") for policy in styles.policies
        ]
        handles += [_null_handle(), *_reference_handles("error aimed at")]
        notes = [
            f"{_source(machine, rows)}: {sample_text(rows, interval=False)}"
            for machine, rows in table.groupby("machine", sort=False)
        ]
        lead = (
            "The same recorded arrivals, measured on the engine and simulated; errors are medians over the "
            "points. Null model: the simulator without contention, the same where its ring is around a point."
        )
        return finish(figure, handles, [lead, *notes, *styles.notes])


def paper_cost_fit_figure(table: pd.DataFrame) -> Figure:
    """Return the cost model against measured layers: a panel a model, a dot a layer, version, cores, level.

    `table` is cost_fit.csv. Filled dots took part in the fit, open ones were held out; the errors are those
    of the latter, beside those of the null model.
    """
    check_columns(table, COST_COLUMNS, "cost_fit")
    if table.empty:
        raise ValueError("there is nothing to draw: the table cost_fit is empty")
    panels = list(table.groupby(["machine", "model"], sort=False))
    with style():
        figure, axes = _squares(len(panels))
        for axis, ((machine, model), rows) in zip(axes, panels, strict=True):
            measured, modelled = 1e3 * rows["measured_s"], 1e3 * rows["modelled_s"]
            _dots(axis, measured, modelled, rows["held_out"].astype(bool))
            _square_axes(axis, measured, modelled, LAYER_GOAL, relative=True, logarithmic=True)
            held = rows[rows["held_out"].astype(bool)]
            text = _errors(held["measured_s"], held["modelled_s"], held["null_s"])
            axis.set_title(f"{model}, {_source(machine, rows)}\n{text}", loc="left", fontsize=8)
            _tint(axis, rows)
        name_outer(axes, COLUMNS, "measured (ms)", "modelled (ms)")
        caption = (
            "Time of one layer in one version on some cores at a pressure. Errors: medians of |modelled / "
            f"measured \N{MINUS SIGN} 1| over the held-out dots. {_counts(table)} Null model: no contention."
        )
        return finish(figure, [*_dot_handles(), *_reference_handles("error aimed at")], [caption])


def paper_corun_fit_figure(table: pd.DataFrame) -> Figure:
    """Return modelled over measured slowdowns of co-runs: a panel a machine, the null model at 1.

    `table` is corun_fit.csv, one row a co-run.
    """
    check_columns(table, CORUN_COLUMNS, "corun_fit")
    if table.empty:
        raise ValueError("there is nothing to draw: the table corun_fit is empty")
    panels = list(table.groupby("machine", sort=False))
    with style():
        figure, axes = _squares(len(panels))
        for axis, (machine, rows) in zip(axes, panels, strict=True):
            measured, modelled = rows["measured_slowdown"], rows["modelled_slowdown"]
            _dots(axis, measured, modelled, rows["held_out"].astype(bool))
            _square_axes(axis, measured, modelled, LAYER_GOAL, relative=True, logarithmic=False)
            axis.axhline(1, color="0.35", linestyle=":", linewidth=1)
            held = rows[rows["held_out"].astype(bool)]
            text = _errors(
                held["measured_slowdown"], held["modelled_slowdown"], held["measured_slowdown"] * 0 + 1
            )
            axis.set_title(f"{_source(machine, rows)}\n{text}", loc="left", fontsize=8)
            _tint(axis, rows)
        name_outer(axes, COLUMNS, f"measured slowdown ({TIMES})", f"modelled slowdown ({TIMES})")
        null = Line2D([], [], color="0.35", linestyle=":", label="null model: no slowdown")
        caption = (
            "Slowdown of a block beside others against alone. Errors: medians of |modelled / measured "
            f"\N{MINUS SIGN} 1| over the held-out co-runs. {_counts(table)}"
        )
        return finish(figure, [*_dot_handles(), null, *_reference_handles("error aimed at")], [caption])


def _draw_metric(axis: Axes, styles: PolicyStyle, rows: pd.DataFrame, metric: MetricStyle) -> None:
    measured, simulated, null = (metric.factor * rows[name] for name in ("measured", "simulated", "null"))
    known = pd.concat([simulated, null.dropna()])
    logarithmic = metric.relative and wide(pd.concat([measured, known]))
    _square_axes(axis, measured, known, metric.goal, metric.relative, logarithmic)
    for policy in styles.policies:
        of = rows["policy"] == policy
        mark, colour = styles.markers[policy], styles.colours[policy]
        common: dict[str, Any] = {"linestyle": "none", "marker": mark}
        axis.plot(
            measured[of], null[of], markersize=10, color="0.4", markerfacecolor="none", zorder=2, **common
        )
        axis.plot(
            measured[of],
            simulated[of],
            markersize=6.5,
            color=colour,
            markeredgecolor="white",
            zorder=3,
            **common,
        )
    text = _errors(measured, simulated, null) if metric.relative else _points(measured, simulated, null)
    axis.set_title(f"{metric.name}\n{text}", loc="left", fontsize=8)
    _tint(axis, rows)
    axis.set_xlabel(f"measured ({metric.unit})")
    axis.set_ylabel(f"simulated ({metric.unit})")


def _source(machine: object, rows: pd.DataFrame) -> str:
    return f"{machine}" + ("" if _validated(rows) else ": UNVALIDATED")


def _tint(axis: Axes, rows: pd.DataFrame) -> None:
    if not _validated(rows):
        axis.set_facecolor(UNVALIDATED)


def _validated(rows: pd.DataFrame) -> bool:
    return bool(rows["validated"].astype(bool).all())


def _square_axes(
    axis: Axes,
    measured: "pd.Series[float]",
    modelled: "pd.Series[float]",
    goal: float,
    relative: bool,
    logarithmic: bool,
) -> None:
    """Give both axes the same limits, and draw the identity and the band of the error aimed at."""
    both = pd.concat([measured, modelled])
    both = both[np.isfinite(both) & ((both > 0) | (not logarithmic))]
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    limits = (low / 1.3, high * 1.3) if logarithmic else (low - room, high + room)
    line = np.array(limits)
    reach = goal * line if relative else np.array([goal, goal])
    axis.fill_between(line, line - reach, line + reach, color=BAND, linewidth=0, zorder=0)
    axis.plot(line, line, color="black", linewidth=0.8, zorder=1)
    if logarithmic:
        make_log(axis, "x", most=FEW_TICKS)
        make_log(axis, "y", most=FEW_TICKS)
    axis.set(xlim=limits, ylim=limits)
    axis.set_aspect("equal")
    axis.grid(color="0.9", linewidth=0.6)


def _dots(
    axis: Axes, measured: "pd.Series[float]", modelled: "pd.Series[float]", held: "pd.Series[bool]"
) -> None:
    """Draw thousands of dots as one picture inside the figure: as shapes they would weigh megabytes."""
    colour = sns.color_palette("colorblind")[0]
    axis.scatter(measured[~held], modelled[~held], color="0.6", marker="o", rasterized=True, zorder=2, **DOT)
    axis.scatter(
        measured[held],
        modelled[held],
        facecolor="none",
        edgecolor=[colour],
        marker="^",
        rasterized=True,
        zorder=3,
        **{**DOT, "linewidth": 0.9},
    )


def _errors(measured: "pd.Series[float]", modelled: "pd.Series[float]", null: "pd.Series[float]") -> str:
    ours, theirs = (100 * float((values / measured - 1).abs().median()) for values in (modelled, null))
    return _text(ours, theirs, " %")


def _points(measured: "pd.Series[float]", simulated: "pd.Series[float]", null: "pd.Series[float]") -> str:
    ours, theirs = (float((values - measured).abs().median()) for values in (simulated, null))
    return _text(ours, theirs, " points")


def _text(ours: float, theirs: float, unit: str) -> str:
    if math.isnan(ours):
        return "nothing was held out"
    beside = "" if math.isnan(theirs) else f", null {number(theirs)}{unit}"
    return f"error {number(ours)}{unit}{beside}"


def _counts(table: pd.DataFrame) -> str:
    held = int(table["held_out"].astype(bool).sum())
    return f"n = {len(table)}, {held} of them held out; no seed."


def _squares(count: int) -> tuple[Figure, list[Axes]]:
    figure, stacks = flow(count, (PANEL_IN, PANEL_IN + 0.25), COLUMNS)
    return figure, [axis for (axis,) in stacks]


def _dot_handles() -> list[Line2D]:
    colour = sns.color_palette("colorblind")[0]
    held = Line2D([], [], color=colour, marker="^", ls="", markerfacecolor="none", label="held out")
    return [held, Line2D([], [], color="0.6", marker="o", ls="", markersize=4, label="took part in the fit")]


def _reference_handles(band: str) -> list[Line2D | Patch]:
    return [Line2D([], [], color="black", lw=0.8, label="equal"), Patch(facecolor=BAND, label=band)]


def _null_handle() -> Line2D:
    return Line2D(
        [], [], color="0.4", marker="o", ls="", markersize=10, markerfacecolor="none", label="null model"
    )
