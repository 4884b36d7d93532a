"""Gathers the cells of the study."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.simulation.study_steps import gather

with logged(snakemake.log[0]):
    cells = {name: [Path(path) for path in paths] for name, paths in snakemake.input.items()}
    gather(parse(snakemake.params.settings), cells, Path(snakemake.output[0]).parent)
