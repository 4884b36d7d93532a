"""Simulates a policy at loads that all policies share."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.simulation.steps import simulate_loads

with logged(snakemake.log[0]):
    simulate_loads(
        parse(snakemake.params.settings),
        Path(snakemake.input.costs).parent,
        snakemake.wildcards.workload,
        snakemake.wildcards.policy,
        [Path(path) for path in snakemake.input.capacities],
        Path(snakemake.output[0]),
    )
