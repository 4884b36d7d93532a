"""What a comparison says, as a table to read and as files to keep."""

from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from veltair.evaluation.metrics.policies_table import number
from veltair.evaluation.regression.judge import CONFIDENCE, LEAST_PAIRS, SMALLEST, Change, ChangeKind
from veltair.evaluation.regression.read import Comparison
from veltair.provenance import Provenance, write_json, write_result

STYLES = {
    ChangeKind.DIFFERS: "bold red",
    ChangeKind.REGRESSION: "bold red",
    ChangeKind.CHANGED: "yellow",
    ChangeKind.NOT_JUDGED: "yellow",
    ChangeKind.IMPROVEMENT: "green",
}
# What needs a reader's eye comes first.
ORDER = [
    ChangeKind.REGRESSION,
    ChangeKind.DIFFERS,
    ChangeKind.CHANGED,
    ChangeKind.NOT_JUDGED,
    ChangeKind.IMPROVEMENT,
    ChangeKind.NO_CHANGE,
    ChangeKind.EQUAL,
]
COLUMNS = [
    *("subject", "metric", "better", "pairs", "before", "after"),
    *("ratio", "low", "high", "outcome", "reason"),
]
RULE = (
    f"measured: an alarm needs {LEAST_PAIRS} pairs of runs made in turns, a change of the median of more "
    f"than {SMALLEST:.0%}, and a {CONFIDENCE:.0%} interval (of all quantities together) that leaves 1 out; "
    "simulated: equality"
)


def exit_code(comparison: Comparison, fail_on_regression: bool) -> int:
    """Return 1 for an alarm where one is asked for, 2 for what could not be compared or judged, else 0.

    Without `fail_on_regression` only what was refused counts: to have judged nothing is no pass.
    """
    if fail_on_regression and any(change.alarm for change in comparison.changes):
        return 1
    unjudged = any(change.outcome is ChangeKind.NOT_JUDGED for change in comparison.changes)
    return 2 if comparison.refused or (fail_on_regression and unjudged) else 0


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print what changed, worst first, then what was refused and what else differs."""
    table = Table(title="what changed", caption=RULE, title_justify="left", caption_justify="left")
    for name in ("of", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("before", "after", "ratio", "interval", "pairs"):
        table.add_column(name, justify="right")
    table.add_column("outcome")
    table.add_column("why", overflow="fold")
    for change in _sorted(comparison):
        table.add_row(*_cells(change), style=STYLES.get(change.outcome, ""))
    if comparison.changes:
        console.print(table)
    for line in comparison.refused:
        console.print(f"not compared: {line}", style="bold red", markup=False, highlight=False)
    for line in comparison.notes:
        console.print(f"also differs: {line}", markup=False, highlight=False)
    console.print(summary(comparison), markup=False, highlight=False)


def summary(comparison: Comparison) -> str:
    """Return how many quantities had which outcome, in one line."""
    counts = dict.fromkeys(ORDER, 0)
    for change in comparison.changes:
        counts[change.outcome] += 1
    found = [f"{count} {outcome}" for outcome, count in counts.items() if count]
    refused = [f"{len(comparison.refused)} refused"] if comparison.refused else []
    return f"{len(comparison.changes)} quantities: {', '.join([*found, *refused]) or 'nothing to compare'}"


def write_comparison(comparison: Comparison, folder: Path, provenance: Provenance) -> tuple[Path, Path]:
    """Write regression.csv, a row a quantity, and regression.json, with rule, refusals and notes too."""
    rows = [_plain(change) for change in _sorted(comparison)]
    csv, document = folder / "regression.csv", folder / "regression.json"
    text = pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n")
    write_result(csv, text.encode(), provenance)
    values = {
        "rule": RULE,
        "summary": summary(comparison),
        "changes": rows,
        "refused": list(comparison.refused),
        "notes": list(comparison.notes),
    }
    write_json(document, values, provenance)
    return csv, document


def _sorted(comparison: Comparison) -> list[Change]:
    return sorted(comparison.changes, key=lambda change: ORDER.index(change.outcome))


def _cells(change: Change) -> list[str]:
    interval = (
        f"{number(change.low)} … {number(change.high)}" if isfinite(change.low) else number(float("nan"))
    )
    return [
        change.quantity.subject,
        change.quantity.metric,
        *(number(value) for value in (change.before, change.after, change.ratio)),
        interval,
        str(change.pairs),
        str(change.outcome),
        change.reason,
    ]


def _plain(change: Change) -> dict[str, Any]:
    """Return a change as plain values, by column; no number is None."""
    numbers = {name: getattr(change, name) for name in ("before", "after", "ratio", "low", "high")}
    quantity = change.quantity
    values = {
        "subject": quantity.subject,
        "metric": quantity.metric,
        "better": quantity.better,
        "pairs": change.pairs,
        **{name: value if isfinite(value) else None for name, value in numbers.items()},
        "outcome": str(change.outcome),
        "reason": change.reason,
    }
    return {name: values[name] for name in COLUMNS}
