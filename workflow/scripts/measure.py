"""Measures a policy on this machine."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.script import logged
from veltair.evaluation.steps import measure_policy

with logged(snakemake.log[0]):
    measure_policy(
        parse(snakemake.params.settings),
        Path(snakemake.input.costs).parent,
        {Path(plan).parent.name: Path(plan).parent for plan in snakemake.input.plans},
        snakemake.wildcards.workload,
        snakemake.wildcards.policy,
        [Path(path) for path in snakemake.input.capacities],
        Path(snakemake.output.records).parent,
    )
