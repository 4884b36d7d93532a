"""Measures a policy on this machine, in a process of its own: a kernel may crash."""

from pathlib import Path

from veltair.evaluation.script import logged
from veltair.evaluation.supervision import supervise

with logged(snakemake.log[0]):
    notes = Path(snakemake.log[0]).with_suffix(".workers")
    supervise(notes)

    from veltair.config import parse
    from veltair.evaluation.steps import measure_policy

    measure_policy(
        parse(snakemake.params.settings),
        Path(snakemake.input.costs).parent,
        {Path(plan).parent.name: Path(plan).parent for plan in snakemake.input.plans},
        snakemake.wildcards.workload,
        snakemake.wildcards.policy,
        [Path(path) for path in snakemake.input.capacities],
        Path(snakemake.output.records).parent,
        notes,
    )
