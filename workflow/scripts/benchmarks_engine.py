"""Measures the engine's own speed, and what it serves beside other runtimes."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.benchmarks.engine import EngineFiles, write_engine
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.measurement.steps import machine_to_itself, measuring_lock

with logged(snakemake.log[0]), machine_to_itself(measuring_lock()):
    given = snakemake.input
    files = EngineFiles(
        models={Path(path).stem: Path(path) for path in given.models},
        builds={Path(path).parent.name: Path(path).parent for path in given.plans},
        tables=Path(given.costs).parent,
        machine=Path(given.machine),
    )
    write_engine(parse(snakemake.params.settings), files, Path(snakemake.output[0]))
