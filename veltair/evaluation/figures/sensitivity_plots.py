"""The paper's figures of what a result depends on: each assumption over its range, and the machine's size."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from veltair.evaluation.figures.grid import (
    INTERVAL_NOTE,
    RELAXED_NOTE,
    UNVALIDATED,
    at_panel,
    panel_grid,
    relaxed_here,
    sample_notes,
)
from veltair.evaluation.figures.style import SMALL, PolicyStyle, finish, flow, make_log, name_outer, style
from veltair.evaluation.metrics.capacity_table import REFERENCE, SEED_COLUMNS, WINNER, capacities, ratios
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, PolicyOrder, number, source_name
from veltair.evaluation.metrics.records import check_columns

SENSITIVITY_COLUMNS = (
    *("backend", "machine", "validated", "workload", "assumption", "unit", "kind", "value", "label"),
    *("is_default", "plausible", "policy", "seed", "queries", "models", "qps_at_95", "high_qps"),
    *("unservable", "invalid"),
)
SCALE_COLUMNS = (*SEED_COLUMNS, "cores", "relaxed", "relaxed_targets")
PANEL_COLUMNS = ["backend", "machine", "shown", "assumption"]
EACH = ""  # shown as workload where the values of an assumption are workloads
BAND = 0.2  # of a panel's height: under its line are crosses, of what cannot be served
CROSSING = "*"  # no policy of the study's has this marker
NO_RATIO = (f"no {REFERENCE}", f"{REFERENCE}: a lower bound")  # notes that are written where no point is
PANEL_IN = (2.75, 2.25)
COLUMNS = 4
NARROW = 9  # characters of a category's label that fit beside others


def paper_sensitivity_figure(
    table: pd.DataFrame, targets: pd.DataFrame, order: PolicyOrder = AS_THEY_COME
) -> Figure:
    """Return small multiples: ratios to Planaria over the range of each assumption, a panel an assumption.

    `table` has one row an assumption, value, workload, policy and seed, as sensitivity.csv. The paper's
    default is a dotted line, the plausible range a thick one at the bottom. Where Veltair-FULL's ratio
    crosses 1 between two values a star marks the value on a straight line between them. What cannot be
    served is a cross under the line at the bottom; where Planaria cannot, there is no ratio and the panel
    says so. An assumption that was varied for several workloads has a panel for each.
    """
    check_columns(table, SENSITIVITY_COLUMNS, "sensitivity")
    if table.empty:
        raise ValueError("there is nothing to draw: the table sensitivity is empty")
    found = sensitivity_ratios(table)
    panels = [(tuple(key), rows) for key, rows in found.groupby(PANEL_COLUMNS, sort=False)]
    styles = PolicyStyle([name for name in found["policy"] if name != REFERENCE], order)
    limits = _limits(found.loc[found["note"] == "", ["mean", "low", "high"]].to_numpy())
    with style():
        figure, stacks = flow(len(panels), PANEL_IN, COLUMNS)
        axes = [axis for (axis,) in stacks]
        for axis, (key, here) in zip(axes, panels, strict=True):
            _draw_assumption(axis, styles, here, limits)
            _name_assumption(axis, key, here, table, targets, len({other[:2] for other, _ in panels}) > 1)
        name_outer(axes, COLUMNS, y=f"QPS at 95 % QoS\nover {REFERENCE}'s")
        handles = [*styles.line_handles(), *_marks()]
        lead = (
            f"Each panel changes one assumption and keeps the others: QPS at 95 % QoS over {REFERENCE}'s "
            f"under the same, paired by seed; below 1 (shaded) {REFERENCE} is better; crosses under the line "
            f"have no ratio. {INTERVAL_NOTE}"
        )
        notes = [*sample_notes(table, targets), *order.options_note(table["policy"])]
        return finish(figure, handles, [lead, *_bound_notes(found, "value"), *notes])


def sensitivity_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Return for each assumption, value and policy the ratio to Planaria, paired by seed, with its interval.

    Columns: backend, machine, workload, assumption, unit, kind, value, label, is_default, plausible, policy,
    mean, low, high, count, note, bound, validated, and `shown`: the workload, `EACH` where the values of the
    assumption are workloads.
    """
    keys = ["assumption", "unit", "kind", "value", "label", "is_default", "plausible"]
    frames = []
    filled = table.assign(**{name: math.nan for name in SEED_COLUMNS if name not in table})
    for key, rows in filled.groupby(keys, sort=False, dropna=False):
        frames.append(ratios(rows).assign(**_columns(keys, key)))
    joined = pd.concat(frames, ignore_index=True)
    of_value = joined.groupby(["assumption", "value"])["workload"].nunique().groupby("assumption").max()
    of_all = joined.groupby("assumption")["workload"].nunique()
    each = set(of_all.index[(of_value == 1) & (of_all > 1)])
    return joined.assign(shown=joined["workload"].where(~joined["assumption"].isin(each), EACH))


def crossings(values: Sequence[float], means: Sequence[float], at: float = 1.0) -> list[float]:
    """Return where a line through the points crosses a height; values are in ascending order.

    A point at the height itself counts once, and only if the line changes sides there. Points without a
    number part the line.
    """
    found = []
    points = list(zip(values, means, strict=True))
    side = 0.0
    for index, (value, mean) in enumerate(points):
        if not math.isfinite(mean):
            side = 0.0
            continue
        now = float(np.sign(mean - at))
        if now == 0:
            continue
        if side == -now:
            # The last point on the other side, or on the height, is the one before.
            before, height = points[index - 1]
            found.append(before + (at - height) / (mean - height) * (value - before))
        side = now
    return found


def paper_scale_figure(
    table: pd.DataFrame, targets: pd.DataFrame, order: PolicyOrder = AS_THEY_COME
) -> Figure:
    """Return QPS at 95 % QoS over the number of cores and, under it, the ratios to Planaria.

    `table` has the columns of capacity_seeds.csv and `cores`. The thin line is Planaria's QPS on the fewest
    cores, in proportion to the cores. Core counts whose machine could not meet the table's targets have a
    star, and the caption says what they were relaxed to (columns `relaxed` and `relaxed_targets`).
    """
    check_columns(table, SCALE_COLUMNS, "scale")
    qps, ratio = (_by_cores(table, estimate) for estimate in (capacities, ratios))
    with style():
        drawn = panel_grid(table, targets, (2.7, 4.2), ratios=(1.4, 1))
        styles = PolicyStyle(table["policy"], order)
        for panel, (upper, lower) in drawn.stacks.items():
            _draw_scale(upper, styles, at_panel(qps, panel))
            _draw_scale(lower, styles, at_panel(ratio, panel))
            _proportion(upper, at_panel(qps, panel))
            lower.axhline(1, color="black", linewidth=0.8)
            lower.set_ylim(0, 1.05 * lower.get_ylim()[1])
            _mark_unservable(lower, styles, at_panel(ratio, panel), "cores")
            if (at_panel(qps, panel)["count"] > 0).any():
                make_log(upper, "y")
            _name_cores(lower, at_panel(table, panel))
            upper.tick_params(labelbottom=False)
            if drawn.leftmost(panel):
                upper.set_ylabel("QPS at 95 % QoS (queries/s)")
                lower.set_ylabel(f"over {REFERENCE}'s")
            lower.set_xlabel("cores" if panel[:2] == drawn.lowest else "")
        line = Line2D([], [], color="0.4", lw=0.8, label="in proportion to the cores")
        lead = f"QPS at 95 % QoS, and its ratio to {REFERENCE}'s paired by seed. {INTERVAL_NOTE}"
        paragraphs = [
            lead,
            *_bound_notes(ratio, "cores"),
            *sample_notes(table, targets),
            *_relaxed_notes(table),
            *styles.notes,
        ]
        return drawn.finish([*styles.line_handles(), line, _cross()], paragraphs)


def _name_cores(axis: Axes, here: pd.DataFrame) -> None:
    """Name the core counts of a panel, with a star where the machine could not meet the table's targets."""
    relaxed = here.groupby("cores")["relaxed"].max() > 0
    axis.set_xticks(list(relaxed.index), [f"{cores}{'*' if star else ''}" for cores, star in relaxed.items()])


def _relaxed_notes(table: pd.DataFrame) -> list[str]:
    known = table[table["relaxed"] > 0].drop_duplicates(["workload", "cores"])
    several = table["workload"].nunique() > 1
    changes = [
        f"{f'{workload} ' if several else ''}on {cores} cores {text}"
        for workload, cores, text in zip(
            known["workload"], known["cores"], known["relaxed_targets"], strict=True
        )
    ]
    if not changes:
        return []
    text = "Where marked, queries are held to other targets than elsewhere, so rates are not comparable."
    return [f"{RELAXED_NOTE}: {'; '.join(changes)}. {text}"]


def _draw_assumption(
    axis: Axes, styles: PolicyStyle, here: pd.DataFrame, limits: tuple[float, float]
) -> None:
    category = here["kind"].iloc[0] == "category"
    values = here.drop_duplicates("value").sort_values("value")
    make_log(axis, "y", base=2)
    axis.set_ylim(*limits)
    axis.axhspan(limits[0], min(1, limits[1]), color="0.85", zorder=0)
    axis.axhline(1, color="black", linewidth=0.9, zorder=1)
    gap = float(np.diff(values["value"]).min()) if len(values) > 1 else 1.0
    shifts = np.linspace(-0.22, 0.22, len(styles.policies)) * gap if len(styles.policies) > 1 else [0.0]
    for policy, shift in zip(
        styles.policies, shifts if category else np.zeros(len(styles.policies)), strict=True
    ):
        line = here[here["policy"] == policy].sort_values("value")
        known = line[(line["note"] == "") & (line["count"] > 0)]
        _draw_line(axis, styles, policy, known["value"] + shift, known, joined=not category)
    _mark_unservable(axis, styles, here, "value")
    _mark_default(axis, values)
    # What cannot be served has no point, and its value would lie outside.
    room = 0.6 * gap if category else 0.06 * float(np.ptp(values["value"])) or 0.5
    axis.set_xlim(values["value"].min() - room, values["value"].max() + room)
    if not category:
        _mark_crossings(axis, here[here["policy"] == WINNER].sort_values("value"))


def _draw_line(
    axis: Axes,
    styles: PolicyStyle,
    policy: str,
    indices: "pd.Series[float]",
    known: pd.DataFrame,
    joined: bool = True,
) -> None:
    reach = np.array([known["mean"] - known["low"], known["high"] - known["mean"]])
    known_reach = bool(np.isfinite(reach).any())
    axis.errorbar(
        indices,
        known["mean"],
        yerr=np.nan_to_num(reach) if known_reach else None,
        color=styles.colours[policy],
        ecolor=styles.colours[policy],
        marker=styles.markers[policy],
        markeredgecolor="white",
        markersize=5.5,
        linestyle=styles.linestyle(policy) if joined else "none",
        linewidth=1.3,
        elinewidth=0.9,
        capsize=2,
        label=policy,
    )


def _mark_unservable(axis: Axes, styles: PolicyStyle, here: pd.DataFrame, across: str) -> None:
    """Draw a cross under a line at the bottom for each policy that cannot serve, one above the other."""
    unservable = here[here["note"].str.startswith("unservable") & here["policy"].isin(styles.policies)]
    if len(unservable):
        _reserve_band(axis)
    for index, policy in enumerate(styles.policies):
        missed = unservable[unservable["policy"] == policy]
        axis.plot(
            missed[across],
            [BAND * (index + 1) / (len(styles.policies) + 1)] * len(missed),
            "x",
            color=styles.colours[policy],
            markersize=5,
            markeredgewidth=1.6,
            transform=axis.get_xaxis_transform(),
        )
    without = here[here["note"].isin(NO_RATIO)].drop_duplicates([across, "note"])
    for value, note in zip(without[across], without["note"], strict=True):
        axis.annotate(
            note,
            (value, 0.96),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="center",
            va="top",
            fontsize=SMALL,
        )


def _bound_notes(found: pd.DataFrame, across: str) -> list[str]:
    """Return a sentence that names the ratios which are only lower bounds; none where there is none."""
    bounds = found[found["bound"].astype(bool) & (found["note"] == "")]
    names = [
        f"{policy} on {workload} at {across} {number(value)}"
        for policy, workload, value in zip(bounds["policy"], bounds["workload"], bounds[across], strict=True)
    ]
    return [f"Lower bounds, as a search ended early: {'; '.join(names)}."] if names else []


def _reserve_band(axis: Axes) -> None:
    """Make room under a panel's values, parted by a line: a height there stands for no value."""
    low, high = axis.get_ylim()
    share = BAND / (1 - BAND)
    bottom = low * (low / high) ** share if axis.get_yscale() == "log" else low - share * (high - low)
    ticks = [tick for tick in axis.get_yticks() if low <= tick <= high]
    axis.axhspan(bottom, low, color="white", linewidth=0, zorder=0.5)
    axis.axhline(low, color="0.5", linewidth=0.7, zorder=1)
    axis.set_ylim(bottom, high)
    axis.set_yticks(ticks)


def _mark_default(axis: Axes, values: pd.DataFrame) -> None:
    for value in values.loc[values["is_default"].astype(bool), "value"]:
        axis.axvline(value, color="black", linestyle=":", linewidth=1.2, zorder=1)
    plausible = values.loc[values["plausible"].astype(bool), "value"]
    if len(plausible):
        axis.plot(
            [plausible.min(), plausible.max()],
            [0, 0],
            color="black",
            linewidth=4,
            solid_capstyle="projecting",
            transform=axis.get_xaxis_transform(),
            clip_on=False,
        )


def _mark_crossings(axis: Axes, line: pd.DataFrame) -> None:
    means = line["mean"].where(line["note"] == "")
    for value in crossings(list(line["value"]), list(means)):
        axis.plot([value], [1], CROSSING, color="black", markersize=9, zorder=5)
        axis.annotate(
            number(value),
            (value, 1),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=SMALL,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            zorder=6,
        )


def _name_assumption(
    axis: Axes,
    key: tuple[object, ...],
    here: pd.DataFrame,
    table: pd.DataFrame,
    targets: pd.DataFrame,
    with_source: bool,
) -> None:
    backend, machine, shown, assumption = (str(part) for part in key)
    source = (backend, machine)
    name = source_name(source, table)
    stars = {
        one: f"{one}*" if relaxed_here(table, targets, source, one) else one
        for one in here["workload"].unique()
    }
    workload = stars[shown] if shown != EACH else "by workload"
    first = here.iloc[0]
    unit = f" ({first['unit']})" if first["unit"] and not pd.isna(first["unit"]) else ""
    unvalidated = name.endswith("UNVALIDATED")
    title = f"{workload}, {name}" if with_source else workload + (": UNVALIDATED" if unvalidated else "")
    axis.set_title(title, loc="left", fontsize=SMALL)
    axis.set_xlabel(assumption + unit)
    if unvalidated:
        axis.set_facecolor(UNVALIDATED)
    values = here.drop_duplicates("value").sort_values("value")
    if first["kind"] == "category":
        labels = [str(label) for label in values["label"]]
        if shown == EACH:
            labels = [stars[str(workload)] for workload in values["workload"]]
        turned = max(map(len, labels)) > NARROW * 3 / len(labels)
        axis.set_xticks(values["value"], labels, rotation=90 if turned else 0)
        axis.tick_params(axis="x", labelsize=SMALL)


def _columns(names: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def _limits(shown: NDArray[np.float64]) -> tuple[float, float]:
    """Return the limits of all panels: they hold 1, all ratios and some room."""
    known = [1.0, *shown[shown > 0].tolist()]
    low, high = min(known), max(known)
    return min(0.8, low / 1.35), max(1.25, high * 1.2)


def _by_cores(table: pd.DataFrame, estimate: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    parts = [estimate(rows).assign(cores=cores) for cores, rows in table.groupby("cores")]
    return pd.concat(parts, ignore_index=True)


def _draw_scale(axis: Axes, styles: PolicyStyle, here: pd.DataFrame) -> None:
    for policy in styles.policies:
        line = here[(here["policy"] == policy) & (here["note"] == "") & (here["count"] > 0)]
        _draw_line(axis, styles, policy, line["cores"], line)
    make_log(axis, "x", base=2)
    cores = sorted(here["cores"].unique())
    axis.set_xlim(cores[0] / 1.3, cores[-1] * 1.3)
    axis.set_xticks(cores)
    axis.tick_params(axis="x", labelsize=SMALL)
    axis.grid(color="0.85", linewidth=0.6)


def _proportion(axis: Axes, qps: pd.DataFrame) -> None:
    line = qps[(qps["policy"] == REFERENCE) & (qps["note"] == "") & (qps["count"] > 0)]
    if len(line):
        per_core = float(line["mean"].iloc[0] / line["cores"].iloc[0])
        cores = np.array([line["cores"].min(), qps["cores"].max()])
        axis.plot(cores, per_core * cores, color="0.4", linewidth=0.8, zorder=1)


def _marks() -> list[Line2D]:
    return [
        Line2D([], [], color="black", linestyle=":", label="default of the paper's reading"),
        Line2D([], [], color="black", linewidth=4, label="plausible range"),
        Line2D([], [], color="black", marker=CROSSING, ls="", markersize=9, label=f"{WINNER} crosses 1"),
        _cross(),
    ]


def _cross() -> Line2D:
    return Line2D([], [], color="black", marker="x", ls="", markeredgewidth=1.6, label="unservable")
