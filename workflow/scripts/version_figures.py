"""Draws the figures about versions."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.versions.version_steps import draw_version_figures

with logged(snakemake.log[0]):
    figures = snakemake.params.figures
    draw_version_figures(Path(snakemake.input[0]).parent, Path(figures["folder"]), figures["formats"])
