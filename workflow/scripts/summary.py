"""Writes the summary that a person reads."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.reports.steps import write_summary

with logged(snakemake.log[0]):
    figures = [Path(path) for path in snakemake.input.figures]
    write_summary(Path(snakemake.input[0]).parent, figures, Path(snakemake.output[0]))
