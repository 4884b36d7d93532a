"""Probes this machine."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.measurement.steps import machine_to_itself, measuring_lock
from veltair.machine.steps import measure_machine

with logged(snakemake.log[0]), machine_to_itself(measuring_lock()):
    measure_machine(Path(snakemake.params.build), Path(snakemake.output[0]))
