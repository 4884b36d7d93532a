"""Draws the figures."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.reports.steps import draw_figures

with logged(snakemake.log[0]):
    figures = snakemake.params.figures
    draw_figures(Path(snakemake.input[0]).parent, Path(figures["folder"]), figures["formats"])
