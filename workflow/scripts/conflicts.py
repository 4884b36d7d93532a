"""Simulates conflicts over time."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.simulation.study_steps import write_conflicts

with logged(snakemake.log[0]):
    capacities = [Path(path) for path in snakemake.input.capacities]
    write_conflicts(parse(snakemake.params.settings), capacities, Path(snakemake.output[0]))
