"""The same recorded trace through the engine and through the simulator: how far apart they come out.

Pure: tables of query records in, errors out. Definitions: docs/validation.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from veltair.evaluation.metrics.metrics import rates

RUN_KEY = ["workload", "policy", "qps", "seed"]
TRACE_KEY = ["workload", "qps", "seed"]
# Of two runs: the error of each is relative, but satisfaction's, which is in percentage points.
METRICS = ("served_qps", "latency_p50_s", "latency_p95_s", "satisfaction")
SIMULATED, NULL = "simulated", "null"
BATCHES, LEAST_QUERIES = 10, 5  # of a trace, and in a batch
SIGNIFICANCE = 0.05
SAME_GAP_SHARE = 0.1  # of the mean gap: arrivals of one schedule are nearer to each other, in the median


class TraceError(ValueError):
    """Recorded runs that cannot be replayed, or compared."""


def check_trace(records: pd.DataFrame) -> None:
    """Raise TraceError unless the records are of one run whose queries arrived in the order of their ids."""
    runs = records[RUN_KEY].drop_duplicates()
    if len(runs) != 1:
        raise TraceError(f"{len(runs)} runs in one trace; give the records of one policy at one rate")
    ordered = records.sort_values("query_id")
    if ordered["query_id"].duplicated().any():
        raise TraceError(f"{_name(runs.iloc[0])}: a query is recorded twice; give the records of one run")
    back = np.flatnonzero(np.diff(ordered["arrival_s"].to_numpy()) < 0)
    if len(back):
        before, after = (ordered.iloc[int(back[0]) + index] for index in (0, 1))
        raise TraceError(
            f"{_name(runs.iloc[0])}: the trace is out of order: query {after['query_id']} arrived at "
            f"{after['arrival_s']} s, before query {before['query_id']} at {before['arrival_s']} s; measure "
            "it again"
        )


def run_metrics(records: pd.DataFrame, targets: pd.DataFrame, cores: int) -> pd.DataFrame:
    """Return one row a run: `RUN_KEY`, `queries` (counted ones) and `METRICS`; see `metrics.rates`."""
    table = rates(records, targets, cores)
    served = {key: served_qps(run) for key, run in records.groupby(RUN_KEY, sort=False)}
    table["served_qps"] = [served[key] for key in table[RUN_KEY].itertuples(index=False, name=None)]
    return table[[*RUN_KEY, "queries", *METRICS]]


def served_qps(records: pd.DataFrame) -> float:
    """Return counted queries served ÷ the time from the first one's arrival to the last end; 0 if none was.

    At a load that the machine carries it follows the arrivals, so a null model is right about it too.
    """
    served = records[records["counted"] & (records["ending"] == "served")]
    if served.empty:
        return 0.0
    return len(served) / float(served["end_s"].max() - served["arrival_s"].min())


def trace_errors(
    measured: pd.DataFrame, simulated: Sequence[pd.DataFrame], null: Sequence[pd.DataFrame]
) -> pd.DataFrame:
    """Return one row a run and metric: measured, simulated and null value, `error` and `null_error`.

    All are tables of `run_metrics`; those of several replays are averaged. An error is NaN where there is
    nothing to divide by, such as the latency of a run that served nothing. Raises TraceError where a run is
    in one of them only.
    """
    tables = {"measured": measured, SIMULATED: _mean(simulated), NULL: _mean(null)}
    columns = {name: table.set_index(RUN_KEY) for name, table in tables.items()}
    for name in (SIMULATED, NULL):
        check_same_runs(measured, tables[name], f"{name} ones")
    rows = []
    for key in columns["measured"].index:
        values = {name: table.loc[key] for name, table in columns.items()}
        for metric in METRICS:
            row = {name: float(value[metric]) for name, value in values.items()}
            errors = {
                "error": error(metric, row["measured"], row[SIMULATED]),
                "null_error": error(metric, row["measured"], row[NULL]),
            }
            queries = int(values["measured"]["queries"])
            rows.append(
                dict(zip(RUN_KEY, key, strict=True)) | {"queries": queries, "metric": metric} | row | errors
            )
    return pd.DataFrame(rows)


def error(metric: str, measured: float, simulated: float) -> float:
    """Return |simulated - measured|: ÷ measured, but in points (0 to 100) for the satisfaction."""
    difference = abs(simulated - measured)
    if metric == "satisfaction":
        return 100.0 * difference
    return difference / measured if measured > 0 else nan


def check_same_runs(measured: pd.DataFrame, others: pd.DataFrame, name: str) -> None:
    """Raise TraceError unless both tables have the same runs, naming the policies that one lacks."""
    ours, theirs = ({*table[RUN_KEY].itertuples(index=False, name=None)} for table in (measured, others))
    for missing, where, there in (
        (ours - theirs, name, "measured ones"),
        (theirs - ours, "measured ones", name),
    ):
        if missing:
            names = ", ".join(
                f"{policy} on {load} at {qps:.4g} QPS" for load, policy, qps, _ in sorted(missing)
            )
            raise TraceError(
                f"{names}: among the {there}, but not among the {where}; give each policy's run to both"
            )


def pooled_errors(errors: pd.DataFrame, metric: str) -> tuple[float, float, tuple[float, ...]]:
    """Return the mean error of a metric over runs, the null model's, and the error of each run.

    NaN and nothing if no run has one.
    """
    known = errors[(errors["metric"] == metric) & errors["error"].notna()]
    if known.empty:
        return nan, nan, ()
    each = tuple(map(float, known["error"]))
    return float(known["error"].mean()), float(known["null_error"].mean()), each


# Which policies differ, and whether the simulator ranks them alike.


@dataclass(frozen=True, slots=True)
class PairOrder:
    """Two policies on one trace: by how many seconds the mean latency of `first` exceeds `second`'s.

    `p_value` is that of the measured difference, NaN where the trace is too short to tell.
    """

    first: str
    second: str
    measured_s: float
    simulated_s: float
    null_s: float
    p_value: float


def latencies(records: pd.DataFrame) -> pd.DataFrame:
    """Return the latency of each counted query of one trace: a row a query, a column a policy.

    NaN for a rejected one. Raises TraceError unless all policies were asked by the same trace.
    """
    tables = {
        name: records.pivot(index="query_id", columns="policy", values=name)
        for name in ("model", "arrival_s")
    }
    models = tables["model"]
    alike = models.notna().all().all() and (models.nunique(axis=1) == 1).all()
    if not (alike and _at_the_same_times(tables["arrival_s"])):
        raise TraceError(
            f"{', '.join(models.columns)}: these policies were not asked by one trace (the same queries at "
            "the same times); measure them with one seed and rate"
        )
    kept = records.assign(latency_s=records["latency_s"].where(records["ending"] != "rejected"))
    table: pd.DataFrame = kept[kept["counted"]].pivot(index="query_id", columns="policy", values="latency_s")
    return table


def _at_the_same_times(arrivals_s: pd.DataFrame) -> bool:
    """Return whether policies (columns) were asked at the same times, but for when each run began.

    Single queries may be late, for arrivals are those at the engine. Another schedule is off in the median.
    """
    first = arrivals_s.iloc[:, 0]
    since_first = arrivals_s.sub(first, axis=0)
    off_s = (since_first - since_first.median()).abs().median()
    gap_s = float(first.max() - first.min()) / max(1, len(first) - 1)
    return bool((off_s <= SAME_GAP_SHARE * gap_s).all())


def pair_orders(
    measured: pd.DataFrame, simulated: Sequence[pd.DataFrame], null: Sequence[pd.DataFrame]
) -> list[PairOrder]:
    """Return every pair of policies of every trace that two or more were asked by.

    All are query records; latencies of several replays are averaged, query by query.
    """
    found = []
    for key, runs in measured.groupby(TRACE_KEY, sort=False):
        if runs["policy"].nunique() < 2:
            continue
        ours = latencies(runs)
        theirs, flat = (_mean_latencies(frames, key) for frames in (simulated, null))
        for first, second in combinations(ours.columns, 2):
            gaps = [_gap(table, first, second) for table in (ours, theirs, flat)]
            ours_s, theirs_s, flat_s = (float(gap.mean()) for gap in gaps)
            p_value = batch_p_value(np.asarray(gaps[0], dtype=np.float64))
            found.append(PairOrder(first, second, ours_s, theirs_s, flat_s, p_value))
    return found


def batch_p_value(differences: NDArray[np.float64]) -> float:
    """Return the p value of a mean that differs from 0, by the method of batch means; NaN if too short.

    Queries of one trace wait for one another, so they are no independent samples; means of ten successive
    parts of the trace nearly are, and Student's t test is done on those. Source: Law, Simulation Modeling
    and Analysis, chapter 9.
    """
    known = differences[np.isfinite(differences)]
    if len(known) < BATCHES * LEAST_QUERIES:
        return nan
    means = np.array([float(part.mean()) for part in np.array_split(known, BATCHES)])
    if np.ptp(means) == 0:
        return 1.0 if means[0] == 0 else 0.0
    return float(stats.ttest_1samp(means, 0.0).pvalue)


def significant(pairs: Sequence[PairOrder]) -> list[PairOrder]:
    """Return the pairs that differ significantly: of those returned at most 5 % are expected not to.

    Benjamini and Hochberg's procedure, as the pairs are many; pairs without a p value do not count.
    """
    tested = [pair for pair in pairs if np.isfinite(pair.p_value)]
    if not tested:
        return []
    adjusted = stats.false_discovery_control([pair.p_value for pair in tested], method="bh")
    return [pair for pair, value in zip(tested, adjusted, strict=True) if value <= SIGNIFICANCE]


def ranking_tau(pairs: Iterable[PairOrder], quantity: str = "simulated_s") -> float:
    """Return Kendall's tau over some pairs: (pairs in the measured order - in the opposite one) ÷ pairs.

    A pair that ties in the simulator is in neither. NaN of no pairs. Over all pairs of policies, none of
    which tie when measured, it is Somers' D of scipy.stats.somersd.
    """
    signs = [float(np.sign(pair.measured_s) * np.sign(getattr(pair, quantity))) for pair in pairs]
    return float(np.mean(signs)) if signs else nan


def _gap(table: pd.DataFrame, first: str, second: str) -> "pd.Series[float]":
    missing = [name for name in (first, second) if name not in table]
    if missing:
        raise TraceError(f"{', '.join(missing)}: measured, but not simulated; replay each policy's run")
    gap: pd.Series[float] = (table[first] - table[second]).dropna()
    return gap


def _mean_latencies(frames: Sequence[pd.DataFrame], key: tuple[object, ...]) -> pd.DataFrame:
    wanted: Mapping[str, object] = dict(zip(TRACE_KEY, key, strict=True))
    tables = []
    for frame in frames:
        here = frame[np.logical_and.reduce([frame[name] == value for name, value in wanted.items()])]
        tables.append(latencies(here))
    mean: pd.DataFrame = pd.concat(tables).groupby(level=0).mean()
    return mean


def _mean(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if not tables:
        raise TraceError("no run was replayed; give one replay of each run at least")
    joined = pd.concat(tables, ignore_index=True)
    return joined.groupby(RUN_KEY, sort=False, as_index=False).mean()


def _name(run: "pd.Series[Any]") -> str:
    return f"{run['policy']} on {run['workload']} at {run['qps']} QPS, seed {run['seed']}"
