"""Judges the paper's claims by the tables of metrics and by the benchmarks that there are."""

from pathlib import Path

from veltair.evaluation.claims.report import counts_line, write_claims
from veltair.evaluation.experiment.script import logged

with logged(snakemake.log[0]):
    params, inputs = snakemake.params, snakemake.input
    metrics, claims = Path(inputs.tables[0]).parent, Path(inputs.claims)
    judged = write_claims(metrics, Path(params.benchmarks), Path(snakemake.output.text), claims)
    print(counts_line(judged))
