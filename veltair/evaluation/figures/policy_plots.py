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
    PanelGrid,
    PanelKey,
    at_panel,
    panel_grid,
    sample_notes,
    with_models,
)
from veltair.evaluation.figures.style import SMALL, PolicyStyle, fold, make_log, style, wide, write_beside
from veltair.evaluation.metrics.capacity_table import (
    EQUAL_LOAD,
    LATENCY_LOADS,
    REFERENCE,
    SECOND_REFERENCE,
    WINNER,
    capacities,
    ratio_text,
    ratios,
    reference_rates,
    shares_of_bound,
)
from veltair.evaluation.metrics.equal_load import at_load
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, PolicyOrder, Row, number

LOAD_MARKERS = (("o", "white"), ("s", "0.65"), ("^", "black"))
STAR: dict[str, Any] = {"color": "black", "markerfacecolor": "white", "markersize": 11}
ROW_IN = 0.27
FEW_TICKS = 4  # labels that a panel has room for beside the numbers at its right
BROAD_IN = 3.4
BAR = Patch(facecolor="0.75", edgecolor="black", label="mean over seeds")
WHISKER = Line2D([], [], color="black", marker="|", markersize=7, label="95 % interval")
Write = Callable[[Row], str]


def paper_qps_figure(
    seeds: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame, order: PolicyOrder = AS_THEY_COME
) -> Figure:
    """Return bars of QPS at 95 % QoS, with its interval over seeds and a diamond for the worst model's.

    `seeds` has a row a source, workload, policy and seed, as capacity_seeds.csv.
    """
    pooled, worst = capacities(seeds), capacities(seeds, "qps_at_95_minimum")
    with style():
        drawn, styles = policy_grid(pooled, with_models(seeds, rates), targets, order)
        for panel, (axis,) in drawn.stacks.items():
            least = by_policy(worst, panel)["mean"].reindex(styles.policies)
            bars(axis, styles, by_policy(pooled, panel), drawn.leftmost(panel), qps_text, beyond=least)
            axis.plot(least, range(len(least)), "D", color="black", markerfacecolor="white", markersize=4)
            name_x(drawn, panel, axis, "QPS at 95 % QoS (queries/s)")
        diamond = Line2D(
            [], [], color="black", marker="D", markerfacecolor="white", ls="", label="worst model"
        )
        lead = f"QPS at 95 % QoS, all queries pooled. {INTERVAL_NOTE} ≥: a lower bound."
        return drawn.finish([BAR, WHISKER, diamond], [lead, *sample_notes(seeds, targets), *styles.notes])


def paper_ratio_figure(
    seeds: pd.DataFrame,
    rates: pd.DataFrame,
    targets: pd.DataFrame,
    published: Mapping[str, float] | None = None,
    order: PolicyOrder = AS_THEY_COME,
) -> Figure:
    """Return QPS at 95 % QoS as ratios, paired by seed: to Planaria (filled) and to LayerWise (open).

    `published` is the paper's ratio of Veltair-FULL to Planaria by workload, drawn as a star.
    """
    found = {REFERENCE: ratios(seeds), SECOND_REFERENCE: ratios(seeds, SECOND_REFERENCE)}
    with style():
        drawn, styles = policy_grid(
            found[REFERENCE], with_models(seeds, rates), targets, order, row_in=0.36, width_in=3.2
        )
        for panel, (axis,) in drawn.stacks.items():
            tables = {name: by_policy(table, panel) for name, table in found.items()}
            _ratio_points(axis, styles, tables, drawn.leftmost(panel))
            claim = (published or {}).get(panel[2])
            if claim is not None and WINNER in styles.policies:
                axis.plot([claim], [styles.policies.index(WINNER)], "*", zorder=2.5, **STAR)
                axis.set_xlim(right=max(axis.get_xlim()[1], 1.1 * claim))
            name_x(drawn, panel, axis, "ratio of QPS at 95 % QoS")
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
        return drawn.finish(handles, [lead, *sample_notes(seeds, targets), *styles.notes])


def paper_fluid_figure(
    seeds: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame, order: PolicyOrder = AS_THEY_COME
) -> Figure:
    """Return bars of QPS at 95 % QoS as a share of the fluid bound, which no policy can pass."""
    shares = _percent(shares_of_bound(seeds))
    lead = (
        "QPS at 95 % QoS over the fluid bound: the rate at which the least work of on-time queries alone "
        f"fills all cores. {INTERVAL_NOTE}"
    )
    with style():
        drawn = _bar_grid(
            shares, with_models(seeds, rates), targets, order, qps_text, "share of the fluid bound (%)"
        )
        notes = order.options_note(seeds["policy"])
        return drawn.finish([BAR, WHISKER], [lead, *sample_notes(seeds, targets), *notes])


def paper_efficiency_figure(
    seeds: pd.DataFrame,
    rates: pd.DataFrame,
    targets: pd.DataFrame,
    load: float = EQUAL_LOAD,
    order: PolicyOrder = AS_THEY_COME,
) -> Figure:
    """Return bars of CPU efficiency at a share `load` of Planaria's capacity, with intervals over seeds."""
    found = _percent(_required(at_load(rates, seeds, "cpu_efficiency", load), seeds))
    lead = (
        "CPU efficiency: work-optimal core-ms of on-time queries / core-ms held, at "
        f"{number(100 * load)} % of {REFERENCE}'s QPS at 95 % QoS. {INTERVAL_NOTE}"
    )
    with style():
        drawn = _bar_grid(found, with_models(seeds, rates), targets, order, _value_text, "CPU efficiency (%)")
        notes = [*sample_notes(rates, targets), *order.options_note(seeds["policy"])]
        return drawn.finish([BAR, WHISKER], [lead, *_stand_ins(seeds), *notes])


def paper_latency_figure(
    seeds: pd.DataFrame,
    rates: pd.DataFrame,
    targets: pd.DataFrame,
    loads: Sequence[float] = LATENCY_LOADS,
    order: PolicyOrder = AS_THEY_COME,
) -> Figure:
    """Return average latency at shares `loads` of Planaria's capacity: a marker a load, a row a policy.

    The numbers are the change against Planaria's at the same load, paired by seed. At most three loads.
    """
    latency = {load: at_load(rates, seeds, "latency_mean_s", load) for load in loads}
    change = {load: at_load(rates, seeds, "latency_mean_s", load, REFERENCE) for load in loads}
    base = _required(pd.concat(latency.values(), ignore_index=True), seeds)
    with style():
        drawn, styles = policy_grid(
            base, with_models(seeds, rates), targets, order, row_in=0.33, width_in=3.2
        )
        for panel, (axis,) in drawn.stacks.items():
            here = {load: (by_policy(latency[load], panel), by_policy(change[load], panel)) for load in loads}
            _latency_points(axis, styles, here, drawn.leftmost(panel))
            name_x(drawn, panel, axis, "average latency (ms)")
        handles = [
            Line2D(
                [], [], color="black", marker=mark, markerfacecolor=face, ls="", label=f"load {number(load)}"
            )
            for load, (mark, face) in zip(loads, LOAD_MARKERS, strict=False)
        ]
        lead = (
            f"Average latency at {', '.join(map(number, loads))} of {REFERENCE}'s QPS at 95 % QoS. Numbers: "
            f"change against {REFERENCE} at these loads, in this order. Above a policy's own capacity "
            f"queries pile up, so its latency there tells how long the run was. {INTERVAL_NOTE}"
        )
        return drawn.finish(handles, [lead, *_stand_ins(seeds), *sample_notes(rates, targets), *styles.notes])


def policy_grid(
    estimates: pd.DataFrame,
    named: pd.DataFrame,
    targets: pd.DataFrame,
    order: PolicyOrder,
    row_in: float = ROW_IN,
    width_in: float = 2.6,
) -> tuple[PanelGrid, PolicyStyle]:
    """Return a sheet whose panels have a row for each policy of the estimates."""
    styles = PolicyStyle([*named["policy"], *estimates["policy"]], order)
    longest = max(len(line) for policy in styles.policies for line in fold(policy).split("\n"))
    workloads = named["workload"].nunique()
    size = (width_in if workloads > 1 else max(width_in, BROAD_IN), 0.5 + row_in * len(styles.policies))
    return panel_grid(named, targets, size, left_in=0.4 + 0.08 * longest), styles


def _bar_grid(
    shares: pd.DataFrame,
    named: pd.DataFrame,
    targets: pd.DataFrame,
    order: PolicyOrder,
    text: Write,
    name: str,
) -> PanelGrid:
    """Return a sheet with bars of one share in each panel; `name` is that of the axis."""
    drawn, styles = policy_grid(shares, named, targets, order)
    for panel, (axis,) in drawn.stacks.items():
        bars(axis, styles, by_policy(shares, panel), drawn.leftmost(panel), text)
        name_x(drawn, panel, axis, name)
    # Shares of one kind are compared across panels too.
    axes = [axis for (axis,) in drawn.stacks.values()]
    right = max(axis.get_xlim()[1] for axis in axes)
    for axis in axes:
        axis.set_xlim(0, right)
    return drawn


def bars(
    axis: Axes,
    styles: PolicyStyle,
    here: pd.DataFrame,
    named: bool,
    text: Write,
    beyond: "pd.Series[float] | None" = None,
) -> None:
    """Draw a bar a policy with its whisker, and write its text or why it has none."""
    styles.bars(axis, here["mean"].where(here["note"] == ""), named)
    rows = here.to_dict("index")
    ends = here["high"].fillna(here["mean"])
    others = [] if beyond is None else list(beyond.dropna())
    largest = max([*ends.dropna(), *others], default=0.0)
    axis.set_xlim(0, 1.42 * largest if largest > 0 else 1)
    for index, policy in enumerate(styles.policies):
        row, start = rows.get(policy), 0.0
        if row is not None and row["count"] and not row["note"]:
            start = float(ends[policy])
            _whisker(axis, row, index, color="black")
            worst = math.nan if beyond is None else float(beyond[policy])
            start = max(start, worst) if math.isfinite(worst) else start
        _write(axis, (start, index), "not run" if row is None else str(row["note"]) or text(row))


def _ratio_points(axis: Axes, styles: PolicyStyle, tables: Mapping[str, pd.DataFrame], named: bool) -> None:
    first = tables[REFERENCE].to_dict("index")
    second = tables[SECOND_REFERENCE]
    aside = 0.16 if second.loc[second["note"] == "", "mean"].notna().any() else 0.0
    looks = {REFERENCE: ("o", "black", "black", -aside), SECOND_REFERENCE: ("s", "0.45", "white", aside)}
    styles.rows(axis, named)
    axis.axvline(1, color="black", linewidth=0.8, zorder=1)
    for reference, (mark, colour, face, shift) in looks.items():
        rows = tables[reference].to_dict("index")
        for index, policy in enumerate(styles.policies):
            row = rows.get(policy)
            if row is None or not row["count"] or row["note"]:
                continue
            _whisker(axis, row, index + shift, color=colour)
            axis.plot([row["mean"]], [index + shift], mark, color=colour, markerfacecolor=face, markersize=5)
    for index, policy in enumerate(styles.policies):
        row = first.get(policy)
        write_beside(axis, index, "not run" if row is None else ratio_text(row))
    means = pd.concat([table.loc[table["note"] == "", "mean"] for table in tables.values()]).dropna()
    if wide(means):
        make_log(axis, "x", most=FEW_TICKS)
    else:
        axis.set_xlim(0, 1.1 * max([1.0, *means]))


def _latency_points(
    axis: Axes,
    styles: PolicyStyle,
    here: Mapping[float, tuple[pd.DataFrame, pd.DataFrame]],
    named: bool,
) -> None:
    styles.rows(axis, named)
    drawn = []
    shifts = np.linspace(-0.22, 0.22, len(here)) if len(here) > 1 else [0.0]
    for (table, _), shift, (mark, face) in zip(here.values(), shifts, LOAD_MARKERS, strict=False):
        rows = table.to_dict("index")
        for index, policy in enumerate(styles.policies):
            row = rows.get(policy)
            if row is None or not row["count"]:
                continue
            _whisker(axis, row, index + shift, color="black", factor=1e3)
            value_ms = 1e3 * row["mean"]
            drawn.append(1e3 * max(row["mean"], row["high"]) if row["high"] > 0 else value_ms)
            axis.plot([value_ms], [index + shift], mark, color="black", markerfacecolor=face, markersize=5)
    for index, policy in enumerate(styles.policies):
        write_beside(axis, index, _changes_text([change for _, change in here.values()], policy))
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


def qps_text(row: Row) -> str:
    """Return a rate as it stands beside its bar."""
    return ("≥ " if row["bound"] else "") + _value_text(row)


def _value_text(row: Row) -> str:
    return number(row["mean"]) if row["count"] else "no valid run"


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


def by_policy(estimates: pd.DataFrame, panel: PanelKey) -> pd.DataFrame:
    """Return the estimates of a panel, indexed by policy."""
    return at_panel(estimates, panel).set_index("policy")


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


def _stand_ins(seeds: pd.DataFrame) -> list[str]:
    """Return whose capacity loads are shares of where it is not that of the reference policy."""
    found = reference_rates(seeds)
    other = found[found["of"] != REFERENCE].drop_duplicates(["machine", "workload", "of"])
    whose = [
        f"{workload} on {machine}: {of}"
        for machine, workload, of in zip(other["machine"], other["workload"], other["of"], strict=True)
    ]
    lead = f"Without a capacity of {REFERENCE}'s, loads are shares of another rate"
    return [f"{lead} ({'; '.join(whose)})."] if whose else []


def name_x(drawn: PanelGrid, panel: PanelKey, axis: Axes, label: str) -> None:
    """Name the axis of a panel: of the last row, or one that is logarithmic."""
    if axis.get_xscale() == "log":
        label = (
            f"{label.removesuffix(')')}, logarithmic)" if label.endswith(")") else f"{label} (logarithmic)"
        )
        axis.set_xlabel(label)
    else:
        axis.set_xlabel(label if panel[:2] == drawn.lowest else "")
