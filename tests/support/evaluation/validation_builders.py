"""Made-up measured runs, and tables of models that slow each other down, for the tests of the validation."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from tests.support.table_builders import make_tables
from veltair.evaluation.metrics.records import Run, to_frame
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.query import Ending, Query, QueryRecord

QOS_S = 0.1


def make_run(
    latencies_s: Sequence[float],
    *,
    policy: str = "Ours",
    gap_s: float = 0.05,
    first_s: float = 0.0,
    qps: float = 20.0,
    warm_up: int = 0,
    backend: str = "engine",
    machine: str = "toy",
    model: str = "net",
    workload: str = "load",
) -> pd.DataFrame:
    """Return the records of one run: a query every `gap_s`, of which the first `warm_up` do not count."""
    records = []
    for number, latency_s in enumerate(latencies_s):
        arrival_s = first_s + number * gap_s
        query = Query(number, model, arrival_s, QOS_S)
        records.append(QueryRecord(query, Ending.SERVED, arrival_s, arrival_s + latency_s, 1, 0, latency_s))
    run = Run(backend, machine, True, workload, policy, qps, seed=1)
    return to_frame(records, run, first_s + (warm_up - 0.5) * gap_s)


def make_targets(machine: str = "toy", model: str = "net") -> pd.DataFrame:
    """Return the targets of the model that those runs serve."""
    row = (machine, model, QOS_S, 0.01, QOS_S, False, 0.01)
    columns = (
        "machine",
        "model",
        "qos_table_s",
        "isolated_latency_s",
        "qos_s",
        "relaxed",
        "work_optimal_core_s",
    )
    return pd.DataFrame([row], columns=list(columns))


def pressing_tables(share: float = 0.5, slowdown: float = 1.0, cores: int = 4) -> Tables:
    """Return the tables of `make_tables`, in which each version asks for a share of the DRAM bandwidth.

    Version 0 of a layer takes `1 + slowdown` times as long at pressure 1, version 1 never longer.
    """
    tables = make_tables(cores, slowdown)
    repeats = tables.costs.repeats
    slower = 1 + slowdown * repeats["level"] * (repeats["version"] == 0)
    moved = share * tables.machine.dram_bytes_per_s * repeats["seconds"] / slower
    return replace(tables, costs=CostTable(repeats.assign(traffic_bytes=moved), tables.machine.name))
