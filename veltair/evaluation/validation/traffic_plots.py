"""The figure of modelled against simulated traffic."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from veltair.evaluation.figures.style import MARKERS, finish, flow, make_log, name_outer, style
from veltair.evaluation.metrics.policies_table import number
from veltair.evaluation.metrics.records import check_columns
from veltair.evaluation.validation.traffic_errors import MIB, size_text, traffic_ratios

TRAFFIC_COLUMNS = ("model", "layer", "version", "cache_bytes", "modelled_bytes", "simulated_bytes", "ratio")
PANEL_IN = 3.1
ACROSS = 2
TIMES = "\N{MULTIPLICATION SIGN}"
EMPTY = "nothing was simulated:\nvalgrind is missing\nor cannot run the kernels"


def validation_traffic_figure(table: pd.DataFrame) -> Figure:
    """Return modelled over simulated bytes of layers on one core: a panel a cache, a marker a model.

    `table` is traffic.csv. A table without rows, as a machine without valgrind gives, says so.
    """
    check_columns(table, TRAFFIC_COLUMNS, "traffic")
    known = table[table["simulated_bytes"] > 0]
    caches = sorted(set(known["cache_bytes"]))
    models = list(dict.fromkeys(known["model"]))
    with style():
        figure, stacks = flow(max(1, len(caches)), (PANEL_IN, PANEL_IN + 0.25), ACROSS)
        axes = [axis for (axis,) in stacks]
        if not caches:
            axes[0].text(0.5, 0.5, EMPTY, ha="center", va="center", transform=axes[0].transAxes)
        for axis, cache in zip(axes, caches, strict=False):
            _draw(axis, known[known["cache_bytes"] == cache], known, models)
            axis.set_title(_title(known[known["cache_bytes"] == cache], cache), loc="left", fontsize=8)
        name_outer(axes, ACROSS, "simulated by cachegrind (MiB)", "modelled (MiB)")
        return finish(figure, _handles(models), [_caption(known)])


def _draw(axis: Axes, rows: pd.DataFrame, known: pd.DataFrame, models: list[str]) -> None:
    both = pd.concat([known["modelled_bytes"], known["simulated_bytes"]]).astype(float) / MIB
    limits = (float(both.min()) / 1.4, float(both.max()) * 1.4)
    line = np.array(limits)
    axis.plot(line, line, color="black", linewidth=0.8, zorder=1)
    for factor in (0.5, 2.0):
        axis.plot(line, factor * line, color="0.6", linewidth=0.8, linestyle="--", zorder=1)
    for index, model in enumerate(models):
        own = rows[rows["model"] == model]
        x, y = (own[name] / MIB for name in ("simulated_bytes", "modelled_bytes"))
        axis.plot(x, y, zorder=2, **_look(index))
    axis.set(xlim=limits, ylim=limits)
    make_log(axis, "x")
    make_log(axis, "y")
    axis.set(xlim=limits, ylim=limits)
    axis.set_aspect("equal")
    axis.grid(color="0.9", linewidth=0.6)


def _title(rows: pd.DataFrame, cache_bytes: int) -> str:
    found = traffic_ratios(rows)
    if found is None:
        return f"cache of {size_text(cache_bytes)}"
    return (
        f"cache of {size_text(cache_bytes)}\noff by {number(found.factor)} {TIMES}, null "
        f"{number(found.null_factor)} {TIMES}, n = {len(rows)}"
    )


def _caption(known: pd.DataFrame) -> str:
    layers = len(known[["model", "layer"]].drop_duplicates())
    return (
        "Bytes that one core fetches into an empty cache while it runs a layer, first and last version of "
        f"{layers} layers; n counts versions. Off by: exp of the median |ln (modelled / simulated)|. Null "
        "model: each byte is fetched once. No seed: both are deterministic."
    )


def _look(index: int) -> dict[str, Any]:
    colours = sns.color_palette("colorblind")
    return {
        "linestyle": "none",
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 5,
        "markerfacecolor": "none",
        "markeredgecolor": colours[index % len(colours)],
    }


def _handles(models: list[str]) -> list[Line2D]:
    own = [Line2D([], [], label=model, **_look(index)) for index, model in enumerate(models)]
    return [
        *own,
        Line2D([], [], color="black", lw=0.8, label="equal"),
        Line2D([], [], color="0.6", lw=0.8, ls="--", label=f"2 {TIMES}, 0.5 {TIMES}"),
    ]
