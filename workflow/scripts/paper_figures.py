"""Draws figures from the tables of metrics."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.reports.paper_figures import draw_paper_figure

with logged(snakemake.log[0]):
    figures, folder = snakemake.params.figures, Path(snakemake.params.folder)
    for name in snakemake.params.names:
        draw_paper_figure(name, folder, Path(figures["folder"]), figures["formats"])
