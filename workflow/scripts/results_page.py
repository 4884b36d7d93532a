"""Writes the page of recorded results."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.reports.results_page import write_results_page

with logged(snakemake.log[0]):
    params = snakemake.params
    write_results_page(Path(params.folder), Path(params.study), Path(params.page))
