"""The steps of reports: from the records of all runs to tables, figures, the summary, the golden summary."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.layout import CAPACITY, EQUAL_DROPS, RECORDS, SLOTS
from veltair.evaluation.experiment.scenario import scenario_of
from veltair.evaluation.experiment.tables_io import provenance_of, read_csv, write_csv
from veltair.evaluation.metrics.capacity_table import over_seeds, reference_rates
from veltair.evaluation.metrics.metrics import rates, tenant_rates
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, SCENARIO_COLUMNS, PolicyOrder
from veltair.evaluation.metrics.policies_table import MEASURED as ENGINE
from veltair.evaluation.metrics.records import read_records
from veltair.evaluation.reports.measured_steps import (
    CURVES,
    MEASURED,
    MEASURED_RATIOS,
    measured_tables,
)
from veltair.evaluation.reports.measured_summary import measured_sections
from veltair.evaluation.reports.summary import summary_markdown
from veltair.evaluation.simulation.steps import read_assumed
from veltair.provenance import (
    Provenance,
    check_same_origin,
    check_same_settings,
    read_provenance,
    write_atomically,
)

RATES, TENANT_RATES, TARGETS = "rates.csv", "tenant_rates.csv", "targets.csv"
CAPACITY_SEEDS = "capacity_seeds.csv"
GOLDEN = (CAPACITY, RATES, TARGETS)


def write_metrics(
    config: Config, tables: Sequence[Path], simulated: Sequence[Path], measured: Sequence[Path], folder: Path
) -> None:
    """Write the tables of all runs: `Layout.metric_tables`.

    `tables` are the cost tables, this machine's first where something was measured; `simulated` and
    `measured` are the folders of results. Raises ProvenanceError, which names the fields, for runs of unlike
    code, configuration or machine.
    """
    _check_origins(simulated, measured)
    by_machine = _machines(config, tables)
    all_rates, all_tenants = [], []
    for run in (*measured, *simulated):
        records = read_records(run / RECORDS)
        machine = by_machine[str(records["machine"].iloc[0])]
        target = machine.of_tenants.get(str(records["workload"].iloc[0]), machine.targets)
        all_rates.append(rates(records, target, machine.cores))
        all_tenants.append(tenant_rates(records, target))
    written = {
        TARGETS: pd.concat([machine.targets for machine in by_machine.values()]),
        RATES: pd.concat(all_rates, ignore_index=True),
        TENANT_RATES: pd.concat(all_tenants, ignore_index=True),
    }
    if simulated:
        capacity = pd.concat([read_csv(run / CAPACITY) for run in simulated], ignore_index=True)
        written |= {CAPACITY_SEEDS: capacity, CAPACITY: over_seeds(capacity)}
        if config.study.enabled:
            written[RATES]["load"] = _loads(written[RATES], capacity)
    if measured:
        written |= measured_tables(config, tables[0], measured, written[RATES])
    provenance = provenance_of(config, [run / RECORDS for run in (*measured, *simulated)])
    for name, table in written.items():
        write_csv(folder / name, table, provenance)


def _check_origins(simulated: Sequence[Path], measured: Sequence[Path]) -> None:
    """Raise ProvenanceError unless all runs may be compared: simulated ones, measured ones, and all."""
    files = [*product([False], simulated, (CAPACITY, RECORDS)), *product([True], measured, (SLOTS, RECORDS))]
    found: dict[tuple[str, bool], dict[Path, Provenance]] = {}
    for is_measured, run, file in files:
        found.setdefault((file, is_measured), {})[run / file] = read_provenance(run / file)
    for (_, is_measured), results in found.items():
        check_same_origin(results, measured=is_measured)
    check_same_settings({path: one for results in found.values() for path, one in results.items()})


class _Machine(NamedTuple):
    """The targets of all models that are served on a machine, those of tenants by workload, and its cores."""

    targets: pd.DataFrame
    of_tenants: dict[str, pd.DataFrame]
    cores: int


def _machines(config: Config, tables: Sequence[Path]) -> dict[str, _Machine]:
    """Return what runs on each machine are held to."""
    by_machine: dict[str, _Machine] = {}
    for path in tables:
        read = read_assumed(config, path)
        found = [scenario_of(config, read, workload).targets for workload in config.workloads]
        merged = pd.concat(found).drop_duplicates("model", ignore_index=True)
        of_tenants = {name: scenario_of(config, read, name).sender_targets for name in config.tenants}
        by_machine[read.machine.name] = _Machine(merged, of_tenants, read.machine.cores)
    return by_machine


def _loads(rate_table: pd.DataFrame, capacity: pd.DataFrame) -> "pd.Series[float]":
    """Return the offered rate of each run as a share of the reference rate with its seed."""
    keys = [*SCENARIO_COLUMNS, "seed"]
    found = rate_table[keys].merge(reference_rates(capacity), on=keys, how="left")
    return pd.Series(rate_table["qps"].to_numpy() / found["reference_qps"].to_numpy(), rate_table.index)


def write_summary(
    folder: Path, figures: Sequence[Path], output: Path, order: PolicyOrder = AS_THEY_COME
) -> None:
    """Write the summary that a person reads, of the tables that are in a folder."""
    rate_table, target = (read_csv(folder / name) for name in (RATES, TARGETS))
    seeds = read_csv(folder / CAPACITY_SEEDS) if (folder / CAPACITY_SEEDS).exists() else None
    measured: list[str] = []
    if (folder / MEASURED).exists():
        names = (MEASURED, MEASURED_RATIOS, CURVES, SLOTS)
        capacities, ratios, curves, slots = (read_csv(folder / name) for name in names)
        measured = measured_sections(capacities, ratios, curves, slots, target, order)
    simulated = rate_table[rate_table["backend"] != ENGINE]
    drops = folder / f"{EQUAL_DROPS}.csv"
    text = summary_markdown(
        *(seeds, simulated, target),
        measured=measured,
        ruled=read_csv(drops) if drops.exists() else None,
        figures=[str(path) for path in figures],
        order=order,
    )
    write_atomically({output: text.encode()})


def write_golden(folder: Path, output: Path) -> None:
    """Write all metrics of simulated runs as one text whose every digit is meant."""
    parts = [f"# {name}\n{(folder / name).read_text(encoding='utf-8')}" for name in GOLDEN]
    write_atomically({output: "\n".join(parts).encode()})


def compare_golden(folder: Path, golden: Path, output: Path) -> None:
    """Write the golden summary of this run; raise ValueError where it differs from the committed one."""
    write_golden(folder, output)
    check_golden(output, golden)
    print("equal to the golden summary, bit for bit", flush=True)


def check_golden(made: Path, golden: Path) -> None:
    """Raise ValueError at the first line in which a result differs from the committed one."""
    lines = list(
        zip(
            made.read_text(encoding="utf-8").splitlines(),
            golden.read_text(encoding="utf-8").splitlines(),
            strict=False,
        )
    )
    for number, (ours, theirs) in enumerate(lines, start=1):
        if ours != theirs:
            raise ValueError(f"{made}:{number} differs from {golden}:\n  now: {ours}\n  was: {theirs}")
    if made.read_text(encoding="utf-8") != golden.read_text(encoding="utf-8"):
        raise ValueError(f"{made} has not as many lines as {golden}")
