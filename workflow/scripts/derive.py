"""Models the costs on a described machine."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.machine.steps import derive_tables

with logged(snakemake.log[0]):
    source, folder = Path(snakemake.input[0]).parent, Path(snakemake.output[0]).parent
    derive_tables(source, snakemake.wildcards.machine, snakemake.config, folder)
