"""Simulates the machine with another number of cores."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.simulation.study_steps import write_scale

with logged(snakemake.log[0]):
    machine, output = snakemake.wildcards.machine, Path(snakemake.output[0])
    write_scale(parse(snakemake.params.settings), machine, output)
