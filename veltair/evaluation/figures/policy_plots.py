"""The paper's figures that compare policies at one point: capacity, ratios, latency, efficiency, bound."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from veltair.evaluation.figures.grid import (
    INTERVAL_NOTE,
    Place,
    Sheet,
    at_place,
    sample_notes,
    sheet,
    with_models,
)
from veltair.evaluation.figures.style import SMALL, PolicyStyle, fold, make_log, style, wide
from veltair.evaluation.metrics.confidence import at_load, capacities, ratios, shares_of_bound
from veltair.evaluation.metrics.policies_table import EQUAL_LOAD, REFERENCE, Row, number

SECOND_REFERENCE = "LayerWise"
LOADS = (0.5, 0.7, 0.9)  # of Planaria's capacity; the paper names no load
LOAD_LOOKS = (("o", "white"), ("s", "0.65"), ("^", "black"))
WINNER = "Veltair-FULL"
STAR: dict[str, Any] = {"color": "black", "markerfacecolor": "white", "markersize": 11}
SQUARE: dict[str, Any] = {"color": "0.45", "marker": "s", "markerfacecolor": "white"}
ROW_IN = 0.27
FEW_TICKS = 4  # labels that a panel has room for beside the numbers at its right
BROAD_IN = 3.4
BAR = Patch(facecolor="0.75", edgecolor="black", label="mean over seeds")
WHISKER = Line2D([], [], color="black", marker="|", markersize=7, label="95 % interval")
Write = Callable[[Row], str]


def paper_qps_figure(seeds: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame) -> Figure:
    """Return bars of QPS at 95 % QoS, with its interval over seeds and a diamond for the worst model's.

    `seeds` has a row a site, workload, policy and seed, as capacity_seeds.csv.
    """
    pooled, worst = capacities(seeds), capacities(seeds, "qps_at_95_minimum")
    with style():
        drawn, look = _sheet(pooled, with_models(seeds, rates), targets)
        for index, (axis,) in drawn.stacks.items():
            least = _by_policy(worst, index)["mean"].reindex(look.policies)
            _bars(axis, look, _by_policy(pooled, index), drawn.leftmost(index), _qps_text, beyond=least)
            axis.plot(least, range(len(least)), "D", color="black", markerfacecolor="white", markersize=4)
            _name_x(drawn, index, axis, "QPS at 95 % QoS (queries/s)")
        diamond = Line2D(
            [], [], color="black", marker="D", markerfacecolor="white", ls="", label="worst model"
        )
        lead = f"QPS at 95 % QoS, all queries pooled. {INTERVAL_NOTE} ≥: a lower bound."
        return drawn.finish([BAR, WHISKER, diamond], [lead, *sample_notes(seeds, targets)])


def paper_ratio_figure(
    seeds: pd.DataFrame,
    rates: pd.DataFrame,
    targets: pd.DataFrame,
    published: Mapping[str, float] | None = None,
) -> Figure:
    """Return QPS at 95 % QoS as ratios, paired by seed: to Planaria (filled) and to LayerWise (open).

    `published` is the paper's ratio of Veltair-FULL to Planaria by workload, drawn as a star.
    """
    found = {REFERENCE: ratios(seeds), SECOND_REFERENCE: ratios(seeds, SECOND_REFERENCE)}
    with style():
        drawn, look = _sheet(found[REFERENCE], with_models(seeds, rates), targets, row_in=0.36, width_in=3.2)
        for index, (axis,) in drawn.stacks.items():
            tables = {name: _by_policy(table, index) for name, table in found.items()}
            _ratio_points(axis, look, tables, drawn.leftmost(index))
            claim = (published or {}).get(index[2])
            if claim is not None and WINNER in look.policies:
                axis.plot([claim], [look.policies.index(WINNER)], "*", zorder=2.5, **STAR)
                axis.set_xlim(right=max(axis.get_xlim()[1], 1.1 * claim))
            _name_x(drawn, index, axis, "ratio of QPS at 95 % QoS")
        handles = [
            Line2D([], [], color="black", marker="o", ls="", label=f"to {REFERENCE}"),
            Line2D(
                [],
                [],
                color="0.45",
                marker="s",
                markerfacecolor="white",
                ls="",
                label=f"to {SECOND_REFERENCE}",
            ),
        ]
        if published:
            handles.append(Line2D([], [], ls="", marker="*", label=f"{WINNER} in the paper", **STAR))
        lead = (
            f"Ratios of QPS at 95 % QoS, paired by seed; numbers: to {REFERENCE}. Panels without squares: "
            f"{SECOND_REFERENCE} serves nothing there. {INTERVAL_NOTE}"
        )
        return drawn.finish(handles, [lead, *sample_notes(seeds, targets)])


def paper_fluid_figure(seeds: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame) -> Figure:
    """Return bars of QPS at 95 % QoS as a share of the fluid bound, which no policy can pass."""
    shares = _percent(shares_of_bound(seeds))
    lead = (
        "QPS at 95 % QoS over the fluid bound: the rate at which the least work of on-time queries alone "
        f"fills all cores. {INTERVAL_NOTE}"
    )
    with style():
        drawn = _bar_sheet(
            shares, with_models(seeds, rates), targets, _qps_text, "share of the fluid bound (%)"
        )
        return drawn.finish([BAR, WHISKER], [lead, *sample_notes(seeds, targets)])


def paper_efficiency_figure(
    seeds: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame, load: float = EQUAL_LOAD
) -> Figure:
    """Return bars of CPU efficiency at a share `load` of Planaria's capacity, with intervals over seeds."""
    found = _percent(_required(at_load(rates, seeds, "cpu_efficiency", load), seeds))
    lead = (
        "CPU efficiency: work-optimal core-ms of on-time queries / core-ms held, at "
        f"{number(100 * load)} % of {REFERENCE}'s QPS at 95 % QoS. {INTERVAL_NOTE}"
    )
    with style():
        drawn = _bar_sheet(found, with_models(seeds, rates), targets, _value_text, "CPU efficiency (%)")
        return drawn.finish([BAR, WHISKER], [lead, *sample_notes(rates, targets)])


def paper_latency_figure(
    seeds: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame, loads: Sequence[float] = LOADS
) -> Figure:
    """Return average latency at shares `loads` of Planaria's capacity: a marker a load, a row a policy.

    The numbers are the change against Planaria's at the same load, paired by seed. At most three loads.
    """
    latency = {load: at_load(rates, seeds, "latency_mean_s", load) for load in loads}
    change = {load: at_load(rates, seeds, "latency_mean_s", load, REFERENCE) for load in loads}
    base = _required(pd.concat(latency.values(), ignore_index=True), seeds)
    with style():
        drawn, look = _sheet(base, with_models(seeds, rates), targets, row_in=0.33, width_in=3.2)
        for index, (axis,) in drawn.stacks.items():
            here = {
                load: (_by_policy(latency[load], index), _by_policy(change[load], index)) for load in loads
            }
            _latency_points(axis, look, here, drawn.leftmost(index))
            _name_x(drawn, index, axis, "average latency (ms)")
        handles = [
            Line2D(
                [], [], color="black", marker=mark, markerfacecolor=face, ls="", label=f"load {number(load)}"
            )
            for load, (mark, face) in zip(loads, LOAD_LOOKS, strict=False)
        ]
        lead = (
            f"Average latency at {', '.join(map(number, loads))} of {REFERENCE}'s QPS at 95 % QoS. Numbers: "
            f"change against {REFERENCE} at these loads, in this order. Above a policy's own capacity "
            f"queries pile up, so its latency there tells how long the run was. {INTERVAL_NOTE}"
        )
        return drawn.finish(handles, [lead, *sample_notes(rates, targets)])


def _sheet(
    estimates: pd.DataFrame,
    named: pd.DataFrame,
    targets: pd.DataFrame,
    row_in: float = ROW_IN,
    width_in: float = 2.6,
) -> tuple[Sheet, PolicyStyle]:
    """Return a sheet whose panels have a row for each policy of the estimates."""
    look = PolicyStyle([*named["policy"], *estimates["policy"]])
    longest = max(len(line) for policy in look.policies for line in fold(policy).split("\n"))
    workloads = named["workload"].nunique()
    size = (width_in if workloads > 1 else max(width_in, BROAD_IN), 0.5 + row_in * len(look.policies))
    return sheet(named, targets, size, left_in=0.4 + 0.08 * longest), look


def _bar_sheet(
    shares: pd.DataFrame, named: pd.DataFrame, targets: pd.DataFrame, text: Write, name: str
) -> Sheet:
    """Return a sheet with bars of one share in each panel; `name` is that of the axis."""
    drawn, look = _sheet(shares, named, targets)
    for index, (axis,) in drawn.stacks.items():
        _bars(axis, look, _by_policy(shares, index), drawn.leftmost(index), text)
        _name_x(drawn, index, axis, name)
    # Shares of one kind are compared across panels too.
    axes = [axis for (axis,) in drawn.stacks.values()]
    right = max(axis.get_xlim()[1] for axis in axes)
    for axis in axes:
        axis.set_xlim(0, right)
    return drawn


def _bars(
    axis: Axes,
    look: PolicyStyle,
    here: pd.DataFrame,
    named: bool,
    text: Write,
    beyond: "pd.Series[float] | None" = None,
) -> None:
    """Draw a bar a policy with its whisker, and write its text or why it has none."""
    look.bars(axis, here["mean"].where(here["note"] == ""), named)
    rows = here.to_dict("index")
    ends = here["high"].fillna(here["mean"])
    others = [] if beyond is None else list(beyond.dropna())
    largest = max([*ends.dropna(), *others], default=0.0)
    axis.set_xlim(0, 1.42 * largest if largest > 0 else 1)
    for index, policy in enumerate(look.policies):
        row, start = rows.get(policy), 0.0
        if row is not None and row["count"] and not row["note"]:
            start = float(ends[policy])
            _whisker(axis, row, index, color="black")
            worst = math.nan if beyond is None else float(beyond[policy])
            start = max(start, worst) if math.isfinite(worst) else start
        _write(axis, (start, index), "not run" if row is None else str(row["note"]) or text(row))


def _ratio_points(axis: Axes, look: PolicyStyle, tables: Mapping[str, pd.DataFrame], named: bool) -> None:
    first = tables[REFERENCE].to_dict("index")
    aside = 0.16 if tables[SECOND_REFERENCE]["mean"].notna().any() else 0.0
    looks = {REFERENCE: ("o", "black", "black", -aside), SECOND_REFERENCE: ("s", "0.45", "white", aside)}
    look.rows(axis, named)
    axis.axvline(1, color="black", linewidth=0.8, zorder=1)
    for reference, (mark, colour, face, shift) in looks.items():
        rows = tables[reference].to_dict("index")
        for index, policy in enumerate(look.policies):
            row = rows.get(policy)
            if row is None or not row["count"] or row["note"]:
                continue
            _whisker(axis, row, index + shift, color=colour)
            axis.plot([row["mean"]], [index + shift], mark, color=colour, markerfacecolor=face, markersize=5)
    for index, policy in enumerate(look.policies):
        row = first.get(policy)
        _write_beside(axis, index, "not run" if row is None else str(row["note"]) or _ratio_text(row))
    means = pd.concat([table.loc[table["note"] == "", "mean"] for table in tables.values()]).dropna()
    if wide(means):
        make_log(axis, "x", most=FEW_TICKS)
    else:
        axis.set_xlim(0, 1.1 * max([1.0, *means]))


def _latency_points(
    axis: Axes,
    look: PolicyStyle,
    here: Mapping[float, tuple[pd.DataFrame, pd.DataFrame]],
    named: bool,
) -> None:
    look.rows(axis, named)
    drawn = []
    shifts = np.linspace(-0.22, 0.22, len(here)) if len(here) > 1 else [0.0]
    for (table, _), shift, (mark, face) in zip(here.values(), shifts, LOAD_LOOKS, strict=False):
        rows = table.to_dict("index")
        for index, policy in enumerate(look.policies):
            row = rows.get(policy)
            if row is None or not row["count"]:
                continue
            _whisker(axis, row, index + shift, color="black", factor=1e3)
            value_ms = 1e3 * row["mean"]
            drawn.append(1e3 * max(row["mean"], row["high"]) if row["high"] > 0 else value_ms)
            axis.plot([value_ms], [index + shift], mark, color="black", markerfacecolor=face, markersize=5)
    for index, policy in enumerate(look.policies):
        _write_beside(axis, index, _changes_text([change for _, change in here.values()], policy))
    if wide(pd.Series(drawn, dtype="float64")):
        make_log(axis, "x", most=FEW_TICKS)
    else:
        axis.set_xlim(0, 1.1 * max(drawn, default=1.0))


def _whisker(axis: Axes, row: Row, index: float, color: str, factor: float = 1.0) -> None:
    if not math.isfinite(row["low"]):
        return
    mean = factor * row["mean"]
    reach = [[mean - factor * row["low"]], [factor * row["high"] - mean]]
    axis.errorbar([mean], [index], xerr=reach, fmt="none", ecolor=color, elinewidth=1.1, capsize=2.5)


def _write(axis: Axes, index: tuple[float, float], text: str) -> None:
    axis.annotate(
        text,
        index,
        (7, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=SMALL,
    )


def _write_beside(axis: Axes, index: float, text: str) -> None:
    """Write at the right of a panel, outside."""
    axis.annotate(
        text,
        (1, index),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center_baseline",
        fontsize=SMALL,
    )


def _qps_text(row: Row) -> str:
    return ("≥ " if row["bound"] else "") + _value_text(row)


def _value_text(row: Row) -> str:
    return number(row["mean"]) if row["count"] else "no valid run"


def _ratio_text(row: Row) -> str:
    if not row["count"]:
        return "no valid run"
    bound = "≥ " if row["bound"] else ""
    if not row["high"] > row["low"]:
        return f"{bound}{number(row['mean'])}"
    return f"{bound}{number(row['mean'])} [{number(row['low'])}, {number(row['high'])}]"


def _changes_text(changes: Sequence[pd.DataFrame], policy: str) -> str:
    """Return the changes of latency at all loads, in per cent, or that the policy was not run."""
    means = [float(table["mean"].get(policy, math.nan)) for table in changes]
    if policy == REFERENCE or all(math.isnan(mean) for mean in means):
        return "" if policy == REFERENCE else "not run"
    return " / ".join(map(_signed, means)) + " %"


def _signed(ratio: float) -> str:
    """Return the change to a ratio from 1 in whole per cents; no sign where that is none."""
    if not math.isfinite(ratio):
        return "\N{EN DASH}"
    percent = round(100 * (ratio - 1))
    return f"{percent:+d}".replace("-", "\N{MINUS SIGN}") if percent else "0"


def _by_policy(estimates: pd.DataFrame, index: Place) -> pd.DataFrame:
    return at_place(estimates, index).set_index("policy")


def _percent(estimates: pd.DataFrame) -> pd.DataFrame:
    return estimates.assign(**{name: 100 * estimates[name] for name in ("mean", "low", "high")})


def _required(estimates: pd.DataFrame, seeds: pd.DataFrame) -> pd.DataFrame:
    """Return the estimates if there are any; raise ValueError where no run stands for the load."""
    if estimates.empty:
        raise ValueError(
            f"there is nothing to draw: no run of the table of rates is at a load asked for, a share of "
            f"{REFERENCE}'s QPS at 95 % QoS; capacity_seeds knows {sorted(set(seeds['policy']))}"
        )
    return estimates


def _name_x(drawn: Sheet, index: Place, axis: Axes, label: str) -> None:
    if axis.get_xscale() == "log":
        label = (
            f"{label.removesuffix(')')}, logarithmic)" if label.endswith(")") else f"{label} (logarithmic)"
        )
        axis.set_xlabel(label)
    else:
        axis.set_xlabel(label if index[:2] == drawn.lowest else "")
