"""Searches the candidates of all layers, once."""

from pathlib import Path

from veltair.compiler.search import SearchSettings
from veltair.compiler.steps import search_models
from veltair.evaluation.script import logged
from veltair.evaluation.steps import machine_to_itself, measuring_lock

KEYS = ("trials", "seed", "population", "generations", "batch")

with logged(snakemake.log[0]), machine_to_itself(measuring_lock()):
    search = snakemake.params.search
    settings = SearchSettings(**{key: search[key] for key in KEYS})
    models = [Path(path) for path in snakemake.input.models]
    work, folder = Path(snakemake.params.work), Path(snakemake.output[0]).parent
    search_models(models, settings, search["cores"], snakemake.params.slack, work, folder)
