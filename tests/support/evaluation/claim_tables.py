"""Metric tables for claims, made up: capacities, rates and sensitivity of few policies, a row a seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from veltair.evaluation.claims.rules import Claim, Source

SOURCE = Source(backend="simulator", machine="threadripper-3990x")
Capacities = Mapping[tuple[str, str], Sequence[float]]  # by workload and policy, a value a seed


def claim(**changes: Any) -> Claim:
    """Return a claim of 50 % more queries, half of which is accepted."""
    values: dict[str, Any] = {
        "id": "qps-mix",
        "statement": "50 % more queries",
        "metric": capacity_ratio(),
        "rule": "gain",
        "value": 1.5,
        "accepted": [1.25, float("inf")],
        "command": "make",
        "minutes": 20,
        "output": "results/claims.md",
    }
    return Claim.model_validate({**values, **changes})


def capacity_ratio(**changes: Any) -> dict[str, Any]:
    """Return the metric of Veltair-FULL over Planaria on the mix."""
    values = {"kind": "capacity_ratio", "policy": "Veltair-FULL", "to": "Planaria", "workload": "mix"}
    return {**values, **changes}


def capacities(values: Capacities, **changes: Any) -> pd.DataFrame:
    """Return a table like capacity_seeds.csv; seeds count from 1."""
    return pd.DataFrame(
        [
            {
                **SOURCE.model_dump(),
                "validated": False,
                "workload": workload,
                "policy": policy,
                "seed": seed,
                "qps_at_95": qps,
                "high_qps": 1.01 * qps if qps else 1.0,
                "qps_at_95_minimum": 0.8 * qps,
                "queries": 9000,
                "fluid_qps": 1000.0,
                "resolution": 0.01,
                "cut": False,
                "unservable": qps == 0,
                "invalid": "",
                **changes,
            }
            for (workload, policy), rates in values.items()
            for seed, qps in enumerate(rates, start=1)
        ]
    )


def rates(latencies_s: Mapping[tuple[str, float], Sequence[float]]) -> pd.DataFrame:
    """Return a table like rates.csv of the mix: mean latencies by policy and offered rate, one a seed."""
    return pd.DataFrame(
        [
            {
                **SOURCE.model_dump(),
                "validated": False,
                "workload": "mix",
                "policy": policy,
                "qps": qps,
                "seed": seed,
                "latency_mean_s": latency_s,
            }
            for (policy, qps), found in latencies_s.items()
            for seed, latency_s in enumerate(found, start=1)
        ]
    )


def sensitivity(
    ratios: Mapping[float, float],
    default: float,
    assumption: str = "cost of a start",
    workload: str = "mix",
    implausible: Sequence[float] = (),
) -> pd.DataFrame:
    """Return a table like sensitivity.csv: at each value of an assumption, FULL serves so many times more."""
    frames = [
        capacities({(workload, "Planaria"): [100.0], (workload, "Veltair-FULL"): [100.0 * ratio]}).assign(
            assumption=assumption,
            unit="µs",
            kind="number",
            value=value,
            label="",
            is_default=value == default,
            plausible=value not in implausible,
        )
        for value, ratio in ratios.items()
    ]
    return pd.concat(frames, ignore_index=True)
