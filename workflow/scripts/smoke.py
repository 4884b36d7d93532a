"""Compares the metrics of the smoke run with the committed ones."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.reports.steps import check_golden, write_golden

with logged(snakemake.log[0]):
    made = Path(snakemake.output[0])
    write_golden(Path(snakemake.input[0]).parent, made)
    check_golden(made, Path(snakemake.input.golden))
    print("equal to the golden summary, bit for bit")
