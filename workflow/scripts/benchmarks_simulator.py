"""Measures the simulator's speed: beside SimPy, with a million queries, and as machines and queues grow."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.benchmarks.simulator import Machines, write_simulator
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.measurement.steps import machine_to_itself, measuring_lock

with logged(snakemake.log[0]), machine_to_itself(measuring_lock()):
    write_simulator(
        parse(snakemake.params.settings),
        Machines(*(Path(snakemake.input[size]).parent for size in ("many", "small", "large"))),
        Path(snakemake.output[0]),
    )
