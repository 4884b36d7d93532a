"""Searches the candidates of all layers that have none, once."""

from pathlib import Path

from veltair.compiler.search.schedules import own_schedules
from veltair.compiler.select.shipped import shipped_records, shipped_stores
from veltair.compiler.steps import SearchOrder, search_models, search_settings
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.measurement.steps import machine_to_itself, measuring_lock
from veltair.machine.topology.described import read_machine

with logged(snakemake.log[0]), machine_to_itself(measuring_lock()):
    search, models = snakemake.params.search, [Path(path) for path in snakemake.input.models]
    stores = shipped_stores() if search["reuse"] else []
    settings, rpc = search_settings(search)
    peak_flops = read_machine(Path(snakemake.input.machine)).core_peak_flops
    order = SearchOrder(search["cpu"], search["cores"], snakemake.params.slack, peak_flops)
    work, folder = Path(snakemake.params.work), Path(snakemake.output[0]).parent
    search_models(models, stores, settings, order, work, folder, own_schedules, rpc, shipped_records())
