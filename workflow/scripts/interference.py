"""Fits the sources of interference to co-runs of known pressure."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.measurement.interference_steps import write_fits
from veltair.evaluation.measurement.steps import machine_to_itself, measuring_lock

with logged(snakemake.log[0]), machine_to_itself(measuring_lock()):
    write_fits(
        parse(snakemake.params.settings),
        {Path(plan).parent.name: Path(plan).parent for plan in snakemake.input.plans},
        Path(snakemake.input.costs).parent,
        Path(snakemake.output.fits),
        Path(snakemake.output.figures[0]).with_suffix(""),
    )
