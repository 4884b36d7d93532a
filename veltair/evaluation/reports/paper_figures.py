"""The figures by name: which tables each is drawn from, and by which function."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from veltair.evaluation.claims.report import judge_claims
from veltair.evaluation.claims.rules import published_gains
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.figures.fidelity_plots import (
    paper_corun_fit_figure,
    paper_cost_fit_figure,
    paper_fidelity_figure,
)
from veltair.evaluation.figures.isolation_plots import paper_equal_drops_figure, paper_noisy_neighbour_figure
from veltair.evaluation.figures.layer_plots import paper_core_need_figure, paper_slowdown_figure
from veltair.evaluation.figures.measured_plots import measured_figure
from veltair.evaluation.figures.policy_plots import (
    paper_efficiency_figure,
    paper_fluid_figure,
    paper_latency_figure,
    paper_qps_figure,
    paper_ratio_figure,
)
from veltair.evaluation.figures.run_plots import (
    latency_figure,
    paper_conflicts_figure,
    paper_granularity_figure,
)
from veltair.evaluation.figures.save import save
from veltair.evaluation.figures.sensitivity_plots import paper_scale_figure, paper_sensitivity_figure
from veltair.evaluation.metrics.capacity_table import REFERENCE, WINNER
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, PolicyOrder


class FigureSource(NamedTuple):
    """A figure: the function that draws it, the names of its tables in order, and if it shows policies."""

    draw: Callable[..., Figure]
    tables: tuple[str, ...]
    of_policies: bool = True


def _ratios_beside_the_paper(
    seeds: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame, order: PolicyOrder = AS_THEY_COME
) -> Figure:
    return paper_ratio_figure(seeds, rates, targets, published_gains(WINNER, REFERENCE), order)


POLICY_TABLES = ("capacity_seeds", "rates", "targets")
PAPER_FIGURES: Mapping[str, FigureSource] = {
    "measured": FigureSource(measured_figure, ("curves", "measured_capacity", "measured_ratios", "targets")),
    "paper_qps": FigureSource(paper_qps_figure, POLICY_TABLES),
    "paper_ratio": FigureSource(_ratios_beside_the_paper, POLICY_TABLES),
    "paper_latency": FigureSource(paper_latency_figure, POLICY_TABLES),
    "paper_efficiency": FigureSource(paper_efficiency_figure, POLICY_TABLES),
    "paper_fluid": FigureSource(paper_fluid_figure, POLICY_TABLES),
    "paper_granularity": FigureSource(paper_granularity_figure, ("granularity", "targets")),
    "paper_conflicts": FigureSource(paper_conflicts_figure, ("conflicts", "rates", "targets")),
    "paper_core_need": FigureSource(paper_core_need_figure, ("core_need", "targets"), of_policies=False),
    "paper_slowdown": FigureSource(paper_slowdown_figure, ("slowdown",), of_policies=False),
    "paper_sensitivity": FigureSource(paper_sensitivity_figure, ("sensitivity", "targets")),
    "paper_scale": FigureSource(paper_scale_figure, ("scale", "targets")),
    "paper_noisy_neighbour": FigureSource(paper_noisy_neighbour_figure, ("noisy_neighbour", "targets")),
    "paper_equal_drops": FigureSource(
        paper_equal_drops_figure, ("equal_drops", "capacity_seeds", "rates", "targets")
    ),
    "paper_fidelity": FigureSource(paper_fidelity_figure, ("fidelity",)),
    "paper_cost_fit": FigureSource(paper_cost_fit_figure, ("cost_fit",), of_policies=False),
    "paper_corun_fit": FigureSource(paper_corun_fit_figure, ("corun_fit",), of_policies=False),
    "latency": FigureSource(latency_figure, ("rates", "targets")),
}


def draw_paper_figure(
    name: str,
    folder: Path,
    figures: Path,
    formats: Sequence[str],
    order: PolicyOrder = AS_THEY_COME,
) -> list[Path]:
    """Draw a figure from the tables NAME.csv in a folder, and return the files that were written.

    Raises LookupError for an unknown figure and FileNotFoundError for a table that is not there.
    """
    if name not in PAPER_FIGURES:
        raise LookupError(f"there is no figure {name!r}; choose from {', '.join(PAPER_FIGURES)}")
    figure = PAPER_FIGURES[name]
    tables = [_table(folder, table) for table in figure.tables]
    drawn = figure.draw(*tables, order=order) if figure.of_policies else figure.draw(*tables)
    return save(drawn, figures / name, formats)


def draw_paper_figures(
    names: Sequence[str],
    folder: Path,
    figures: Path,
    formats: Sequence[str],
    order: PolicyOrder = AS_THEY_COME,
) -> None:
    """Draw several figures from the tables in a folder."""
    for name in names:
        draw_paper_figure(name, folder, figures, formats, order)


def redraw(
    names: Sequence[str],
    folder: Path,
    figures: Path,
    formats: Sequence[str],
    benchmarks: Path,
    judged: Path,
    order: PolicyOrder = AS_THEY_COME,
) -> None:
    """Draw figures and judge the claims, into a file `judged`, by the metric tables in a folder."""
    draw_paper_figures(names, folder, figures, formats, order)
    judge_claims(folder, benchmarks, judged)


def _table(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run the rule that makes it and draw again")
    return read_csv(path)
