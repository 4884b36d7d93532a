"""Compares every version of a built model with ONNX Runtime."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.machine.steps import check_oracle

with logged(snakemake.log[0]):
    build = Path(snakemake.input.plan).parent
    check_oracle(Path(snakemake.input.model), build, snakemake.params.tolerance, Path(snakemake.output[0]))
