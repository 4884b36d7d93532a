"""Simulates under another assumption."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.simulation.study_steps import write_sensitivity

with logged(snakemake.log[0]):
    variation, index = snakemake.wildcards.variation, int(snakemake.wildcards.index)
    write_sensitivity(parse(snakemake.params.settings), variation, index, Path(snakemake.output[0]))
