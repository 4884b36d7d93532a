"""Simulates a policy at rates that all policies share."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.simulation.study_steps import write_granularity

with logged(snakemake.log[0]):
    capacities = [Path(path) for path in snakemake.input.capacities]
    policy, output = snakemake.wildcards.policy, Path(snakemake.output[0])
    write_granularity(parse(snakemake.params.settings), policy, capacities, output)
