"""What the test of the premise says: a plain verdict with its numbers, and a figure."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from veltair.evaluation.figures.save import save
from veltair.evaluation.figures.style import SMALL, style
from veltair.evaluation.metrics.markdown import markdown_table
from veltair.evaluation.versions.interference_sensitivity import measure_tolerance
from veltair.evaluation.versions.premise import (
    CELL,
    CONFIDENCE,
    SMALLEST,
    CoRunnerEffect,
    Effect,
    analyse,
    ends,
    overall,
)
from veltair.provenance import collect, read_provenance, write_atomically, write_parquet

KINDS = {
    "cache": "a core that fills the L3",
    "reads": "a core that reads DRAM",
    "writes": "a core that writes past the caches",
}
HEADER = (
    *("beside", "slowdown of a version", "local slowed more by"),
    *("switching gains", "correlation", "verdict"),
)
DEFINITIONS = (
    "- **Slowdown**: time beside the co-runner ÷ alone, mean over a structure's versions; median of",
    "  structures.",
    "- **Local slowed more by**: slowdown of the version with the largest blocking ÷ of the one with most",
    "  parallelism, less 1; median of structures in which they differ.",
    "- **Switching gains**: model latency with the versions that are fastest alone ÷ with those that are",
    "  fastest beside the co-runner, less 1. Both are chosen in all other processes; median of processes and",
    "  models.",
    "- **Correlation**: Spearman's of slowdown and blocking bytes, within structures; the premise wants it",
    "  above 0.",
    f"- **Verdict**: supported if both effects are above 0, not supported if one is below {SMALLEST:.0%}.",
)
MEANING = {
    "supported": "Beside at least one co-runner, local versions are slowed down more than parallel ones, and "
    "choosing versions for it pays, in processes that took no part in choosing.",
    "not supported": f"Beside every co-runner, local versions are slowed down less than {SMALLEST:.0%} more "
    f"than parallel ones, or choosing versions for it gains less than {SMALLEST:.0%}.",
    "inconclusive": "No co-runner supports the premise, and the intervals of at least one are too wide to "
    "refute it.",
}


def measure(machine: Path, builds: Sequence[Path], build_dir: Path, processes: int, output: Path) -> None:
    """Measure every version beside co-runners and write the times."""
    table = measure_tolerance(machine, builds, build_dir, processes)
    provenance = collect(inputs=[machine, *(build / "plan.json" for build in builds)])
    write_parquet(output, table, provenance)


def write_premise(times: Path, text: Path, figure: Path, formats: Sequence[str]) -> None:
    """Analyse measured times and write the verdict and the figure."""
    table = pd.read_parquet(times)
    findings = analyse(table)
    words = premise_markdown(findings, table, read_provenance(times).cpu)
    print(words.splitlines()[2], flush=True)
    save(premise_figure(findings, ends(table), table), figure, formats)
    write_atomically({text: words.encode()})


def premise_markdown(findings: Sequence[CoRunnerEffect], table: pd.DataFrame, cpu: str) -> str:
    """Return the verdict, what it rests on, and every number with its interval."""
    verdict = overall(list(findings))
    lines = [
        "# Do parallel versions tolerate interference better than local ones?",
        "",
        f"**{verdict.capitalize()} on this machine.** {MEANING[verdict]}",
        "",
        f"Measured on {cpu}, one core for the network and one for the co-runner: {_sizes(table)}. In "
        f"brackets: bootstrap intervals that hold with {CONFIDENCE:.0%} for all rows of a column together.",
        "",
        *markdown_table(HEADER, map(_row, findings)),
        "",
        *DEFINITIONS,
        "",
    ]
    return "\n".join(lines)


def premise_figure(findings: Sequence[CoRunnerEffect], pairs: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Return slowdowns by structure, and both effects and the correlation with their intervals."""
    order = [finding.condition for finding in findings]
    with style():
        figure = Figure(figsize=(10.4, 2.0 + 0.55 * len(order)), layout="constrained")
        axes = figure.subplots(1, 4, sharey=True, width_ratios=[1.5, 1, 1, 1])
        _draw_slowdowns(axes[0], pairs, order)
        small = 100 * SMALLEST
        _draw_effects(axes[1], [one.difference for one in findings], 100, "local slowed more by (%)", small)
        _draw_effects(axes[2], [one.gain for one in findings], 100, "switching gains (%)", small)
        _draw_effects(axes[3], [one.correlation for one in findings], 1, "correlation with blocking", 0)
        names = [KINDS.get(name, name).replace(" that ", "\nthat ") for name in order]
        axes[0].set_yticks(range(len(order)), names)
        title = f"Do parallel versions tolerate interference better? Here: {overall(list(findings))}"
        figure.suptitle(title, fontsize=10)
        caption = (
            f"{_sizes(table)}. Dots: structures (left), medians (right) with bootstrap intervals that hold "
            f"with {CONFIDENCE:.0%} for all rows together; switching is held out; grey: below {SMALLEST:.0%}."
        )
        figure.supxlabel(textwrap.fill(caption, 150), fontsize=SMALL)
        return figure


def _draw_slowdowns(axis: Axes, pairs: pd.DataFrame, order: Sequence[str]) -> None:
    tidy = pairs.melt(["condition", "structure"], ["local", "parallel"], "version", "slowdown")
    tidy["place"] = tidy["condition"].map({name: index for index, name in enumerate(order)})
    sns.stripplot(
        data=tidy,
        x="slowdown",
        y="place",
        hue="version",
        palette={"local": "0.15", "parallel": "#DE8F05"},
        orient="h",
        dodge=True,
        jitter=False,  # it would draw from the global generator
        size=3,
        alpha=0.5,
        ax=axis,
    )
    axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set(xlabel="time beside ÷ alone", ylabel="")
    axis.legend(title="most … version", fontsize=SMALL, title_fontsize=SMALL, frameon=False)


def _draw_effects(axis: Axes, effects: Sequence[Effect], factor: float, label: str, small: float) -> None:
    values = np.array([[one.value, one.low, one.high] for one in effects]) * factor
    axis.axvspan(-small, small, color="0.9", linewidth=0)
    axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
    indices = np.arange(len(effects))
    axis.hlines(indices, values[:, 1], values[:, 2], color="black", linewidth=1.4)
    axis.plot(values[:, 0], indices, "o", color="black", markersize=5)
    axis.set_xlabel(label)
    for index, one in enumerate(effects):
        axis.annotate(
            f"n={one.count}", (1, index), (0, 6), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", fontsize=SMALL,
        )  # fmt: skip


def _row(finding: CoRunnerEffect) -> list[str]:
    kind = KINDS.get(finding.condition, finding.condition)
    numbers = [
        f"{finding.slowdown.value:.3f} [{finding.slowdown.low:.3f}, {finding.slowdown.high:.3f}]",
        *(
            f"{100 * one.value:+.1f} % [{100 * one.low:+.1f}, {100 * one.high:+.1f}], n = {one.count}"
            for one in (finding.difference, finding.gain)
        ),
        f"{finding.correlation.value:+.2f} [{finding.correlation.low:+.2f}, {finding.correlation.high:+.2f}]",
    ]
    return [kind, *numbers, finding.verdict]


def _sizes(table: pd.DataFrame) -> str:
    models = ", ".join(map(str, table["model"].unique()))
    repeats = len(table) // table.groupby(["condition", *CELL]).ngroups
    return (
        f"{models}; {table['structure'].nunique()} structures, {table['process'].nunique()} fresh processes, "
        f"{repeats} runs of each version in each"
    )
