"""Builds the chosen versions of a model into one library."""

from pathlib import Path

from veltair.compiler.select import Selection
from veltair.compiler.steps import build_model
from veltair.evaluation.script import logged

with logged(snakemake.log[0]):
    build_model(
        Path(snakemake.input.model),
        Path(snakemake.params.store),
        Selection(**snakemake.params.select),
        Path(snakemake.output.plan).parent,
    )
