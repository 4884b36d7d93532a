"""Measures a policy on this machine, in a process of its own: a kernel may crash."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.experiment.supervision import supervise

with logged(snakemake.log[0]):
    supervise(notes := Path(snakemake.log[0]).with_suffix(".workers"))

    from veltair.config import parse
    from veltair.evaluation.measurement.steps import measure_policy

    given, named = snakemake.input, snakemake.wildcards
    builds = {Path(plan).parent.name: Path(plan).parent for plan in given.plans}
    capacities = [Path(path) for path in given.capacities]
    tables, folder = Path(given.costs).parent, Path(snakemake.output.records).parent
    config = parse(snakemake.params.settings)
    measure_policy(config, tables, builds, named.workload, named.policy, capacities, folder, notes)
