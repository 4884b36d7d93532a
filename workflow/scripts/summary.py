"""Writes the summary that a person reads."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.metrics.policies_table import PolicyOrder
from veltair.evaluation.reports.steps import write_summary

with logged(snakemake.log[0]):
    figures = [Path(path) for path in snakemake.input.figures]
    order = PolicyOrder(**snakemake.params.order)
    write_summary(Path(snakemake.input[0]).parent, figures, Path(snakemake.output[0]), order)
