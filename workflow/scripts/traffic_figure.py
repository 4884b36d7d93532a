"""Draws modelled against simulated traffic."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.figures.save import save
from veltair.evaluation.validation.traffic_plots import validation_traffic_figure

with logged(snakemake.log[0]):
    figure = validation_traffic_figure(read_csv(Path(snakemake.input[0])))
    save(figure, Path(snakemake.output[0]).with_suffix(""), snakemake.params.figures["formats"])
