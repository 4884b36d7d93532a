"""The figure about sources of interference: known pressure, and what each source makes of it."""

import textwrap
from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from veltair.evaluation.figures.style import MARKERS, SMALL, style
from veltair.evaluation.measurement.interference_fit import COLUMNS
from veltair.machine.interference.source import PressureFit

PANEL_IN = 2.9
TITLE_IN = 0.35
NARROWEST_IN = 4.4
CAPTION_IN = 0.16  # a line
LEGEND_IN = 0.45


def fit_figure(table: pd.DataFrame, fits: Sequence[PressureFit]) -> Figure:
    """Return a panel per source: predicted over known pressure of held-out co-runs, with R² and error.

    `table` holds the rows of the sources' `FitReport`s. Raises ValueError if it is empty, lacks columns or a
    source of `fits`.
    """
    missing = set(COLUMNS).difference(table.columns)
    if missing or table.empty or not fits:
        raise ValueError(
            f"there is nothing to draw: the table has {len(table)} rows, lacks {sorted(missing)}, and there "
            f"are {len(fits)} fits; measure co-runs first"
        )
    table = table.assign(kind=table["load"].str.split().str[0])
    kinds = list(dict.fromkeys(table["kind"]))
    lines = _caption(table, fits)
    width_in = max(NARROWEST_IN, PANEL_IN * len(fits))
    below_in = LEGEND_IN + CAPTION_IN * len(lines)
    height_in = TITLE_IN + PANEL_IN + below_in
    with style():
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        figure.set_layout_engine("constrained", rect=(0, below_in / height_in, 1, 1 - below_in / height_in))
        axes = figure.subplots(1, len(fits), squeeze=False, sharey=True)[0]
        for axis, fit in zip(axes, fits, strict=True):
            _draw(axis, table[table["source"] == fit.source], fit, kinds)
        axes[0].set_ylabel("predicted pressure (share, 0 to 1)")
        _write_below(figure, axes[0], lines)
    return figure


def _write_below(figure: Figure, axis: Axes, lines: Sequence[str]) -> None:
    """Add an axis's legend, and under it the lines of the caption."""
    height_in = figure.get_size_inches()[1]
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="lower center",
        bbox_to_anchor=(0.5, CAPTION_IN * len(lines) / height_in),
        ncols=len(labels),
        frameon=False,
        fontsize=8,
    )
    figure.text(0.02, 0.03 / height_in, "\n".join(lines), fontsize=SMALL, va="bottom", linespacing=1.25)


def _draw(axis: Axes, rows: pd.DataFrame, fit: PressureFit, kinds: Sequence[str]) -> None:
    """Draw one source's readings; each kind of load keeps its shade of grey and its marker in all panels."""
    if rows.empty:
        raise ValueError(
            f"the table has no row of {fit.source}; give the rows of each source that was fitted"
        )
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.9, linestyle="--", label="exact")
    for kind, marker, shade in zip(kinds, MARKERS, sns.color_palette("viridis", len(kinds)), strict=False):
        here = rows[rows["kind"] == kind]
        sns.scatterplot(
            x=here["known"],
            y=here["predicted"],
            ax=axis,
            color=shade,
            marker=marker,
            s=26,
            alpha=0.75,
            edgecolor="black",
            linewidth=0.3,
            label=kind,
            legend=False,
        )
    axis.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), ylabel="")
    axis.set_aspect("equal")
    axis.set_xlabel("pressure of the co-runner (share, 0 to 1)")
    axis.grid(color="0.85", linewidth=0.6)
    title = f"{fit.source}: R² {fit.r_squared:.2f}, error {fit.mean_absolute_error:.2f}"
    axis.set_title(title.replace("-", "\N{MINUS SIGN}"), loc="left", fontsize=9)


def _caption(table: pd.DataFrame, fits: Sequence[PressureFit]) -> list[str]:
    counts = []
    for fit in fits:
        rows = table[table["source"] == fit.source]
        counts.append(f"{fit.source} n\u00a0=\u00a0{len(rows)} readings of {rows['corun'].nunique()} co-runs")
    text = (
        f"Each point is one reading beside a co-runner of known pressure ({'; '.join(counts)}), predicted by "
        "a linear fit on all other co-runs. Error: mean absolute, in units of pressure. Loads: nothing "
        "(alone), an L3 footprint (cache), a DRAM stream (reads), or both."
    )
    width = int(16.5 * max(NARROWEST_IN, PANEL_IN * len(fits)))
    return textwrap.wrap(text, width, break_on_hyphens=False)
