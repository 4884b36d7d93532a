"""Computes core needs of layers and slowdowns of versions."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.simulation.study_steps import write_layer_tables

with logged(snakemake.log[0]):
    write_layer_tables(parse(snakemake.params.settings), Path(snakemake.output[0]).parent)
