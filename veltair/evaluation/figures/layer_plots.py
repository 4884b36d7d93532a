"""The paper's figures about layers: the cores that each needs, and what pressure does to each version."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from veltair.evaluation.figures.grid import UNVALIDATED, machine_title, relaxed_text
from veltair.evaluation.figures.style import MARKERS, SMALL, finish, flow, make_log, name_outer, style
from veltair.evaluation.metrics.policies_table import number
from veltair.evaluation.metrics.records import check_columns

NEED_COLUMNS = (
    *("machine", "validated", "model", "qos_s", "relaxed", "level", "layer"),
    *("cores", "needed_cores", "met", "average_cores"),
)
SLOWDOWN_COLUMNS = (
    *("machine", "validated", "kind", "model", "cores", "version", "level"),
    *("latency_s", "alone_s", "best_alone_s"),
)
NEED_PANEL_IN = (3.3, 1.95)
SLOWDOWN_PANEL_IN = (2.5, 3.6)
COLUMNS = 4  # panels side by side
NEED_ACROSS = 3
WIDE = 12  # times; above it an axis of ratios is logarithmic
TIMES = "\N{MULTIPLICATION SIGN}"
MOST_LAYERS = 110  # that a panel has room for; of longer models so many are drawn:
FIRST_LAYERS = 60
LEVEL_LINES: tuple[tuple[Any, str, float], ...] = (
    ("-", "black", 1.2),
    ("--", "0.45", 1.0),
)  # the lowest level and the highest


def paper_core_need_figure(needs: pd.DataFrame, targets: pd.DataFrame) -> Figure:
    """Return the core need of each layer as steps over the layer's index, a panel a machine and model.

    `needs` has one row a machine, model, level and layer, as core_need.csv. Drawn are the lowest and the
    highest level; horizontal lines are Avg_C, the mean over the layers, crosses layers that no number of
    cores brings into their budget. Of models with more than `MOST_LAYERS` the first ones are drawn.
    """
    check_columns(needs, NEED_COLUMNS, "core_need")
    panels = _panels(needs, ["machine", "model"], "core_need")
    levels = sorted({needs["level"].min(), needs["level"].max()})
    with style():
        figure, stacks = flow(len(panels), NEED_PANEL_IN, NEED_ACROSS)
        axes = [axis for (axis,) in stacks]
        for axis, (_, here) in zip(axes, panels, strict=True):
            shown = here[here["layer"] < _layers_shown(here)]
            for level, line in zip(levels, LEVEL_LINES, strict=False):
                _draw_need(axis, shown[shown["level"] == level].sort_values("layer"), line)
            _name_need(axis, here, levels)
        name_outer(axes, NEED_ACROSS, y="core need (cores)")
        handles: list[Line2D] = []
        for level, (line, colour, width) in zip(levels, LEVEL_LINES, strict=False):
            handles.append(
                Line2D([], [], color=colour, linestyle=line, lw=width, label=f"pressure {level:g}")
            )
        handles.append(Line2D([], [], color="black", linestyle=":", label="Avg_C, at the same pressure"))
        handles.append(Line2D([], [], color="black", marker="x", ls="", label="budget out of reach"))
        caption = [
            "Core need: the fewest cores on which a layer stays within its share of the QoS; where none "
            "does, the number on which it is fastest (cross). Avg_C and the share out of reach, at these "
            f"pressures in this order, are over all layers. Of models of more than {MOST_LAYERS} layers the "
            f"first {FIRST_LAYERS} are drawn. Computed from cost tables: no run, no seed."
        ]
        return finish(figure, handles, [*caption, *_relaxed(needs, targets)])


def paper_slowdown_figure(table: pd.DataFrame, cores: int | None = None) -> Figure:
    """Return what pressure does to each version: its slowdown and, under it, its latency to the best alone.

    `table` has one row a machine, kind, model, core count, version and level, as slowdown.csv. Versions are
    numbered from the most local one. Drawn is the count of `cores`; by default the middle one of those that
    a machine has times under pressure for.
    """
    check_columns(table, SLOWDOWN_COLUMNS, "slowdown")
    panels = _panels(_at_cores(table, cores), ["machine", "kind", "model", "cores"], "slowdown")
    versions = sorted(int(version) for version in table["version"].unique())
    palette = sns.color_palette("viridis", len(versions))
    with style():
        figure, stacks = flow(len(panels), SLOWDOWN_PANEL_IN, COLUMNS, stack=2)
        for (upper, lower), (key, here) in zip(stacks, panels, strict=True):
            _draw_slowdown(upper, lower, here, dict(zip(versions, palette, strict=True)))
            _name_slowdown(upper, lower, key, here)
        _share_limits([upper for upper, _ in stacks])
        _share_limits([lower for _, lower in stacks])
        name_outer([upper for upper, _ in stacks], COLUMNS, y=f"slowdown ({TIMES})")
        name_outer(
            [lower for _, lower in stacks],
            COLUMNS,
            "pressure (share, 0 to 1)",
            f"latency ({TIMES} best alone)",
        )
        handles = [
            Line2D(
                [],
                [],
                color=palette[index],
                marker=MARKERS[index % len(MARKERS)],
                label=_version(version, versions),
            )
            for index, version in enumerate(versions)
        ]
        caption = (
            "Model latency with every layer in one version (a layer with fewer takes its last): above over "
            "the same version alone, below over the fastest versions alone. From cost tables: no seed."
        )
        return finish(figure, handles, [caption])


def _draw_need(axis: Axes, here: pd.DataFrame, line: tuple[str, str, float]) -> None:
    dashes, colour, width = line
    edges = [*(here["layer"] - 0.5), here["layer"].max() + 0.5]
    axis.stairs(here["needed_cores"], edges, baseline=None, color=colour, linestyle=dashes, linewidth=width)
    missed = here[~here["met"].astype(bool)]
    axis.plot(missed["layer"], missed["needed_cores"], "x", color=colour, markersize=4)
    axis.axhline(float(here["average_cores"].iloc[0]), color=colour, linestyle=":", linewidth=1.1)


def _layers_shown(here: pd.DataFrame) -> int:
    count = int(here["layer"].max()) + 1
    return count if count <= MOST_LAYERS else FIRST_LAYERS


def _name_need(axis: Axes, here: pd.DataFrame, levels: Sequence[float]) -> None:
    first, count, shown = here.iloc[0], int(here["layer"].max()) + 1, _layers_shown(here)
    missed = [100 * float((~here.loc[here["level"] == level, "met"].astype(bool)).mean()) for level in levels]
    validated = bool(here["validated"].astype(bool).all())
    star = "*" if bool(first["relaxed"]) else ""
    axis.set_title(
        machine_title(str(first["machine"]), validated, str(first["model"])), loc="left", fontsize=8.5
    )
    axis.set_title(f"QoS {number(1e3 * first['qos_s'])} ms{star}", loc="right", fontsize=SMALL)
    which = f"layer (first {shown} of {count})" if shown < count else "layer (index)"
    reach = " / ".join(f"{percent:.0f}" for percent in missed)
    axis.set_xlabel(f"{which}; out of reach: {reach} %", fontsize=SMALL + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(0, 1.06 * float(first["cores"]))
    axis.set_xlim(-0.5, shown - 0.5)
    axis.grid(axis="y", color="0.85", linewidth=0.6)
    if not validated:
        axis.set_facecolor(UNVALIDATED)


def _at_cores(table: pd.DataFrame, cores: int | None) -> pd.DataFrame:
    if cores is not None:
        return table[table["cores"] == cores]
    parts = []
    for _, rows in table.groupby(["machine", "kind"], sort=False):
        pressed = sorted(rows.loc[rows["level"] > 0, "cores"].unique()) or sorted(rows["cores"].unique())
        parts.append(rows[rows["cores"] == pressed[(len(pressed) - 1) // 2]])
    return pd.concat(parts) if parts else table


def _draw_slowdown(
    upper: Axes, lower: Axes, here: pd.DataFrame, colours: Mapping[int, tuple[float, float, float]]
) -> None:
    for index, (version, colour) in enumerate(colours.items()):
        line = here[here["version"] == version].sort_values("level")
        marks: dict[str, Any] = {"color": colour, "marker": MARKERS[index % len(MARKERS)]}
        for axis, divisor in ((upper, "alone_s"), (lower, "best_alone_s")):
            axis.plot(line["level"], line["latency_s"] / line[divisor], lw=1.2, markersize=4, **marks)


def _name_slowdown(upper: Axes, lower: Axes, key: Sequence[object], here: pd.DataFrame) -> None:
    machine, kind, model, cores = key
    validated = bool(here["validated"].astype(bool).all())
    what = f"{model}, {kind}, {cores} core{'s' if cores != 1 else ''}"
    upper.set_title(machine_title(str(machine), validated, what), loc="left", fontsize=8.5)
    upper.tick_params(labelbottom=False)
    for axis in (upper, lower):
        axis.grid(color="0.85", linewidth=0.6)
        axis.set_xticks(sorted(here["level"].unique()))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if not validated:
            axis.set_facecolor(UNVALIDATED)


def _share_limits(axes: Sequence[Axes]) -> None:
    """Give panels the limits that hold all of them, from 1 or less, so that models can be compared."""
    low = min(1.0, *(axis.get_ylim()[0] for axis in axes))
    high = max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(low, high)
        if high > WIDE:
            make_log(axis, "y")


def _version(version: int, versions: Sequence[int]) -> str:
    ends = {versions[0]: " (most local)", versions[-1]: " (most parallel)"}
    return f"version {version}" + (ends.get(version, "") if len(versions) > 1 else "")


def _relaxed(needs: pd.DataFrame, targets: pd.DataFrame) -> list[str]:
    machines = list(dict.fromkeys(needs["machine"]))
    texts = {machine: relaxed_text(targets, [machine]) for machine in machines}
    return [f"{machine}: {text}" for machine, text in texts.items() if text]


def _panels(table: pd.DataFrame, keys: list[str], name: str) -> list[tuple[tuple[object, ...], pd.DataFrame]]:
    if table.empty:
        raise ValueError(f"there is nothing to draw: the table {name} is empty")
    return [(tuple(key), rows) for key, rows in table.groupby(keys, sort=False)]
