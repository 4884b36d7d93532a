"""A grid of panels, a row a backend and machine and a column a workload, and what the caption says of it."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from veltair.evaluation.figures.style import finish
from veltair.evaluation.metrics.intervals import CONFIDENCE
from veltair.evaluation.metrics.policies_table import (
    SourceKey,
    at_source,
    number,
    relaxed_changes,
    source_name,
    sources,
    span,
)
from veltair.evaluation.metrics.records import check_columns

PanelKey = tuple[str, str, str]  # backend, machine, workload
NAMED_SEEDS = 10  # more of them are only counted
UNVALIDATED = "0.95"  # face of panels that no measurement stands behind


@dataclass(frozen=True, slots=True)
class PanelGrid:
    """A figure and its panels by backend, machine and workload; a workload that a source lacks has none.

    `stacks` holds the panels of each from the top; most figures have one.
    """

    figure: Figure
    stacks: dict[PanelKey, list[Axes]]

    def leftmost(self, panel: PanelKey) -> bool:
        """Return whether a panel is the first of its row."""
        return next(other for other in self.stacks if other[:2] == panel[:2]) == panel

    @property
    def lowest(self) -> SourceKey:
        """The backend and machine of the last row."""
        return next(reversed(self.stacks))[:2]

    def finish(self, handles: Sequence[Artist], paragraphs: Sequence[str]) -> Figure:
        """Add the legend and the caption."""
        return finish(self.figure, handles, paragraphs)


def panel_grid(
    table: pd.DataFrame,
    targets: pd.DataFrame,
    panel_in: tuple[float, float],
    left_in: float = 0.6,
    ratios: Sequence[float] = (1.0,),
) -> PanelGrid:
    """Return a grid with a panel for each source and workload of a table, titled and empty.

    `panel_in` is the width and height of a stack of panels, `left_in` what the names at the left need, and
    `ratios` the heights of the panels of a stack to each other. A panel of a machine that nothing was
    measured on is tinted; a workload with a relaxed target has a star (by the optional column `models`).
    """
    if table.empty:
        raise ValueError("there is nothing to draw: the table is empty")
    rows = sources(table)
    workloads = list(dict.fromkeys(table["workload"]))
    size = (max(6.4, left_in + panel_in[0] * len(workloads)), (panel_in[1] + 0.45) * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(
        len(rows) * len(ratios), len(workloads), squeeze=False, height_ratios=list(ratios) * len(rows)
    )
    stacks: dict[PanelKey, list[Axes]] = {}
    for row, source in enumerate(rows):
        own = list(dict.fromkeys(table.loc[at_source(table, source), "workload"]))
        for column, stack in enumerate(axes[row * len(ratios) : (row + 1) * len(ratios)].T):
            if column < len(own):
                stacks[(*source, own[column])] = list(stack)
                _name(stack, table, targets, source, own[column], heading=column == 0)
            for axis in stack:
                axis.set_visible(column < len(own))
    return PanelGrid(figure, stacks)


def _name(
    stack: Sequence[Axes],
    table: pd.DataFrame,
    targets: pd.DataFrame,
    source: SourceKey,
    workload: str,
    heading: bool,
) -> None:
    name = source_name(source, table)
    star = " (* relaxed QoS)" if relaxed_here(table, targets, source, workload) else ""
    stack[0].annotate(
        workload + star, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=9
    )
    if heading:
        stack[0].set_title(name, loc="left", pad=18, weight="bold", fontsize=9)
    if name.endswith("UNVALIDATED"):
        for axis in stack:
            axis.set_facecolor(UNVALIDATED)


def relaxed_here(table: pd.DataFrame, targets: pd.DataFrame, source: SourceKey, workload: str) -> bool:
    """Return whether a target of the models of a workload was relaxed on a machine; of any, if unknown."""
    relaxed = targets[(targets["machine"] == source[1]) & targets["relaxed"].astype(bool)]
    here = at_panel(table, (*source, workload))
    if "models" not in here or not len(here):
        return len(relaxed) > 0
    models = ", ".join(here["models"].unique()).split(", ")
    return bool(relaxed["model"].isin(models).any())


def with_models(table: pd.DataFrame, rates: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the models of each workload, as the table of rates names them."""
    if "models" in table:
        return table
    known = rates.groupby("workload", sort=False)["models"].first()
    return table.assign(models=table["workload"].map(known).fillna(""))


def at_panel(table: pd.DataFrame, panel: PanelKey) -> pd.DataFrame:
    """Return the rows of a backend, machine and workload."""
    return table[at_source(table, panel[:2]) & (table["workload"] == panel[2])]


def sample_notes(table: pd.DataFrame, targets: pd.DataFrame, interval: bool = True) -> list[str]:
    """Return for each source how many queries and seeds stand behind it, and which targets are relaxed."""
    check_columns(table, ("backend", "machine", "validated", "seed"), "the table of a figure")
    notes = []
    for source in sources(table):
        here = table[at_source(table, source)]
        name = source_name(source, here)
        notes.append(f"{name}: {sample_text(here, interval)} {relaxed_text(targets, [source[1]])}".rstrip())
    return notes


def sample_text(table: pd.DataFrame, interval: bool) -> str:
    """Return how many queries a run has, the seeds, and how finely the highest rate was searched.

    The optional columns `queries` (counted ones), `arrivals` and `resolution` tell the first and the last.
    `interval` tells whether one seed is worth a remark, as the figure draws intervals over seeds.
    """
    seeds = sorted(int(seed) for seed in table["seed"].unique())
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    if len(seeds) > NAMED_SEEDS:  # measured runs have one a slot
        named = f"{len(seeds)} seeds"
    alone = "" if len(seeds) > 1 or not interval else " (one seed: no interval)"
    if "queries" in table:
        named = f"n = {span(table['queries'])} counted queries a run, {named}"
    elif "arrivals" in table:
        named = f"n = {span(table['arrivals'])} queries a run, {named}"
    return f"{named}{alone}.{_resolution_text(table)}"


def _resolution_text(table: pd.DataFrame) -> str:
    found = span(100 * table["resolution"]) if "resolution" in table else "?"
    return "" if found == "?" else f" QPS resolved to {found} %."


def relaxed_text(targets: pd.DataFrame, machines: Iterable[str]) -> str:
    """Return which targets were relaxed on the machines, from what to what; "" if none was."""
    relaxed = targets[targets["machine"].isin(list(machines)) & targets["relaxed"].astype(bool)]
    changes = ", ".join(relaxed_changes(relaxed))
    return f"{RELAXED_NOTE}: {changes}." if changes else ""


def machine_title(machine: str, validated: bool, what: str) -> str:
    """Return the title of a panel about one machine, on two lines: what it shows, and where."""
    return f"{what}\n{textwrap.shorten(machine, 40, placeholder='…')}" + (
        "" if validated else ": UNVALIDATED"
    )


RELAXED_NOTE = "* QoS relaxed, as the machine is too slow for the table's"
INTERVAL_NOTE = f"Whiskers: {number(100 * CONFIDENCE)} % interval of the mean over seeds (Student's t)."
