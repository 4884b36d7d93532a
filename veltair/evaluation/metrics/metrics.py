"""From query records to metrics: one row a run, and one row a run and model. Defined in results/README.md."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from veltair.evaluation.metrics.records import DTYPES, RUN_COLUMNS, check_columns
from veltair.evaluation.metrics.targets import TARGET_COLUMNS

LATENCY_COLUMNS = ("latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s")
COUNT_COLUMNS = ("queries", "served", "on_time", "rejected", "unfinished")
MODEL_COLUMNS = (
    *RUN_COLUMNS,
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
    "worst_model",
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

    `records` holds runs on one machine of `cores` cores, `targets` that machine's targets. A quotient whose
    denominator is 0 is NaN. Raises ValueError where records and targets disagree.
    """
    if cores < 1:
        raise ValueError(f"{cores} cores; give the cores of the machine that the records come from")
    per_model = model_rates(records, targets)
    by_run = dict(list(per_model.groupby(list(RUN_COLUMNS), sort=False)))
    work = dict(zip(targets["model"], targets["work_optimal_core_s"], strict=True))
    rows = [
        {**dict(zip(RUN_COLUMNS, key, strict=True)), **_run_row(run, by_run[key], work, cores)}
        for key, run in records.groupby(list(RUN_COLUMNS), sort=False)
    ]
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS))


def model_rates(records: pd.DataFrame, targets: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run and model with the columns of `MODEL_COLUMNS`; as `rates`, by model."""
    _check(records, targets)
    target_of = targets.set_index("model").to_dict("index")
    rows = []
    for key, queries in records.groupby([*RUN_COLUMNS, "model"], sort=False):
        target = target_of[key[-1]]
        counted = queries[queries["counted"]]
        turnaround = _mean(_waited(counted)) / target["isolated_latency_s"]
        rows.append(
            {
                **dict(zip((*RUN_COLUMNS, "model"), key, strict=True)),
                "qos_s": target["qos_s"],
                "relaxed": target["relaxed"],
                **_counts(counted),
                **_latencies(counted),
                "turnaround": turnaround,
            }
        )
    return pd.DataFrame(rows, columns=list(MODEL_COLUMNS))


def jain_index(values: NDArray[np.float64]) -> float:
    """Return (sum x)^2 / (n sum x^2), in [1/n, 1]; NaN if all are 0 or there are none.

    Source: Jain, Chiu, Hawe, DEC-TR-301, 1984.
    """
    return _ratio(float(values.sum()) ** 2, len(values) * float((values**2).sum()))


def _run_row(
    run: pd.DataFrame, per_model: pd.DataFrame, work: dict[str, float], cores: int
) -> dict[str, Any]:
    counted = run[run["counted"]]
    counts = _counts(counted)
    held_core_s = float(counted["core_s"].sum())
    on_time_work = math.fsum(work[model] for model in counted.loc[counted["on_time"], "model"])
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
        **_across_models(per_model[per_model["queries"] > 0]),
    }


def _across_models(per_model: pd.DataFrame) -> dict[str, Any]:
    """Return what treats each model as one programme; models without a counted query are left out.

    ANTT and STP: Eyerman, Eeckhout, IEEE Micro 28(3), 2008. A model that had no query served makes no
    progress.
    """
    if per_model.empty:
        return {"satisfaction_minimum": np.nan, "worst_model": ""} | dict.fromkeys(
            ("antt", "stp", "jain"), np.nan
        )
    worst = per_model.iloc[int(per_model["satisfaction"].to_numpy().argmin())]
    return {
        "satisfaction_minimum": float(worst["satisfaction"]),
        "worst_model": worst["model"],
        "antt": float(per_model["turnaround"].mean()),
        "stp": float((1 / per_model["turnaround"]).sum()),
        "jain": jain_index(per_model["satisfaction"].to_numpy(dtype=np.float64)),
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
    if targets["model"].duplicated().any():
        raise ValueError("the targets name a model twice; give one row a model")
    unknown = sorted({*records["model"]} - {*targets["model"]})
    if unknown:
        raise LookupError(
            f"models {unknown} have records but no targets; compute the targets of all models served"
        )
    qos_s = records["model"].map(targets.set_index("model")["qos_s"]).astype("float64")
    unlike = ~np.isclose(records["qos_s"], qos_s, rtol=1e-9)
    if unlike.any():
        row = records[unlike].iloc[0]
        raise ValueError(
            f"query {row['query_id']} of {row['model']} was held to {row['qos_s']} s, the targets say "
            f"{qos_s[unlike].iloc[0]} s; rerun with the targets of this machine"
        )
