"""Measures the simulator's and the dispatcher's own speed."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.benchmarks.main import write_main
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.measurement.steps import machine_to_itself, measuring_lock

with logged(snakemake.log[0]), machine_to_itself(measuring_lock()):
    write_main(
        parse(snakemake.params.settings),
        Path(snakemake.input.costs).parent,
        [Path(path) for path in snakemake.input.oracles],
        Path(snakemake.output[0]),
    )
