"""Whole simulated runs of made-up tables: what the steps of simulations and of reports are tested on."""

from pathlib import Path

from veltair.config import Config
from veltair.evaluation.experiment.layout import CAPACITY, RECORDS
from veltair.evaluation.simulation.steps import simulate_capacity, simulate_loads

SIMULATED = {"machines": ["host"], "workloads": ["mix"], "queries": 100, "resolution": 0.2, "seeds": [1, 2]}


def simulate_all(config: Config, tables: Path, folder: Path) -> list[Path]:
    """Write what each policy of a configuration does under a workload; return a folder for each."""
    folders = [folder / policy for policy in config.policies]
    for path in folders:
        path.mkdir()
        simulate_capacity(config, tables, "mix", path.name, path / CAPACITY)
    capacities = [path / CAPACITY for path in folders]
    for path in folders:
        simulate_loads(config, tables, "mix", path.name, capacities, path / RECORDS)
    return folders
