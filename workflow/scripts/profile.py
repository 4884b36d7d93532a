"""Profiles all versions on this machine."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.measurement.block_costs import sample_blocks
from veltair.evaluation.measurement.steps import machine_to_itself, measuring_lock
from veltair.machine.steps import profile_models

with logged(snakemake.log[0]), machine_to_itself(measuring_lock()):
    profile = snakemake.params.profile
    builds = {Path(plan).parent.name: Path(plan).parent for plan in snakemake.input.plans}
    cores = None if profile["cores"] == "all" else profile["cores"]
    machine, build, folder = snakemake.input.machine, snakemake.params.build, Path(snakemake.output[0]).parent
    cells = (cores, profile["levels"], profile["repeats"])
    profile_models(builds, Path(machine), *cells, sample_blocks, profile, Path(build), folder)
