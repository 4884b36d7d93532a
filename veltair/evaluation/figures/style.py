"""The style of all figures: fonts, colours and markers of policies, logarithmic axes, legend and caption."""

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from veltair.evaluation.metrics.policies_table import AS_THEY_COME, PolicyOrder, number

HATCHES = (
    *("", "////", "....", "\\\\", "xxxx", "----", "++++", "oo", "||||", "**"),
    *("//..", "OO", "\\--", "||oo"),
)
MARKERS = ("o", "s", "^", "D", "v", "p", "<", ">", "h", "X", "P", "*", "d", "H")
DASHES: tuple[Any, ...] = ("", (4, 1.5), (1, 1), (6, 1.5, 1, 1.5), (3, 1, 1, 1, 1, 1), (8, 2))
SMALL = 7.5  # points
LOG_FROM = 12  # an axis whose largest value is this many times its smallest is logarithmic
LEGEND: dict[str, Any] = {
    "loc": "lower center",
    "frameon": False,
    "fontsize": 8,
    "handlelength": 3,
    "borderpad": 0.1,
}
DARKER = 0.6  # of a colour of the palette, for policies beyond its ten
LIGHTEST = 0.65  # part of white in the last shade of a family's colour, if it has many
LABEL_WIDTH = 24  # characters of a policy's name on one line


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn and saved, whatever the user's own settings are."""
    return mpl.rc_context(
        {
            "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures agree everywhere
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": False,
            "hatch.linewidth": 0.6,
            "svg.hashsalt": "veltair",
            "svg.fonttype": "path",
            "savefig.dpi": 160,
        }
    )


class PolicyStyle:
    """How policies look: each by its place in `order.styles`, whichever others are shown.

    A policy of a family has a shade of the family's colour instead of a colour of its own. `notes` are what
    the caption says of their options.
    """

    def __init__(self, policies: Iterable[str], order: PolicyOrder = AS_THEY_COME) -> None:
        self.policies = order.of(policies)
        self.notes = order.options_note(self.policies)
        ranks = list(dict.fromkeys([*order.styles, *self.policies]))
        self.rank = {policy: ranks.index(policy) for policy in self.policies}
        shades = _shades(order.families)
        self.colours = {policy: shades.get(policy, _colour(rank)) for policy, rank in self.rank.items()}
        self.hatches = {policy: HATCHES[rank % len(HATCHES)] for policy, rank in self.rank.items()}
        self.markers = {policy: MARKERS[rank % len(MARKERS)] for policy, rank in self.rank.items()}
        self.dashes = {policy: DASHES[rank % len(DASHES)] for policy, rank in self.rank.items()}

    def rows(self, axis: Axes, named: bool) -> None:
        """Give each policy a row of a panel, from the top; name the rows if they are at the left."""
        axis.set_ylim(len(self.policies) - 0.5, -0.5)
        axis.set_yticks(range(len(self.policies)), [fold(name) if named else "" for name in self.policies])
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="0.85", linewidth=0.6)

    def bars(self, axis: Axes, values: "pd.Series[float]", named: bool) -> None:
        """Draw a horizontal bar for each policy that has a value; `values` is indexed by policy."""
        for index, policy in enumerate(self.policies):
            value = float(values.get(policy, math.nan))
            if math.isfinite(value):
                fill: dict[str, Any] = {"color": self.colours[policy], "hatch": self.hatches[policy]}
                axis.barh(index, value, height=0.72, edgecolor="black", linewidth=0.7, **fill)
        axis.set(xlabel="", ylabel="")
        self.rows(axis, named)

    def lines(self, axis: Axes, drawn: pd.DataFrame, x: str) -> None:
        """Draw a line for each policy, of column `drawn` over column `x`.

        Several seeds are drawn as their mean, with a band from the least to the largest.
        """
        if len(drawn):
            sns.lineplot(
                data=drawn,
                x=x,
                y="drawn",
                hue="policy",
                hue_order=self.policies,
                palette=self.colours,
                style="policy",
                style_order=self.policies,
                markers=self.markers,
                dashes=self.dashes,
                markersize=6,
                markeredgewidth=0.4,
                linewidth=1.4,
                errorbar=("pi", 100) if drawn["seed"].nunique() > 1 else None,
                legend=False,
                ax=axis,
            )
        axis.set(xlabel="", ylabel="")
        axis.grid(color="0.85", linewidth=0.6)

    def linestyle(self, policy: str) -> Any:
        """Return a policy's line style as matplotlib takes it."""
        return (0, self.dashes[policy]) if self.dashes[policy] else "-"

    def handle(self, policy: str, **changes: Any) -> Line2D:
        """Return the legend's line for a policy."""
        line = {
            "color": self.colours[policy],
            "marker": self.markers[policy],
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
            "linestyle": self.linestyle(policy),
            "label": fold(policy),
        }
        return Line2D([], [], **{**line, **changes})

    def line_handles(self) -> list[Line2D]:
        """Return what the legend of a line figure shows for each policy."""
        return [self.handle(policy) for policy in self.policies]


def finish(figure: Figure, handles: Sequence[Artist], paragraphs: Sequence[str]) -> Figure:
    """Add a legend, if there are handles, and under it a caption: the figure grows downwards by both."""
    width_in, panels_in = figure.get_size_inches()
    lines = [line for text in paragraphs for line in textwrap.wrap(text, int(17.5 * width_in))]
    labels = [str(handle.get_label()).split("\n") for handle in handles]
    longest = max((len(line) for label in labels for line in label), default=0)
    columns = max(1, min(len(handles), int(width_in / (0.65 + 0.075 * longest))))
    rows = -(-len(handles) // columns)
    legend_in = 0.1 + 0.19 * rows + 0.14 * min(rows, sum(len(label) > 1 for label in labels))
    caption_in = 0.1 + 0.148 * len(lines)
    height_in = panels_in + legend_in + caption_in
    figure.set_size_inches(width_in, height_in)
    bottom = (legend_in + caption_in) / height_in
    figure.set_layout_engine("constrained", rect=(0, bottom, 1, 1 - bottom), w_pad=0.08, h_pad=0.06)
    if handles:
        index = (0.5, caption_in / height_in)
        figure.legend(handles=list(handles), bbox_to_anchor=index, ncols=columns, **LEGEND)
    figure.text(
        0.08 / width_in,
        0.05 / height_in,
        "\n".join(lines),
        fontsize=SMALL,
        va="bottom",
        linespacing=1.25,
        parse_math=False,
    )
    return figure


def flow(
    count: int, panel_in: tuple[float, float], columns: int, stack: int = 1
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and `count` stacks of panels, side by side and then below.

    `panel_in` is the width and height of a stack, which has `stack` panels from the top.
    """
    across = min(columns, count)
    rows = -(-count // across)
    size = (max(6.4, 0.5 + panel_in[0] * across), 0.3 + panel_in[1] * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows * stack, across, squeeze=False)
    stacks = [
        [axes[index // across * stack + part, index % across] for part in range(stack)]
        for index in range(rows * across)
    ]
    for unused in stacks[count:]:
        for axis in unused:
            axis.set_visible(False)
    return figure, stacks[:count]


def name_outer(axes: Sequence[Axes], columns: int, x: str | None = None, y: str | None = None) -> None:
    """Name the axes of panels that flow: y at the left, x where nothing is below."""
    for index, axis in enumerate(axes):
        if y is not None and index % columns == 0:
            axis.set_ylabel(y)
        if x is not None and index + columns >= len(axes):
            axis.set_xlabel(x)


def make_log(axis: Axes, which: str, base: int = 10, most: int = 7) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2 and 5, at 1 and 3, or at the powers of its base.

    It takes the densest of these with at most `most` labels between the limits that the axis has now.
    """
    (axis.set_xscale if which == "x" else axis.set_yscale)("log", base=base)
    ticks = axis.xaxis if which == "x" else axis.yaxis
    low, high = sorted(ticks.get_view_interval())
    for subs in ((1, 2, 5), (1, 3), (1,)) if base == 10 else ((1,),):
        ticks.set_major_locator(LogLocator(base=base, subs=subs, numticks=50))
        if sum(low <= index <= high for index in ticks.get_major_locator().tick_values(low, high)) <= most:
            break
    ticks.set_minor_locator(NullLocator())
    ticks.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def wide(values: "pd.Series[float]") -> bool:
    """Return whether values are so far apart that their axis is to be logarithmic."""
    known = values[values > 0]
    return len(known) > 0 and bool(known.max() > LOG_FROM * known.min())


def _shades(families: Sequence[Sequence[str]]) -> dict[str, tuple[float, float, float]]:
    """Return the colours of families' members: the first has the family's own, the others are lighter."""
    return {
        name: _lighter(_colour(number), LIGHTEST * place / len(names))
        for number, names in enumerate(families)
        for place, name in enumerate(names)
    }


def _lighter(colour: tuple[float, float, float], white: float) -> tuple[float, float, float]:
    red, green, blue = (part + (1 - part) * white for part in colour)
    return red, green, blue


def _colour(rank: int) -> tuple[float, float, float]:
    red, green, blue = sns.color_palette("colorblind", 10)[rank % 10]
    share = DARKER ** (rank // 10)
    return share * red, share * green, share * blue


def fold(name: str) -> str:
    """Return a policy's name on at most two lines, broken between words; too long a name loses its front."""
    lines = [""]
    for word in re.split(r"(?<=[.:_/\s-])|(?<=[a-z])(?=[A-Z])", name):
        for start in range(0, len(word), LABEL_WIDTH):
            part = word[start : start + LABEL_WIDTH]
            if len(lines[-1]) + len(part) > LABEL_WIDTH:
                lines.append("")
            lines[-1] += part
    shown = lines[-2:]
    if len(lines) > len(shown):
        shown[0] = "…" + shown[0]
    return "\n".join(shown)


def write_beside(axis: Axes, place: float, text: str) -> None:
    """Write at the right of a panel, outside, at a height in its data."""
    axis.annotate(
        text,
        (1, place),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center_baseline",
        fontsize=SMALL,
    )
