"""What readings of a paper amount to: their ratios, and which of the options matter."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from veltair.evaluation.metrics.records import check_columns

READING_COLUMNS = (
    *("backend", "machine", "validated", "workload", "policy", "against", "seed", "queries", "qps"),
    *("against_qps", "is_paper"),
)


def reading_options(table: pd.DataFrame) -> list[str]:
    """Return the options of the readings: the columns that are none of `READING_COLUMNS`."""
    check_columns(table, READING_COLUMNS, "readings")
    return [str(name) for name in table.columns if name not in READING_COLUMNS]


def reading_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a reading, in the order of the table: its options, `is_paper`, a ratio for each workload.

    Column `all` is the geometric mean of these. A ratio is the mean over seeds of the policy's QPS at 95 %
    QoS over that of the other one under the same arrivals and equal options: 0 where the policy cannot serve
    the workload, missing where the other one cannot.
    """
    options = reading_options(table)
    known = table[table["against_qps"] > 0]
    ratio = known.assign(ratio=known["qps"] / known["against_qps"])
    keys = [*options, "is_paper"]
    found = ratio.pivot_table(
        index=keys, columns="workload", values="ratio", aggfunc="mean", sort=False, observed=True
    )
    found = found[list(dict.fromkeys(known["workload"]))]
    with np.errstate(divide="ignore"):
        found = found.assign(all=np.exp(np.log(found.to_numpy()).mean(axis=1)))
    return found.reset_index().rename_axis(columns=None)


def ranked(ratios: pd.DataFrame) -> pd.DataFrame:
    """Return the readings by `all`, the best first, of equals the first of the table."""
    return ratios.sort_values("all", ascending=False, kind="stable", ignore_index=True)


def option_means(ratios: pd.DataFrame, options: Sequence[str]) -> pd.DataFrame:
    """Return the mean ratio over all readings with one value of one option, a row an option and value.

    `ratios` is that of `reading_ratios`. Columns: option, value, a mean for each workload, and `all`, the
    plain mean of these.
    """
    workloads = _workloads(ratios, options)
    rows = []
    for option in options:
        for value, rows_of in ratios.groupby(option, sort=False):
            means = rows_of[workloads].mean()
            rows.append({"option": option, "value": value, **means, "all": means.mean()})
    return pd.DataFrame(rows)


def variance_shares(ratios: pd.DataFrame, options: Sequence[str]) -> "pd.Series[float]":
    """Return which share of the variance of ratios each option alone explains, by option, most first.

    The sum of squares between its values over that of all readings, by workload, then the mean over
    workloads. What is left to 1 is due to combinations of options.
    """
    workloads = _workloads(ratios, options)
    shares = {}
    for option in options:
        total = ((ratios[workloads] - ratios[workloads].mean()) ** 2).sum()
        between = ratios.groupby(option, sort=False)[workloads].transform("mean") - ratios[workloads].mean()
        explained = (between**2).sum() / total.where(total > 0)
        shares[option] = float(explained.fillna(0.0).mean())
    return pd.Series(shares, dtype=float).sort_values(ascending=False, kind="stable")


def _workloads(ratios: pd.DataFrame, options: Sequence[str]) -> list[str]:
    apart = {*options, "is_paper", "all"}
    return [str(name) for name in ratios.columns if name not in apart]
