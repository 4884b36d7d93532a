"""Tables of measured runs, made up: policies at four rates in five rounds that differ."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tests.support.evaluation.plot_tables import WORKLOADS
from veltair.evaluation.loadgen.logs import LOADGEN
from veltair.evaluation.metrics.measured_tables import (
    CURVE_COLUMNS,
    MEASURED_COLUMNS,
    RATIO_COLUMNS,
    measured_workloads,
)

FASTER = 1.1  # as many queries as Planaria in every round
RATES = (10.0, 20.0, 30.0, 40.0)
ROUNDS = (0.85, 0.95, 1.0, 1.05, 1.15)  # how much a round lets everybody serve
POLICIES = {"Planaria": 25.0, "Faster": 25.0 * FASTER, "Bad": 2.0, "Good": 400.0}
QUERIES = 100  # of each round and rate, half of each model


def count_table(policies: Mapping[str, float] = POLICIES, workload: str = "mix") -> pd.DataFrame:
    """Return counts as `slot_counts` does: satisfaction falls with the rate over what a policy serves.

    The worst of the two models misses twice as many queries as the other.
    """
    rows = []
    for policy, serves_qps in policies.items():
        for number, factor in enumerate(ROUNDS):
            for qps in RATES:
                missed = min(0.5, max(0.0, 0.05 * (qps / (serves_qps * factor)) ** 4))
                for model, part in (("small", 2 / 3), ("large", 4 / 3)):
                    on_time = round(QUERIES / 2 * (1 - part * missed))
                    rows.append((policy, number, 0.015 * qps, qps, model, QUERIES // 2, on_time))
    columns = ["policy", "round", "share", "qps", "tenant", "counted", "on_time"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(backend="engine", machine="host", validated=True, workload=workload)


def metric_tables(
    policies: Mapping[str, float] = POLICIES, workloads: Sequence[str] = ("mix",)
) -> dict[str, pd.DataFrame]:
    """Return the metric tables of measured runs, by name."""
    counts = pd.concat([count_table(policies, workload) for workload in workloads])
    shares = {qps: 0.015 * qps for qps in RATES}
    curves, capacities, ratios = [], [], []
    for found in measured_workloads(counts, 0.95, np.random.default_rng(1)):
        curves += list(found.curve_rows(shares, seed=1))
        capacities += list(found.capacity_rows(fluid_qps=80.0, seed=1))
        ratios += list(found.ratio_rows())
    metrics = {"latency_mean_s": 0.02, "latency_p95_s": 0.05, "cpu_efficiency": 0.5, "conflict_rate": 0.1}
    drawn = pd.DataFrame(curves, columns=list(CURVE_COLUMNS)).assign(**metrics, client=LOADGEN)
    return {
        "curves": drawn.assign(models=drawn["workload"].map(lambda name: ", ".join(WORKLOADS[name]))),
        "measured_capacity": pd.DataFrame(capacities, columns=list(MEASURED_COLUMNS)),
        "measured_ratios": pd.DataFrame(ratios, columns=list(RATIO_COLUMNS)),
        "slots": slot_table(policies, workloads),
    }


def slot_table(policies: Mapping[str, float] = POLICIES, workloads: Sequence[str] = ("mix",)) -> pd.DataFrame:
    """Return a row a run as slots.csv, all of them in peace."""
    rows = [
        (workload, policy, number, 0.015 * qps, qps, 100 * number + int(qps), 0, True, "", QUERIES, 0.01)
        for workload in workloads
        for policy in policies
        for number in range(len(ROUNDS))
        for qps in RATES
    ]
    names = ["workload", "policy", "round", "share", "qps", "seed", "attempt", "kept", "problem", "queries"]
    return pd.DataFrame(rows, columns=[*names, "others_share"]).assign(client=LOADGEN)


def spread_out(policies: Sequence[str]) -> dict[str, float]:
    """Return what each of some policies serves: the first is below all rates, the last above."""
    between = [18.0 * 1.12**rank for rank in range(len(policies))]
    ends = {policies[0]: 2.0, policies[-1]: 400.0} if len(policies) > 3 else {}
    return {name: ends.get(name, qps) for name, qps in zip(policies, between, strict=True)}
