"""The figure of what pressure does to the versions of single layers, on few and on more cores."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from veltair.evaluation.figures.grid import UNVALIDATED, machine_title
from veltair.evaluation.figures.style import MARKERS, SMALL, finish, flow, make_log, name_outer, style, wide
from veltair.evaluation.metrics.policies_table import number
from veltair.evaluation.metrics.records import check_columns

LAYER_COLUMNS = (
    *("machine", "validated", "workload", "model", "layer", "name", "saved"),
    *("version", "cores", "level", "seconds"),
)
PANEL_IN = (3.0, 3.6)
COLUMNS = 3  # layers of a class stand side by side


def shown_counts(layers: pd.DataFrame) -> list[int]:
    """Return the core counts that are shown: the least under pressure, and the middle one."""
    pressed = sorted(int(cores) for cores in layers.loc[layers["level"] > 0, "cores"].unique())
    return list(dict.fromkeys([pressed[0], pressed[len(pressed) // 2]]))


def version_choice_figure(layers: pd.DataFrame) -> Figure:
    """Return the time of each version of some layers by pressure, over that of the fastest one alone.

    `layers` has a row a class, model, layer, core count, version and pressure, as version_layers.csv. A
    layer has a panel for each of the `shown_counts`. A line that is lowest at no pressure and not at the
    highest one is a version that pressure makes another one's.
    """
    check_columns(layers, LAYER_COLUMNS, "version_layers")
    if layers.empty:
        raise ValueError("there is nothing to draw: the table version_layers is empty")
    counts = shown_counts(layers)
    panels = list(layers.groupby(["workload", "model", "layer"], sort=False))
    versions = sorted(int(version) for version in layers["version"].unique())
    palette = sns.color_palette("viridis", len(versions))
    looks = {
        version: {"color": colour, "marker": MARKERS[place % len(MARKERS)]}
        for place, (version, colour) in enumerate(zip(versions, palette, strict=True))
    }
    with style():
        figure, stacks = flow(len(panels), PANEL_IN, COLUMNS, stack=len(counts))
        for stack, (_, here) in zip(stacks, panels, strict=True):
            for axis, cores in zip(stack, counts, strict=True):
                _draw(axis, here[here["cores"] == cores], looks)
                axis.set_title(f"{cores} cores", loc="right", fontsize=SMALL)
            _name(stack[0], here.iloc[0])
            stack[0].tick_params(labelbottom=False)
        for place in range(len(counts)):
            name_outer([stack[place] for stack in stacks], COLUMNS, y="time over best alone")
        name_outer([stack[-1] for stack in stacks], COLUMNS, "pressure (share, 0 to 1)")
        handles = [Line2D([], [], label=f"version {version}", **look) for version, look in looks.items()]
        caption = (
            "Time of a layer in each of its versions, over the fastest one alone on the same cores. Versions "
            "are numbered from the most local one to the most parallel one. Of each class these layers save "
            "the largest part of their model's time by another version under the highest pressure (in "
            "per cent beside the name, on average over core counts). From cost tables: no run, no seed."
        )
        return finish(figure, handles, [caption])


def _draw(axis: Axes, here: pd.DataFrame, looks: dict[int, dict[str, Any]]) -> None:
    alone_s = here.loc[here["level"] == 0, "seconds"].min()
    for version, rows in here.groupby("version"):
        line = rows.sort_values("level")
        axis.plot(line["level"], line["seconds"] / alone_s, lw=1.2, markersize=4, **looks[int(str(version))])
    axis.grid(color="0.85", linewidth=0.6)
    axis.set_xticks(sorted(here["level"].unique()))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if wide(here["seconds"] / alone_s):
        make_log(axis, "y")
    if not here["validated"].astype(bool).all():
        axis.set_facecolor(UNVALIDATED)


def _name(axis: Axes, first: "pd.Series[Any]") -> None:
    what = f"{first['workload']}: {first['model']} {first['layer']}, saves {number(100 * first['saved'])} %"
    axis.set_title(
        machine_title(str(first["machine"]), bool(first["validated"]), what), loc="left", fontsize=8
    )
