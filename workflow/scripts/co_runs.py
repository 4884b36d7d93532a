"""Times pairs of models beside each other on this machine."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.validation.steps import measure_co_runs

with logged(snakemake.log[0]):
    measure_co_runs(
        parse(snakemake.params.settings),
        Path(snakemake.input.costs).parent,
        {Path(plan).parent.name: Path(plan).parent for plan in snakemake.input.plans},
        Path(snakemake.output[0]),
    )
