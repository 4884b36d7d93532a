"""Compares modelled traffic of a sample of layers with cachegrind's."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.validation.traffic_steps import write_traffic

with logged(snakemake.log[0]):
    write_traffic(
        parse(snakemake.params.settings),
        {Path(plan).parent.name: Path(plan).parent for plan in snakemake.input.plans},
        Path(snakemake.params.native),
        Path(snakemake.output[0]),
    )
