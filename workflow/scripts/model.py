"""Writes a model as ONNX."""

from pathlib import Path

from veltair.compiler.steps import write_model
from veltair.evaluation.experiment.script import logged

with logged(snakemake.log[0]):
    source = snakemake.params.source
    write_model(snakemake.wildcards.model, source["builder"], source["onnx"], Path(snakemake.output[0]))
