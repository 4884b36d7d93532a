"""Records a short trace of LoadGen under one policy on this machine."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.validation.steps import measure_trace

with logged(snakemake.log[0]):
    measure_trace(
        parse(snakemake.params.settings),
        Path(snakemake.input.costs).parent,
        {Path(plan).parent.name: Path(plan).parent for plan in snakemake.input.plans},
        snakemake.wildcards.workload,
        snakemake.wildcards.policy,
        Path(snakemake.output.records),
    )
