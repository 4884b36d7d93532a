"""Computes the metrics of all runs."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.reports.steps import write_metrics

with logged(snakemake.log[0]):
    tables = [Path(path).parent for path in snakemake.input.costs]
    runs = [Path(path).parent for path in snakemake.input.records]
    write_metrics(parse(snakemake.params.settings), tables, runs, Path(snakemake.output[0]).parent)
