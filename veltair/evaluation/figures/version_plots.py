"""The figures about versions: how many are enough, where candidates lie, which a described machine gets."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from veltair.evaluation.figures.style import (
    DASHES,
    HATCHES,
    MARKERS,
    SMALL,
    finish,
    flow,
    fold,
    name_outer,
    style,
)
from veltair.evaluation.metrics.policies_table import number

COLUMNS = 4  # panels side by side
CEILING = 4.0  # ratio to the best at which colours end
PANEL_IN = (2.5, 2.1)


def saturation_figure(table: pd.DataFrame) -> Figure:
    """Return lines of model latency over the number of versions: a panel per model, modelled and measured.

    Latency is drawn relative to that with all candidates (modelled) or all built versions (measured).
    """
    _check(table, "saturation")
    table = table.assign(relative=table["latency_s"] / table["best_s"], line=_line_names(table))
    names = list(dict.fromkeys(table["line"]))
    panels = list(dict.fromkeys(zip(table["model"], table["kind"], strict=True)))
    palette = dict(zip(names, sns.color_palette("viridis", len(names)), strict=True))
    with style():
        figure, stacks = flow(len(panels), PANEL_IN, COLUMNS)
        axes = [axis for (axis,) in stacks]
        for axis, (model, kind) in zip(axes, panels, strict=True):
            here = table[(table["model"] == model) & (table["kind"] == kind)]
            for position, name in enumerate(names):
                line = here[here["line"] == name]
                axis.plot(
                    line["versions"],
                    line["relative"],
                    color=palette[name],
                    marker=MARKERS[position % len(MARKERS)],
                    dashes=DASHES[position % len(DASHES)] or (None, None),
                    markersize=4,
                    linewidth=1.2,
                )
            axis.set_title(f"{model}, {kind}", loc="left", fontsize=9)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(color="0.85", linewidth=0.6)
        name_outer(axes, COLUMNS, "versions a layer, at most", "latency (times the best)")
        handles = [
            Line2D(
                [],
                [],
                color=palette[name],
                marker=MARKERS[position % len(MARKERS)],
                linestyle=(0, DASHES[position % len(DASHES)]) if DASHES[position % len(DASHES)] else "-",
                label=name,
            )
            for position, name in enumerate(names)
        ]
        caption = (
            "Model latency, the sum over layers of the version that is best there, relative to the same sum "
            "with all candidates of the search (modelled: times of the search, by rounds of the parallel "
            "loop; UNVALIDATED) or with all built versions (measured: medians of the profile; p is the "
            "pressure). No seed."
        )
        return finish(figure, handles, [caption])


def scatter_figure(table: pd.DataFrame) -> Figure:
    """Return a panel per model: parallelism and blocking bytes of one layer's candidates, and their front."""
    _check(table, "scatter")
    panels = list(dict.fromkeys(table["model"]))
    norm = LogNorm(1, CEILING)
    with style():
        figure, stacks = flow(len(panels), PANEL_IN, COLUMNS)
        axes = [axis for (axis,) in stacks]
        for axis, model in zip(axes, panels, strict=True):
            here = table[table["model"] == model].sort_values("relative", ascending=False)
            colours = here["relative"].clip(upper=CEILING)
            for origin, marker in (("search", "o"), ("schedule", "^"), ("recipe", "s")):
                of = here["origin"] == origin
                axis.scatter(
                    here.loc[of, "parallelism"],
                    here.loc[of, "blocking_bytes"] / 2**10,
                    c=colours[of],
                    cmap="viridis",
                    norm=norm,
                    marker=marker,
                    s=16,
                    linewidth=0,
                )
            front = here[here["front"]].sort_values("parallelism")
            axis.plot(front["parallelism"], front["blocking_bytes"] / 2**10, color="0.35", linewidth=0.9)
            chosen = here[here["chosen"]]
            axis.scatter(
                chosen["parallelism"],
                chosen["blocking_bytes"] / 2**10,
                facecolor="none",
                edgecolor="black",
                marker="s",
                s=52,
                linewidth=1.1,
            )
            _log_axes(axis)
            axis.set_title(
                f"{model}: {fold(str(here['layer'].iloc[0]))}, n = {len(here)}", loc="left", fontsize=8
            )
        name_outer(axes, COLUMNS, "parallelism (iterations)", "blocking (KiB)")
        bar = figure.colorbar(axes[0].collections[0], ax=axes, fraction=0.025, pad=0.01, extend="max")
        ticks = [1, 1.5, 2, 3, 4]
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.set_ticks(ticks, labels=[number(tick) for tick in ticks])
        bar.set_label("time (times the best)")
        handles = [
            Line2D([], [], color="0.6", marker="o", ls="", label="candidate of the search"),
            Line2D([], [], color="0.6", marker="^", ls="", label="schedule written by hand"),
            Line2D([], [], color="0.6", marker="s", ls="", label="recipe"),
            Line2D([], [], color="0.35", label="Pareto front of those within the slack"),
            Line2D([], [], color="black", marker="s", markerfacecolor="none", ls="", label="version built"),
        ]
        caption = (
            "Candidates of one layer of each model that ran, n of them. Blocking: bytes that one iteration "
            "of the parallel loop touches. Time: geometric mean, over this machine's core counts, of the "
            f"ratio to the best candidate; colours end at {number(CEILING)}."
        )
        return finish(figure, handles, [caption])


def sets_figure(table: pd.DataFrame) -> Figure:
    """Return what machines choose of the same candidates: shared and own versions, and their parallelism.

    The first machine of the table is the one that others are compared with.
    """
    _check(table, "sets")
    here, *others = list(dict.fromkeys(table["machine"]))
    models = list(dict.fromkeys(table["model"]))
    with style():
        width_in, height_in = 8.2, max(2.2, 0.9 + 0.45 * len(models) * max(1, len(others)))
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
        _draw_shares(left, table, here, others, models)
        _draw_parallelism(right, table, [here, *others])
        parts = ["chosen for both", f"only by time on {here}", "only for the described machine"]
        handles = [
            Patch(facecolor=shade, edgecolor="black", hatch=hatch, label=part)
            for part, shade, hatch in zip(parts, ("0.45", "0.75", "1.0"), HATCHES, strict=False)
        ]
        caption = (
            "Versions that are chosen of the same candidates for a described machine, by its modelled cost "
            f"on its core counts, and by time on {here}; each structure counts once in a model. Right: share "
            "of the versions with at most this parallelism. The modelled cost is UNVALIDATED."
        )
        return finish(figure, handles, [caption])


def _draw_shares(
    axis: Axes, table: pd.DataFrame, here: str, others: Sequence[str], models: Sequence[str]
) -> None:
    keys = ["model", "structure", "candidate"]
    first = table[table["machine"] == here].set_index(keys).index
    labels = []
    for position, (model, other) in enumerate([(model, other) for model in models for other in others]):
        theirs = table[table["machine"] == other].set_index(keys).index
        ours_of, theirs_of = (index[index.get_level_values("model") == model] for index in (first, theirs))
        both = len(ours_of.intersection(theirs_of))
        start = 0
        for count, shade, hatch in zip(
            (both, len(ours_of) - both, len(theirs_of) - both), ("0.45", "0.75", "1.0"), HATCHES, strict=False
        ):
            axis.barh(position, count, left=start, color=shade, edgecolor="black", hatch=hatch, linewidth=0.7)
            if count:
                axis.text(
                    start + count / 2,
                    position,
                    str(count),
                    ha="center",
                    va="center",
                    fontsize=SMALL,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
                )
            start += count
        labels.append(model if len(others) == 1 else f"{model}, {fold(other)}")
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("versions")
    axis.set_title(", ".join(others), loc="left", fontsize=9)


def _draw_parallelism(axis: Axes, table: pd.DataFrame, machines: Sequence[str]) -> None:
    for position, machine in enumerate(machines):
        values = np.sort(table.loc[table["machine"] == machine, "parallelism"].to_numpy())
        axis.step(
            values,
            100 * np.arange(1, len(values) + 1) / len(values),
            where="post",
            color="black" if position == 0 else sns.color_palette("colorblind")[position - 1],
            linestyle="-" if position == 0 else "--",
            label=f"{machine}, n = {len(values)}",
        )
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(LogLocator(base=64))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_xlabel("parallelism (iterations)")
    axis.set_ylabel("versions (%)")
    axis.grid(color="0.85", linewidth=0.6)
    axis.legend(loc="lower right", frameon=False, fontsize=SMALL)


def _check(table: pd.DataFrame, name: str) -> None:
    if table.empty:
        raise ValueError(f"there is nothing to draw: the table {name} is empty; rerun rule `version_study`")


def _line_names(table: pd.DataFrame) -> list[str]:
    return [
        f"{cores} core{'s' if cores > 1 else ''}" + ("" if kind == "modelled" else f", p = {level:g}")
        for kind, cores, level in zip(table["kind"], table["cores"], table["level"], strict=True)
    ]


def _log_axes(axis: Axes) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_minor_locator(NullLocator())
        ticks.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.grid(color="0.9", linewidth=0.6)
