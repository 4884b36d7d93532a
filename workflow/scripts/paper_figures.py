"""Draws figures from the tables of metrics."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.metrics.policies_table import PolicyOrder
from veltair.evaluation.reports.paper_figures import draw_paper_figure

with logged(snakemake.log[0]):
    figures, folder = snakemake.params.figures, Path(snakemake.params.folder)
    order = PolicyOrder(**snakemake.params.order)
    for name in snakemake.params.names:
        draw_paper_figure(name, folder, Path(figures["folder"]), figures["formats"], order)
