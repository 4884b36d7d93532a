"""The machine's steps of a run, one a rule: each reads and writes the files that it is given."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pandas as pd
from numpy.typing import NDArray

from veltair.compiler.build.build import read_plan
from veltair.compiler.frontend.samples import Samples
from veltair.compiler.oracle.oracle import ask, compare
from veltair.compiler.search.schedules import own_schedules
from veltair.compiler.select.select import Selection
from veltair.compiler.select.shipped import shipped_records, shipped_stores
from veltair.compiler.steps import SearchOrder, search_models, search_settings
from veltair.machine.costs.cost_model_fit import fits_by_exponent
from veltair.machine.costs.derivation import cells, derivation_notes, peak_ratio
from veltair.machine.costs.described_versions import derive_described
from veltair.machine.costs.disturbance import disturbance_note
from veltair.machine.costs.folder import COSTS, Tables, read_tables, write_tables
from veltair.machine.costs.oversubscription import oversubscription
from veltair.machine.costs.residency import crossing_bytes_by_cores, residency_notes
from veltair.machine.costs.table import CostTable
from veltair.machine.models.buffers import layers_of, resident
from veltair.machine.models.library import LoadedModel
from veltair.machine.probes.fork_probe import measure_fork
from veltair.machine.probes.host import host
from veltair.machine.probes.oversubscription import measure_oversubscription
from veltair.machine.profile.profile import ProfileSettings, profile, tiling_of
from veltair.machine.topology.described import described, format_machine, read_machine
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Launch, on_cores
from veltair.provenance import collect, write_atomically, write_parquet

ORACLE_SEED = 0

SampleBlocks = Callable[[Tables, Mapping[str, LoadedModel], Launch], pd.DataFrame]


def check_oracle(model: Path, build: Path, tolerance: float, output: Path) -> None:
    """Compare a built model with ONNX Runtime and write the errors. Raises OracleError for one too large."""
    # First of all, so that the weights of both are never in memory together.
    oracle = ask(onnx.load(model), read_plan(build).inputs, ORACLE_SEED)
    loaded = LoadedModel(build)
    instance = loaded.instance()

    def run(samples: Samples, versions: Sequence[int]) -> list[NDArray[Any]]:
        instance.set_inputs(samples)
        with on_cores(host_cores()):
            return instance.run(versions)

    plan = loaded.plan
    counts = {structure: len(versions) for structure, versions in plan.versions.items()}
    errors = compare(oracle, run, counts, [layer.structure for layer in plan.layers], tolerance)
    print(
        f"{plan.model}: {len(errors)} runs agree with ONNX Runtime, worst relative error "
        f"{errors['relative_error'].max():.2g}; packed weights {loaded.packed_bytes / 1e6:.0f} MB",
        flush=True,
    )
    write_atomically({output: errors.to_csv(index=False, lineterminator="\n").encode()})


def host_cores() -> tuple[int, ...]:
    """Return the cores that this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


def search_candidates(
    models: Sequence[Path], search: Mapping[str, Any], slack: float, machine: Path, work: Path, folder: Path
) -> None:
    """Search what no shipped store has, and write a store of it.

    `search` are the keys of that name of a configuration, `machine` the description of this machine.
    """
    settings, rpc = search_settings(search)
    order = SearchOrder(search["cpu"], search["cores"], slack, read_machine(machine).core_peak_flops)
    stores = shipped_stores() if search["reuse"] else []
    # Making all of them takes longer than measuring a few.
    schedules = partial(own_schedules, count=settings.few) if settings.few else own_schedules
    search_models(models, stores, settings, order, work, folder, schedules, rpc, shipped_records())


def measure_machine(build_dir: Path, output: Path, cpu: str = "auto") -> None:
    """Write this machine's description: topology from the system, speeds from probes.

    `cpu` is what kernels are built for, as in `build.cpu`: the peak is that of its vectors.
    """
    machine = host(build_dir, cpu=cpu)
    fork = measure_fork(machine.core_ids, build_dir)
    machine = replace(machine, launch_s=fork.launch_s, join_s=fork.join_s)
    print(
        f"{machine.name}: {machine.cores} cores, {machine.core_peak_flops / 1e9:.0f} GFLOP/s a core, "
        f"{machine.dram_bytes_per_s / 1e9:.0f} GB/s, "
        f"{1e6 * (fork.launch_s + fork.join_s):.1f} µs to launch and join a kernel",
        flush=True,
    )
    write_atomically({output: format_machine(machine).encode()})


def sample_oversubscription(machine: Path, build_dir: Path, config: Mapping[str, Any], output: Path) -> None:
    """Write samples of what it costs on this machine that threads share its cores."""
    samples = measure_oversubscription(read_machine(machine), build_dir)
    write_parquet(output, samples, collect(config, inputs=[machine]))
    for threads, longer in oversubscription(samples):
        print(f"{threads:g} threads a core: {longer:.3f} x as long as on an equal part", flush=True)


def profile_models(
    builds: Mapping[str, Path],
    machine: Path,
    cores: Sequence[int] | None,
    levels: Sequence[float],
    repeats: int,
    sample_blocks: SampleBlocks,
    config: Mapping[str, Any],
    build_dir: Path,
    folder: Path,
    notes: Path | None = None,
) -> None:
    """Profile the built models on this machine and write its tables.

    `cores` None means all counts that can be granted, and 1. `sample_blocks` returns, once the layers are
    measured, samples of what blocks of them cost beside. `notes` is where the workers write what they are at,
    should the process crash.
    """
    here = read_machine(machine)
    models = {name: LoadedModel(path) for name, path in builds.items()}
    # Tables of described machines are derived from times on one core, whatever the core unit here is.
    counts = cores or sorted({1, *here.core_counts})
    settings = ProfileSettings(tuple(counts), tuple(levels), repeats)
    launch = partial(NativePool, build_dir=build_dir, notes=notes)
    result = profile(models, here, settings, launch, build_dir, _tell)
    achieved = {f"{level:g}": asdict(pressure) for level, pressure in result.achieved.items()}
    tables = Tables(
        here,
        {name: layers_of(model.plan) for name, model in models.items()},
        {
            name: tuple(
                tuple(tiling_of(version) for version in model.plan.of(layer))
                for layer in range(len(model.plan.layers))
            )
            for name, model in models.items()
        },
        CostTable(result.repeats, here.name),
    )
    tables = replace(
        tables,
        tilings={
            name: resident(layers, models[name].plan, tables.costs.model(name).solo.tolist())
            for name, layers in tables.tilings.items()
        },
    )
    _tell("starts of blocks and changes of their cores")
    tables = replace(tables, block_samples=sample_blocks(tables, models, launch))
    provenance = collect(config, inputs=[path / "plan.json" for path in builds.values()], achieved=achieved)
    write_tables(folder, tables, provenance)
    for name in models:
        print(f"{name}: {1e3 * tables.costs.isolated_latency_s(name):.2f} ms alone", flush=True)
    print(f"blocks: {tables.block_costs}", flush=True)


def derive_tables(
    source: Path, machine: str, selection: Selection, config: Mapping[str, Any], folder: Path
) -> None:
    """Write modelled tables of a described machine, and what they are modelled from beside them.

    `selection` is how its versions are chosen.
    """
    here = read_tables(source)
    tables = derive_described(here, described(machine), selection)
    assert tables.cost_model is not None
    cost_model = {
        "combine": f"{tables.cost_model.combine:g}",
        "fitted_on": here.machine.name,
        "median_log_error_by_exponent": {
            f"{exponent:g}": fit.error
            for exponent, fit in fits_by_exponent(cells(here), here.machine).items()
        },
        "peak_ratio": peak_ratio(here.machine, tables.machine),
        "bytes_across_cache_groups": crossing_bytes_by_cores(tables),
    }
    notes = [
        *derivation_notes(here.machine, tables.machine),
        *residency_notes(here),
        disturbance_note(here.costs.repeats),
    ]
    for note in notes:
        print(note, flush=True)
    provenance = collect(config, inputs=[source / COSTS], modelled=True, cost_model=cost_model, notes=notes)
    write_tables(folder, tables, provenance)


def _tell(text: str) -> None:
    print(f"profiling {text}", flush=True)
