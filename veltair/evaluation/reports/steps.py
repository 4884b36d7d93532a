"""The steps of reports: from the records of all runs to tables, figures, the summary, the golden summary."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.layout import CAPACITY, RECORDS
from veltair.evaluation.experiment.scenario import scenario_of
from veltair.evaluation.experiment.tables_io import provenance_of, read_csv, write_csv
from veltair.evaluation.metrics.capacity_table import over_seeds, reference_rates
from veltair.evaluation.metrics.metrics import model_rates, rates
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, SCENARIO_COLUMNS, PolicyOrder
from veltair.evaluation.metrics.records import read_records
from veltair.evaluation.reports.summary import summary_markdown
from veltair.evaluation.simulation.steps import read_assumed
from veltair.provenance import (
    Provenance,
    check_same_origin,
    check_same_settings,
    read_provenance,
    write_atomically,
)

RUNS = "runs.csv"
CAPACITY_SEEDS, RATES, MODEL_RATES, TARGETS = (
    "capacity_seeds.csv",
    "rates.csv",
    "model_rates.csv",
    "targets.csv",
)
GOLDEN = (CAPACITY, RATES, TARGETS)


def write_metrics(config: Config, tables: Sequence[Path], runs: Sequence[Path], folder: Path) -> None:
    """Write the tables of targets, rates (of all models and of each) and capacities of all runs.

    Raises ProvenanceError, which names the fields, for runs of unlike code, configuration or machine.
    """
    _check_origins(runs)
    by_machine = _machines(config, tables)
    capacity = pd.concat([read_csv(run / CAPACITY) for run in runs], ignore_index=True)
    all_rates, all_models = [], []
    for run in runs:
        records = read_records(run / RECORDS)
        target, cores = by_machine[str(records["machine"].iloc[0])]
        table = rates(records, target, cores)
        if (run / RUNS).exists():
            problems = read_csv(run / RUNS).set_index("qps")["problem"].fillna("")
            table["invalid"] = table["qps"].map(problems)
        all_rates.append(table)
        all_models.append(model_rates(records, target))
    rate_table = pd.concat(all_rates, ignore_index=True)
    if "invalid" in rate_table:
        rate_table["invalid"] = rate_table["invalid"].fillna("")
    if config.study.enabled:
        rate_table["load"] = _loads(rate_table, capacity)
    written = {
        TARGETS: pd.concat([target for target, _ in by_machine.values()]),
        RATES: rate_table,
        MODEL_RATES: pd.concat(all_models, ignore_index=True),
        CAPACITY_SEEDS: capacity,
        CAPACITY: over_seeds(capacity),
    }
    provenance = provenance_of(config, [run / RECORDS for run in runs])
    for name, table in written.items():
        write_csv(folder / name, table, provenance)


def _check_origins(runs: Sequence[Path]) -> None:
    """Raise ProvenanceError unless all runs may be compared: simulated ones, measured ones, and all."""
    found: dict[tuple[str, bool], dict[Path, Provenance]] = {}
    for run, file in product(runs, (CAPACITY, RECORDS)):
        group = found.setdefault((file, (run / RUNS).exists()), {})
        group[run / file] = read_provenance(run / file)
    for (_, measured), results in found.items():
        check_same_origin(results, measured=measured)
    check_same_settings({path: one for results in found.values() for path, one in results.items()})


def _machines(config: Config, tables: Sequence[Path]) -> dict[str, tuple[pd.DataFrame, int]]:
    """Return the targets of all models that are served on each machine, and its cores."""
    by_machine: dict[str, tuple[pd.DataFrame, int]] = {}
    for path in tables:
        read = read_assumed(config, path)
        for workload in config.workloads:
            scenario = scenario_of(config, read, workload)
            machine = scenario.context.machine
            known, cores = by_machine.get(machine.name, (scenario.targets, machine.cores))
            merged = pd.concat([known, scenario.targets]).drop_duplicates("model", ignore_index=True)
            by_machine[machine.name] = (merged, cores)
    return by_machine


def _loads(rate_table: pd.DataFrame, capacity: pd.DataFrame) -> "pd.Series[float]":
    """Return the offered rate of each run as a share of the reference rate with its seed."""
    keys = [*SCENARIO_COLUMNS, "seed"]
    found = rate_table[keys].merge(reference_rates(capacity), on=keys, how="left")
    return pd.Series(rate_table["qps"].to_numpy() / found["reference_qps"].to_numpy(), rate_table.index)


def write_summary(
    folder: Path, figures: Sequence[Path], output: Path, order: PolicyOrder = AS_THEY_COME
) -> None:
    """Write the summary that a person reads."""
    seeds, rate_table, target = (read_csv(folder / name) for name in (CAPACITY_SEEDS, RATES, TARGETS))
    text = summary_markdown(seeds, rate_table, target, figures=[str(path) for path in figures], order=order)
    write_atomically({output: text.encode()})


def write_golden(folder: Path, output: Path) -> None:
    """Write all metrics of simulated runs as one text whose every digit is meant."""
    parts = [f"# {name}\n{(folder / name).read_text()}" for name in GOLDEN]
    write_atomically({output: "\n".join(parts).encode()})


def compare_golden(folder: Path, golden: Path, output: Path) -> None:
    """Write the golden summary of this run; raise ValueError where it differs from the committed one."""
    write_golden(folder, output)
    check_golden(output, golden)
    print("equal to the golden summary, bit for bit", flush=True)


def check_golden(made: Path, golden: Path) -> None:
    """Raise ValueError at the first line in which a result differs from the committed one."""
    lines = list(zip(made.read_text().splitlines(), golden.read_text().splitlines(), strict=False))
    for number, (ours, theirs) in enumerate(lines, start=1):
        if ours != theirs:
            raise ValueError(f"{made}:{number} differs from {golden}:\n  now: {ours}\n  was: {theirs}")
    if made.read_text() != golden.read_text():
        raise ValueError(f"{made} has not as many lines as {golden}")
