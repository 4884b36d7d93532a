"""Says whether parallel versions tolerate interference better than local ones here."""

from pathlib import Path

from veltair.evaluation.experiment.script import logged
from veltair.evaluation.versions.premise_report import write_premise

with logged(snakemake.log[0]):
    text, figure = Path(snakemake.output.text), Path(snakemake.output.figures[0]).with_suffix("")
    write_premise(Path(snakemake.input[0]), text, figure, snakemake.params.formats)
