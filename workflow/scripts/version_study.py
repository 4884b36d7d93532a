"""Tabulates selections of 1 to 8 versions, one layer's candidates, and what machines choose."""

from pathlib import Path

from veltair.compiler.select.select import Selection
from veltair.compiler.select.shipped import shipped_stores
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.versions.version_steps import write_version_tables

with logged(snakemake.log[0]):
    params = snakemake.params
    stores = [*(shipped_stores() if params.reuse else []), *map(Path, params.searched)]
    builds = {Path(plan).parent.name: Path(plan).parent for plan in snakemake.input.plans}
    costs, folder = Path(snakemake.input.costs).parent, Path(snakemake.output[0]).parent
    selection = Selection(**params.select)
    write_version_tables(builds, stores, costs, selection, params.machines, folder)
