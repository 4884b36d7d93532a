"""The figures: QPS at 95 % QoS, latency against offered rate, and efficiency, per policy."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from veltair.evaluation.figures.style import SMALL, Panel, Panels, make_log, style, wide
from veltair.evaluation.metrics.policies_table import (
    EQUAL_LOAD,
    REFERENCE,
    Row,
    at_loads,
    at_site,
    capacity_text,
    check_capacity,
    equal_load,
    is_at_least,
    number,
    ratio_to,
    servable,
    span,
    valid_runs,
)
from veltair.evaluation.metrics.targets import SATISFACTION
from veltair.provenance import write_atomically

NO_DATES: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
CEILING = 20  # times the longest QoS: above it latency tells how long the run was, not how good the policy


def qps_figure(capacity: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame) -> Figure:
    """Return bars of QPS at 95 % QoS: a row of panels per workload, a column per backend and machine.

    The whisker reaches from the highest rate that met the QoS to where the next one that did not may lie; a
    diamond marks the worst model's QPS; the text names the rate and its ratio to Planaria.
    """
    checked = check_capacity(capacity)
    checked = checked.assign(ratio=ratio_to(checked), served=servable(checked))
    panels = Panels(checked, rates, targets)
    with style():
        figure, axes = panels.grid(per_site=1, column_in=3.2)
        for row, workload in enumerate(panels.workloads):
            for column, site in enumerate(panels.sites):
                axis = axes[row][column]
                here = _select(checked, site, workload).set_index("policy")
                panels.look.bars(axis, here["qps_at_95"].where(here["served"]), named=column == 0)
                panels.title(axis, site, workload, with_site=row == 0)
                panels.shade([axis], site)
                _mark_capacities(axis, here, panels.policies)
                if row == len(panels.workloads) - 1:
                    axis.set_xlabel("QPS at 95 % QoS (queries/s)")
        handles = [
            Patch(facecolor="0.75", edgecolor="black", label="all queries pooled"),
            Line2D([], [], color="black", marker="|", markersize=7, label="resolution of the search"),
            Line2D([], [], color="black", marker="D", markerfacecolor="white", ls="", label="worst model"),
        ]
        lead = f"QPS at 95 % QoS; in brackets its ratio to {REFERENCE}'s."
        return panels.finish(figure, handles, lead)


def latency_figure(capacity: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame) -> Figure:
    """Return lines over the offered rate: satisfaction, and under it average latency, per workload and site.

    Several seeds are drawn as their mean with a band from the least to the largest.
    """
    rates = valid_runs(rates)
    panels = Panels(capacity, rates, targets)
    shown = [
        (site, workload)
        for site in panels.sites
        for workload in panels.workloads
        if len(_select(rates, site, workload))
    ]
    if not shown:
        raise ValueError("there is nothing to draw: the table of rates is empty")
    columns = len(panels.workloads) if len(panels.workloads) > 1 else min(3, len(shown))
    bands = -(-len(shown) // columns)
    with style():
        figure = Figure(figsize=(max(6.4, 0.4 + 3.1 * columns), 4.3 * bands), layout="constrained")
        axes = figure.subplots(2 * bands, columns, squeeze=False, height_ratios=[1, 1.25] * bands)
        for axis in axes.flat:
            axis.set_visible(False)
        for index, (site, workload) in enumerate(shown):
            row, column = 2 * (index // columns), index % columns
            pair = (axes[row][column], axes[row + 1][column])
            _draw_lines(panels, pair, site, workload)
            panels.title(pair[0], site, workload, with_site=True)
            panels.shade(pair, site)
            if column == 0:
                pair[0].set_ylabel("on time (% of queries)")
                pair[1].set_ylabel("average latency (ms)")
        lead = (
            "Share of queries on time and average latency from the scheduled arrival, by offered rate. "
            f"Latencies above {CEILING} times the longest QoS are beyond the upper edge."
        )
        return panels.finish(figure, panels.look.line_handles(), lead)


def efficiency_figure(
    capacity: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame, share: float = EQUAL_LOAD
) -> Figure:
    """Return CPU efficiency and conflict rate: bars at equal offered load, circles at the policy's capacity.

    Equal load is `share` of Planaria's QPS at 95 % QoS, as in `equal_load`.
    """
    checked = check_capacity(capacity)
    compared = at_loads(rates, checked, share)
    loads = equal_load(checked, share)
    panels = Panels(checked, rates, targets)
    with style():
        figure, axes = panels.grid(per_site=2, column_in=2.3)
        for row, workload in enumerate(panels.workloads):
            for column, site in enumerate(panels.sites):
                left, right = axes[row][2 * column : 2 * column + 2]
                here = _select(compared, site, workload)
                _draw_share(panels, left, here, "cpu_efficiency", named=column == 0)
                _draw_share(panels, right, here, "conflict_rate", named=False)
                panels.title(left, site, workload, with_site=row == 0)
                panels.shade([left, right], site)
                load_qps = loads.get((*site, workload))
                at = (
                    "no policy has a capacity"
                    if load_qps is None
                    else f"bars at {number(load_qps)} queries/s"
                )
                right.set_title(at, loc="right", fontsize=SMALL)
                if row == len(panels.workloads) - 1:
                    left.set_xlabel("CPU efficiency (%)")
                    right.set_xlabel("conflict rate (% of starts)")
        equal = f"at equal load, {number(100 * share)} % of {REFERENCE}'s QPS at 95 % QoS (as simulated)"
        handles = [
            Patch(facecolor="0.75", edgecolor="black", label=equal),
            Line2D(
                [], [], color="black", marker="o", markerfacecolor="white", ls="", label="at own capacity"
            ),
        ]
        lead = (
            f"Where {REFERENCE} has no QPS at 95 % QoS, equal load goes by the lowest of the others'. "
            "CPU efficiency: least core-time that serves the on-time queries / core-time held. "
            "Conflict rate: block starts with fewer cores than wanted / block starts."
        )
        return panels.finish(figure, handles, lead)


def save(figure: Figure, path_stem: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write the figure once per format, each file whole or not at all, and return the paths.

    The same figure gives the same bytes: no dates, and ids in SVG files from a fixed salt. Raises ValueError
    on another format than png, svg or pdf.
    """
    unknown = [form for form in formats if form not in NO_DATES]
    if unknown:
        raise ValueError(f"cannot save {path_stem.name} as {unknown}; choose from {', '.join(NO_DATES)}")
    files: dict[Path, bytes] = {}
    _settle(figure)
    for form in formats:
        content = io.BytesIO()
        with style():
            figure.savefig(content, format=form, metadata=NO_DATES[form])
        files[path_stem.with_name(f"{path_stem.name}.{form}")] = content.getvalue()
    write_atomically(files)
    return list(files)


def _settle(figure: Figure) -> None:
    """Lay a figure out for good: the layout's solver differs in its last bits from call to call.

    At the resolution at which it is saved, for letters are not as wide at another one.
    """
    with style():
        figure.set_dpi(mpl.rcParams["savefig.dpi"])
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        left, bottom, width, height = axis.get_position(original=True).bounds
        axis.set_position((round(left, 6), round(bottom, 6), round(width, 6), round(height, 6)))


def _select(table: pd.DataFrame, site: Panel, workload: str) -> pd.DataFrame:
    return table[at_site(table, site) & (table["workload"] == workload)]


def _mark_capacities(axis: Axes, here: pd.DataFrame, policies: list[str]) -> None:
    """Add whiskers, diamonds and texts to the bars; `here` is indexed by policy."""
    served = here[here["served"]]
    closed = np.isfinite(served["high_qps"]) & (served["invalid"] == "")
    ends = served["high_qps"].where(closed, served["qps_at_95"])
    largest = max([*ends, *served["qps_at_95_minimum"].fillna(0)], default=0.0)
    axis.set_xlim(0, 1.5 * largest if largest > 0 else 1)
    rows = here.to_dict("index")
    for index, policy in enumerate(policies):
        row, start = rows.get(policy), 0.0
        if row is not None and row["served"]:
            qps, worst = float(row["qps_at_95"]), float(row["qps_at_95_minimum"])
            end = float(ends[policy])
            axis.errorbar(
                qps, index, xerr=[[0.0], [end - qps]], fmt="none", ecolor="black", elinewidth=1.2, capsize=3
            )
            axis.plot([worst], [index], "D", color="black", markerfacecolor="white", markersize=4)
            start = max(end, worst if worst > 0 else 0)
        axis.annotate(
            _bar_text(row),
            (start, index),
            (7, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=SMALL + 0.5,
        )


def _bar_text(row: Row | None) -> str:
    if row is None or pd.isna(row["ratio"]):
        return capacity_text(row)
    bound = "≥ " if is_at_least(row) else ""
    return f"{capacity_text(row)} ({bound}{number(row['ratio'])}\N{MULTIPLICATION SIGN})"


def _draw_lines(panels: Panels, pair: tuple[Axes, Axes], site: Panel, workload: str) -> None:
    here = _select(panels.rates, site, workload)
    for axis, metric, factor in zip(pair, ("satisfaction", "latency_mean_s"), (100, 1000), strict=True):
        axis.set_visible(True)
        sns.lineplot(
            data=here.assign(drawn=factor * here[metric]),
            x="qps",
            y="drawn",
            hue="policy",
            hue_order=panels.policies,
            palette=panels.look.colours,
            style="policy",
            style_order=panels.policies,
            markers=panels.look.markers,
            dashes=panels.look.dashes,
            markersize=5.5,
            linewidth=1.4,
            errorbar=("pi", 100) if here["seed"].nunique() > 1 else None,
            legend=False,
            ax=axis,
        )
        axis.set(xlabel="", ylabel="")
        axis.grid(color="0.85", linewidth=0.6)
        if wide(here["qps"]):
            make_log(axis, "x")
    upper, lower = pair
    lower.set_xlabel("offered rate (queries/s)")
    upper.tick_params(labelbottom=False)
    upper.set_ylim(top=103)
    upper.axhline(100 * SATISFACTION, color="black", linestyle=":", linewidth=1)
    upper.annotate(
        f"dotted: {number(100 * SATISFACTION)} %",
        (1, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        fontsize=SMALL,
    )
    _draw_qos(panels, lower, here, site)


def _draw_qos(panels: Panels, axis: Axes, here: pd.DataFrame, site: Panel) -> None:
    """Draw the models' QoS as lines, and end the axis where latency no longer tells policies apart."""
    models = ", ".join(here["models"].unique()).split(", ")
    known = panels.targets
    known = known[(known["machine"] == site[1]) & known["model"].isin(models)]
    latency_ms, qos_ms, ceiling_ms = 1000 * here["latency_mean_s"], 1000 * known["qos_s"], math.inf
    if len(known):
        for value in sorted(qos_ms.unique()):
            axis.axhline(value, color="black", linestyle=":", linewidth=1)
        star = "*" if known["relaxed"].astype(bool).any() else ""
        axis.set_title(f"dotted: QoS {span(qos_ms)} ms{star}", loc="right", fontsize=SMALL)
        ceiling_ms = CEILING * float(qos_ms.max())
    if wide(latency_ms.clip(upper=ceiling_ms)):
        make_log(axis, "y")
    if (latency_ms > 0).any():
        axis.set_ylim(top=min(ceiling_ms, 2 * max([latency_ms.max(), *qos_ms])))


def _draw_share(panels: Panels, axis: Axes, here: pd.DataFrame, metric: str, named: bool) -> None:
    percent = here.assign(percent=100 * here[metric].astype("float64"))
    equal, own = (
        percent[percent["load"] == load].set_index("policy")["percent"] for load in ("equal", "own")
    )
    panels.look.bars(axis, equal, named)
    for index, policy in enumerate(panels.policies):
        bar, circle = (loaded.get(policy, math.nan) for loaded in (equal, own))
        axis.plot([circle], [index], "o", color="black", markerfacecolor="white", markersize=5, clip_on=False)
        text = "0" if bar == 0 else "no valid run" if math.isnan(bar) and math.isnan(circle) else ""
        axis.annotate(text, (0, index), (7, 0), textcoords="offset points", va="center", fontsize=SMALL)
    largest = percent["percent"].max()
    axis.set_xlim(0, 1.12 * largest if largest > 0 else 1)
