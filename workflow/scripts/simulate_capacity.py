"""Simulates a policy's QPS at 95 % QoS."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.simulation.steps import simulate_capacity

with logged(snakemake.log[0]):
    simulate_capacity(
        parse(snakemake.params.settings),
        Path(snakemake.input.costs).parent,
        snakemake.wildcards.workload,
        snakemake.wildcards.policy,
        Path(snakemake.output[0]),
    )
