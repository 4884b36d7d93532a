"""Draws the figures of the paper, and judges its claims, from the shipped tables of the full grid."""

from pathlib import Path

from veltair.evaluation.claims.report import counts_line, write_claims
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.metrics.policies_table import PolicyOrder
from veltair.evaluation.reports.paper_figures import draw_paper_figure

with logged(snakemake.log[0]):
    params = snakemake.params
    folder, output = Path(params.folder), Path(params.claims)
    order = PolicyOrder(**snakemake.params.order)
    for name in params.names:
        draw_paper_figure(name, folder, Path(params.figures["folder"]), params.figures["formats"], order)
    print(f"{output}: {counts_line(write_claims(folder, Path(params.benchmarks), output))}")
