"""Runs the step that a rule names, in a process of its own: a crash ends in a message too."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.experiment.supervision import supervise

with logged(snakemake.log[0]):
    supervise(notes := Path(snakemake.log[0]).with_suffix(".workers"))

    from veltair.evaluation.experiment.step import run_step

    run_step(snakemake, notes)
