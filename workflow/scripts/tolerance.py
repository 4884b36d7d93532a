"""Measures every version alone and beside co-runners, in fresh processes."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.measurement.steps import machine_to_itself, measuring_lock
from veltair.evaluation.versions.premise_report import measure

with logged(snakemake.log[0]), machine_to_itself(measuring_lock()):
    builds = [Path(plan).parent for plan in snakemake.input.plans]
    settings, build_dir = parse(snakemake.params.settings), Path(snakemake.params.build)
    machine, processes = Path(snakemake.input.machine), snakemake.params.processes
    measure(settings, machine, builds, build_dir, processes, Path(snakemake.output[0]))
