"""The metric tables of measured runs, from their records and slots."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.layout import RECORDS, SLOTS
from veltair.evaluation.experiment.scenario import scenario_of
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.metrics.measured_tables import (
    CURVE_COLUMNS,
    MEASURED_COLUMNS,
    RATIO_COLUMNS,
    measured_workloads,
    slot_counts,
    with_clients,
    with_metrics,
)
from veltair.evaluation.metrics.records import read_records
from veltair.machine.costs.folder import read_tables

CURVES, MEASURED, MEASURED_RATIOS = "curves.csv", "measured_capacity.csv", "measured_ratios.csv"


def measured_tables(
    config: Config, tables: Path, runs: Sequence[Path], rates: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return the tables of measured runs by file name.

    `tables` are the cost tables of this machine, `rates` has the metrics of each run, as rates.csv.
    """
    records = pd.concat([read_records(run / RECORDS) for run in runs], ignore_index=True)
    slots = pd.concat([read_csv(run / SLOTS) for run in runs], ignore_index=True)
    counts = _in_order(slot_counts(records, slots), list(config.policies))
    shares = dict(zip(counts["qps"], counts["share"], strict=True))
    seed, host = config.measured.seed, read_tables(tables)
    curves, capacities, ratios = [], [], []
    generator = np.random.default_rng(seed)
    for found in measured_workloads(counts, config.qos.satisfaction, generator):
        scenario = scenario_of(config, host, str(found.scenario["workload"]))
        curves += list(found.curve_rows(shares, seed))
        capacities += list(found.capacity_rows(scenario.fluid_qps, seed))
        ratios += list(found.ratio_rows())
    drawn = with_clients(pd.DataFrame(curves, columns=list(CURVE_COLUMNS)), slots)
    return {
        CURVES: with_metrics(drawn, rates),
        MEASURED: pd.DataFrame(capacities, columns=list(MEASURED_COLUMNS)),
        MEASURED_RATIOS: pd.DataFrame(ratios, columns=list(RATIO_COLUMNS)),
        SLOTS: slots,
    }


def _in_order(counts: pd.DataFrame, policies: Sequence[str]) -> pd.DataFrame:
    """Return rows by policy, as the configuration names them: slots were measured in a drawn order."""
    numbers = {name: number for number, name in enumerate(policies)}
    return counts.sort_values("policy", key=lambda names: names.astype(str).map(numbers), kind="stable")
