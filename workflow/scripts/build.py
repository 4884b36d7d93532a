"""Builds the chosen versions of a model into one library."""

import os
from pathlib import Path

from veltair.compiler.select.select import Selection
from veltair.compiler.select.shipped import shipped_stores
from veltair.compiler.steps import build_model
from veltair.evaluation.experiment.script import logged

with logged(snakemake.log[0]):
    params = snakemake.params
    stores = [*(shipped_stores() if params.reuse else []), *map(Path, params.searched)]
    selection, cores = Selection(**params.select), len(os.sched_getaffinity(0))
    folder = Path(snakemake.output.plan).parent
    build_model(
        Path(snakemake.input.model), stores, selection, cores, params.trials, folder, Path(params.cache)
    )
