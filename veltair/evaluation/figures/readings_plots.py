"""The figure of the readings of a paper: all ratios by the value of each option, and their means."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from veltair.evaluation.figures.style import SMALL, finish, style
from veltair.evaluation.metrics.policies_table import source_name, sources
from veltair.evaluation.metrics.reading_ratios import (
    option_means,
    ranked,
    reading_options,
    reading_ratios,
    variance_shares,
)

PANEL_IN, NAMES_IN, ROW_IN = 2.1, 2.2, 0.21
ALL: dict[str, Any] = {"marker": "|", "markersize": 6, "color": "0.45", "alpha": 0.35, "linestyle": ""}
MEAN: dict[str, Any] = {"marker": "o", "color": "tab:blue", "linestyle": "", "markersize": 5}
BEST: dict[str, Any] = {"color": "tab:green", "linestyle": "--", "linewidth": 1.2}
PAPER: dict[str, Any] = {"color": "tab:red", "linestyle": ":", "linewidth": 1.6}


def readings_figure(table: pd.DataFrame) -> Figure:
    """Return a panel a workload: a row for each value of each option, with the ratios of all its readings.

    `table` has a row a reading, workload and seed, with `READING_COLUMNS` and the options. Options stand by
    the share of the variance that they explain, most first.
    """
    options = reading_options(table)
    if table.empty or not options:
        raise ValueError("there is nothing to draw: the table readings has no reading, or no option")
    ratios = reading_ratios(table)
    ordered = list(variance_shares(ratios, options).index)
    means = option_means(ratios, ordered)
    workloads = [name for name in ratios.columns if name in set(table["workload"])]
    rows = [(option, value) for option in ordered for value in means.loc[means["option"] == option, "value"]]
    with style():
        figure = Figure(
            figsize=(NAMES_IN + PANEL_IN * len(workloads), 0.8 + ROW_IN * (len(rows) + len(ordered))),
            layout="constrained",
        )
        panels = figure.subplots(1, len(workloads), squeeze=False, sharey=True)[0]
        for axis, workload in zip(panels, workloads, strict=True):
            _draw(axis, ratios, means, rows, workload)
        _name_rows(panels[0], rows, ordered)
        return finish(figure, _handles(table), [_caption(table, ratios)])


def _places(rows: Sequence[tuple[str, object]]) -> list[float]:
    """Return the height of each row: those of one option together, under its name."""
    places, place = [], 0.0
    for index, (option, _) in enumerate(rows):
        if index == 0 or rows[index - 1][0] != option:
            place += 1.0
        places.append(place)
        place += 1.0
    return places


def _draw(
    axis: Axes,
    ratios: pd.DataFrame,
    means: pd.DataFrame,
    rows: Sequence[tuple[str, object]],
    workload: str,
) -> None:
    for place, (option, value) in zip(_places(rows), rows, strict=True):
        own = ratios.loc[ratios[option] == value, workload]
        axis.plot(own, [place] * len(own), **ALL)
        mean = means.loc[(means["option"] == option) & (means["value"] == value), workload]
        axis.plot(mean, [place], **MEAN)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.axvline(float(ranked(ratios)[workload].iloc[0]), **BEST)
    for ratio in ratios.loc[ratios["is_paper"], workload]:
        axis.axvline(float(ratio), **PAPER)
    axis.set_xlim(left=0)
    axis.set_title(workload, fontsize=9)
    axis.grid(axis="x", color="0.9", linewidth=0.6)


def _name_rows(axis: Axes, rows: Sequence[tuple[str, object]], options: Sequence[str]) -> None:
    places = _places(rows)
    heads = [places[[option for option, _ in rows].index(name)] - 1.0 for name in options]
    ticks = [*zip(places, (f"{value}" for _, value in rows), strict=True)]
    ticks += zip(heads, (f"{name}:" for name in options), strict=True)
    axis.set_yticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=SMALL)
    axis.set_ylim(places[-1] + 0.7, -0.7)
    axis.tick_params(axis="y", length=0)


def _handles(table: pd.DataFrame) -> list[Line2D]:
    against = table["against"].iloc[0]
    return [
        Line2D([], [], **{**ALL, "alpha": 1.0}, label="a reading"),
        Line2D([], [], **MEAN, label="mean of all with this value"),
        Line2D([], [], **BEST, label="the best reading"),
        Line2D([], [], **PAPER, label="preset paper"),
        Line2D([], [], color="black", linewidth=0.8, label=f"as good as {against}"),
    ]


def _caption(table: pd.DataFrame, ratios: pd.DataFrame) -> str:
    policy, against = table["policy"].iloc[0], table["against"].iloc[0]
    where = "; ".join(source_name(source, table) for source in sources(table))
    return (
        f"{where}. {len(ratios)} readings of {policy}: QPS at 95 % QoS over that of {against} under the same "
        f"order, conflict and drop rules, mean of {table['seed'].nunique()} seeds; 0: it serves nobody. "
        "Options stand by the share of the variance that each alone explains, most first."
    )
