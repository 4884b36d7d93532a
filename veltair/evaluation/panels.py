"""What the panels of a figure share: sites, order and look of policies, titles, legend and caption."""

import re
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from veltair.evaluation.comparison import (
    POLICY_ORDER,
    at_site,
    check_capacity,
    notes,
    order_policies,
    relaxed_models,
    site_name,
    sites,
)

HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oo", "||||", "**")
MARKERS = ("o", "s", "^", "D", "v", "p", "<", ">", "h", "X")
DASHES: tuple[Any, ...] = ("", (4, 1.5), (1, 1), (6, 1.5, 1, 1.5), (3, 1, 1, 1, 1, 1), (8, 2))
SMALL = 7.5  # points
LABEL_WIDTH = 24  # characters of a policy's name on one line
Site = tuple[str, str]


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


class Panels:
    """The look of one figure. A policy keeps its colour, hatch and marker whichever others are shown."""

    def __init__(self, capacity: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame) -> None:
        self.capacity, self.rates, self.targets = check_capacity(capacity), rates, targets
        self.sites: list[Site] = sites(capacity, rates)
        self.workloads = list(dict.fromkeys([*capacity["workload"], *rates["workload"]]))
        self.policies = order_policies([*capacity["policy"], *rates["policy"]])
        if not self.policies:
            raise ValueError("there is nothing to draw: the tables of capacities and of rates are both empty")
        ranks = order_policies([*POLICY_ORDER, *self.policies])
        self.rank = {policy: ranks.index(policy) for policy in self.policies}
        palette = sns.color_palette("colorblind", 10)
        self.colours = {policy: palette[rank % 10] for policy, rank in self.rank.items()}
        self.markers = {policy: MARKERS[rank % len(MARKERS)] for policy, rank in self.rank.items()}
        self.dashes = {policy: DASHES[rank % len(DASHES)] for policy, rank in self.rank.items()}

    def grid(self, per_site: int, column_in: float) -> tuple[Figure, Any]:
        """Return a figure and its axes: workloads down; sites across, `per_site` panels each."""
        columns = per_site * len(self.sites)
        longest = max(len(line) for policy in self.policies for line in fold(policy).split("\n"))
        lines = max(fold(policy).count("\n") for policy in self.policies) + 1
        width_in = 0.4 + 0.08 * longest + column_in * columns
        height_in = (0.75 + (0.22 + 0.1 * (lines - 1)) * len(self.policies)) * len(self.workloads) + 0.45
        figure = Figure(figsize=(max(6.4, width_in), height_in), layout="constrained")
        return figure, figure.subplots(len(self.workloads), columns, squeeze=False)

    def bars(self, axis: Axes, values: "pd.Series[float]", named: bool) -> None:
        """Draw a horizontal bar for each policy that has a value; `values` is indexed by policy."""
        known = values.dropna()
        if len(known):
            sns.barplot(
                y=known.index.to_numpy(),
                x=known.to_numpy(),
                hue=known.index.to_numpy(),
                order=self.policies,
                hue_order=self.policies,
                palette=self.colours,
                saturation=1,
                edgecolor="black",
                linewidth=0.7,
                width=0.72,
                legend=False,
                ax=axis,
            )
        for patch in axis.patches:
            if isinstance(patch, Rectangle):
                place = round(patch.get_y() + patch.get_height() / 2)
                patch.set_hatch(HATCHES[self.rank[self.policies[place]] % len(HATCHES)])
        axis.set(xlabel="", ylabel="")
        axis.set_ylim(len(self.policies) - 0.5, -0.5)
        axis.set_yticks(range(len(self.policies)), [fold(name) if named else "" for name in self.policies])
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="0.85", linewidth=0.6)

    def title(self, axis: Axes, site: Site, workload: str, with_site: bool) -> None:
        """Write the workload above a panel, over it the site; mark relaxed QoS and described machines."""
        here = at_site(self.rates, site) & (self.rates["workload"] == workload)
        models = ", ".join(self.rates.loc[here, "models"].unique()).split(", ")
        relaxed = set(relaxed_models(self.targets, site[1])) & set(models)
        name = site_name(site, self.capacity, self.rates)
        label = workload + (" (* relaxed QoS)" if relaxed else "")
        axis.annotate(label, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points")
        if with_site:
            heading = "\n".join(textwrap.fill(part, 38) for part in name.split(", ", 1))
            axis.set_title(heading, loc="left", pad=18, weight="bold", fontsize=9)

    def shade(self, axes: Sequence[Axes], site: Site) -> None:
        """Tint the panels of a machine that is described, not validated."""
        if site_name(site, self.capacity, self.rates).endswith("UNVALIDATED"):
            for axis in axes:
                axis.set_facecolor("0.95")

    def line_handles(self) -> list[Line2D]:
        """Return what the legend of a line figure shows for each policy."""
        return [
            Line2D(
                [],
                [],
                color=self.colours[policy],
                marker=self.markers[policy],
                markeredgecolor="white",
                linestyle=(0, self.dashes[policy]) if self.dashes[policy] else "-",
                label=fold(policy),
            )
            for policy in self.policies
        ]

    def finish(self, figure: Figure, handles: Sequence[Artist], lead: str) -> Figure:
        """Add the legend and, under it, the caption: the figure grows downwards by what they need."""
        width_in, panels_in = figure.get_size_inches()
        lines = [
            line for text in (lead, *self._sentences()) for line in textwrap.wrap(text, int(17.5 * width_in))
        ]
        labels = [str(handle.get_label()).split("\n") for handle in handles]
        longest = max(len(line) for label in labels for line in label)
        columns = max(1, min(len(handles), int(width_in / (0.65 + 0.075 * longest))))
        rows = -(-len(handles) // columns)
        legend_in = 0.1 + 0.19 * rows + 0.14 * min(rows, sum(len(label) > 1 for label in labels))
        caption_in = 0.1 + 0.148 * len(lines)
        height_in = panels_in + legend_in + caption_in
        figure.set_size_inches(width_in, height_in)
        bottom = (legend_in + caption_in) / height_in
        figure.set_layout_engine("constrained", rect=(0, bottom, 1, 1 - bottom), w_pad=0.08, h_pad=0.06)
        figure.legend(
            handles=list(handles),
            loc="lower center",
            bbox_to_anchor=(0.5, caption_in / height_in),
            ncols=columns,
            frameon=False,
            fontsize=8,
            handlelength=3,
            borderpad=0.1,
        )
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

    def _sentences(self) -> list[str]:
        """Return the caption: for each site a paragraph of its notes."""
        return [
            f"{site_name(site, self.capacity, self.rates)}: "
            + " ".join(notes(site, self.capacity, self.rates, self.targets))
            for site in self.sites
        ]


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
