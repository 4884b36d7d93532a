"""From query records to metrics: one row a run, and one a run and tenant. Defined in results/README.md."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from veltair.evaluation.metrics.fairness import antt, jain_index, minimum_satisfaction, stp
from veltair.evaluation.metrics.records import DTYPES, RUN_COLUMNS, check_columns
from veltair.evaluation.metrics.targets import TARGET_COLUMNS

LATENCY_COLUMNS = ("latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s")
COUNT_COLUMNS = ("queries", "served", "on_time", "rejected", "unfinished")
TENANT_COLUMNS = (
    *RUN_COLUMNS,
    "tenant",
    "model",
    "qos_s",
    "relaxed",
    *COUNT_COLUMNS,
    "satisfaction",
    *LATENCY_COLUMNS,
    "turnaround",
)
RATE_COLUMNS = (
    *RUN_COLUMNS,
    "models",
    "window_s",
    *COUNT_COLUMNS,
    "satisfaction",
    "satisfaction_minimum",
    "worst_tenant",
    *LATENCY_COLUMNS,
    "core_s_per_on_time",
    "cpu_efficiency",
    "core_use",
    "held_idle_share",
    "conflict_rate",
    "antt",
    "stp",
    "jain",
)


def rates(records: pd.DataFrame, targets: pd.DataFrame, cores: int) -> pd.DataFrame:
    """Return one row a run with the columns of `RATE_COLUMNS`, in the order of the runs' first records.

    `records` holds runs on one machine of `cores` cores, `targets` that machine's targets: a row a tenant, by
    the column `tenant`, or without that a row a model, each with one tenant. A quotient whose denominator is
    0 is NaN. Raises ValueError where records and targets disagree.
    """
    if cores < 1:
        raise ValueError(f"{cores} cores; give the cores of the machine that the records come from")
    per_tenant = tenant_rates(records, targets)
    by_run = dict(list(per_tenant.groupby(list(RUN_COLUMNS), sort=False)))
    work = dict(zip(_tenants(targets), targets["work_optimal_core_s"], strict=True))
    rows = [
        {**dict(zip(RUN_COLUMNS, key, strict=True)), **_run_row(run, by_run[key], work, cores)}
        for key, run in records.groupby(list(RUN_COLUMNS), sort=False)
    ]
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS))


def tenant_rates(records: pd.DataFrame, targets: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run and tenant with the columns of `TENANT_COLUMNS`; as `rates`, by tenant."""
    _check(records, targets)
    target_of = targets.set_index(_tenants(targets)).to_dict("index")
    rows = []
    for key, queries in records.groupby([*RUN_COLUMNS, "tenant"], sort=False):
        target = target_of[key[-1]]
        counted = queries[queries["counted"]]
        turnaround = _mean(_waited(counted)) / target["isolated_latency_s"]
        rows.append(
            {
                **dict(zip((*RUN_COLUMNS, "tenant"), key, strict=True)),
                "model": target["model"],
                "qos_s": target["qos_s"],
                "relaxed": target["relaxed"],
                **_counts(counted),
                **_latencies(counted),
                "turnaround": turnaround,
            }
        )
    return pd.DataFrame(rows, columns=list(TENANT_COLUMNS))


def _tenants(targets: pd.DataFrame) -> "pd.Series[str]":
    """Return whose targets each row has."""
    return targets["tenant" if "tenant" in targets else "model"]


def _run_row(
    run: pd.DataFrame, per_tenant: pd.DataFrame, work: dict[str, float], cores: int
) -> dict[str, Any]:
    counted = run[run["counted"]]
    counts = _counts(counted)
    held_core_s = float(counted["core_s"].sum())
    on_time_work = math.fsum(work[tenant] for tenant in counted.loc[counted["on_time"], "tenant"])
    span_s = float(run["end_s"].max() - run["arrival_s"].min())
    return {
        "models": ", ".join(sorted(run["model"].unique())),
        "window_s": float(counted["arrival_s"].max() - counted["arrival_s"].min()),
        **counts,
        **_latencies(counted),
        "core_s_per_on_time": _ratio(held_core_s, counts["on_time"]),
        "cpu_efficiency": _ratio(on_time_work, held_core_s),
        "core_use": _ratio(float(run["core_s"].sum()), cores * span_s),
        "held_idle_share": np.nan,  # no backend reports yet how long a held core was idle
        "conflict_rate": _ratio(float(counted["conflicts"].sum()), float(counted["blocks"].sum())),
        **_across_tenants(per_tenant[per_tenant["queries"] > 0]),
    }


def _across_tenants(per_tenant: pd.DataFrame) -> dict[str, Any]:
    """Return what the tenants get beside each other; those without a counted query are left out."""
    if per_tenant.empty:
        return {"satisfaction_minimum": np.nan, "worst_tenant": ""} | dict.fromkeys(
            ("antt", "stp", "jain"), np.nan
        )
    satisfaction = per_tenant["satisfaction"].to_numpy(dtype=np.float64)
    turnarounds = per_tenant["turnaround"].to_numpy(dtype=np.float64)
    worst, least = minimum_satisfaction(satisfaction)
    return {
        "satisfaction_minimum": least,
        "worst_tenant": per_tenant["tenant"].iloc[worst],
        "antt": antt(turnarounds),
        "stp": stp(turnarounds),
        "jain": jain_index(satisfaction),
    }


def _counts(counted: pd.DataFrame) -> dict[str, Any]:
    ending = counted["ending"]
    on_time = int(counted["on_time"].sum())
    return {
        "queries": len(counted),
        "served": int((ending == "served").sum()),
        "on_time": on_time,
        "rejected": int((ending == "rejected").sum()),
        "unfinished": int((ending == "unfinished").sum()),
        "satisfaction": _ratio(on_time, len(counted)),
    }


def _latencies(counted: pd.DataFrame) -> dict[str, float]:
    """Return mean and nearest-rank percentiles: each percentile is a latency that some query had."""
    waited = _waited(counted)
    if not len(waited):
        return dict.fromkeys(LATENCY_COLUMNS, np.nan)
    percentiles = np.percentile(waited, (50, 95, 99), method="inverted_cdf")
    return dict(zip(LATENCY_COLUMNS, (_mean(waited), *map(float, percentiles)), strict=True))


def _waited(counted: pd.DataFrame) -> NDArray[np.float64]:
    """Return latencies without those of rejected queries, whose quick refusals would look like speed.

    An unfinished query counts with the time until the run ended, the least that it would have taken.
    """
    return counted.loc[counted["ending"] != "rejected", "latency_s"].to_numpy(dtype=np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else np.nan


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else np.nan


def _check(records: pd.DataFrame, targets: pd.DataFrame) -> None:
    check_columns(records, DTYPES, "query records")
    check_columns(targets, TARGET_COLUMNS, "targets")
    machines = sorted({*records["machine"], *targets["machine"]})
    if len(machines) > 1:
        raise ValueError(
            f"records and targets of machines {machines}; compute the metrics of each machine alone"
        )
    tenants = _tenants(targets)
    if tenants.duplicated().any():
        raise ValueError(f"the targets name a {tenants.name} twice; give one row a {tenants.name}")
    unknown = sorted({*records["tenant"]} - {*tenants})
    if unknown:
        raise LookupError(
            f"{tenants.name}s {unknown} have records but no targets; compute the targets of all served"
        )
    qos_s = records["tenant"].map(targets.set_index(tenants)["qos_s"]).astype("float64")
    unlike = ~np.isclose(records["qos_s"], qos_s, rtol=1e-9)
    if unlike.any():
        row = records[unlike].iloc[0]
        raise ValueError(
            f"query {row['query_id']} of {row['tenant']} was held to {row['qos_s']} s, the targets say "
            f"{qos_s[unlike].iloc[0]} s; rerun with the targets of this machine"
        )
