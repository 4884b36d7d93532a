"""Estimates: a mean over seeds with its interval, for each policy, workload, machine and backend."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from veltair.evaluation.metrics.intervals import Interval
from veltair.evaluation.metrics.policies_table import SCENARIO_COLUMNS

ESTIMATE_COLUMNS = (
    *(*SCENARIO_COLUMNS, "validated", "policy", "mean", "low", "high", "count", "note", "bound"),
)
Key = tuple[Hashable, ...]  # backend, machine, workload, policy
BySeed = dict[int, float]


def estimates(
    table: pd.DataFrame,
    found: Mapping[Key, Interval],
    notes: Mapping[Key, str] | None = None,
    bounds: Mapping[Key, bool] | None = None,
) -> pd.DataFrame:
    """Return a row with the columns of `ESTIMATE_COLUMNS` for each policy of a table, in its order.

    `notes` say what a number leaves out, or why there is none; `bounds` which are only lower bounds.
    """
    rows: list[dict[str, Any]] = []
    for key, own in scenario_policies(table):
        *scenario, policy = key
        rows.append(
            {
                **dict(zip(SCENARIO_COLUMNS, scenario, strict=True)),
                "validated": bool(own["validated"].astype(bool).all()),
                "policy": policy,
                **asdict(found[key]),
                "note": (notes or {}).get(key, ""),
                "bound": (bounds or {}).get(key, False),
            }
        )
    return pd.DataFrame(rows, columns=list(ESTIMATE_COLUMNS))


def scenario_policies(table: pd.DataFrame) -> list[tuple[Key, pd.DataFrame]]:
    """Return the rows of each policy, workload, machine and backend, in the table's order."""
    return [(tuple(key), rows) for key, rows in table.groupby([*SCENARIO_COLUMNS, "policy"], sort=False)]
