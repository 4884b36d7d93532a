"""What the workers cost: a grant, a kernel in a block, a whole model, and two tenants side by side."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, median_result
from veltair.evaluation.measurement.yield_costs import yield_after
from veltair.machine.models.library import LoadedModel
from veltair.machine.profile.profile import time_layers
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.call_tables import CallTables
from veltair.machine.workers.native_pool import NativePool, NullKernel
from veltair.machine.workers.pool import (
    BlockRun,
    Ended,
    Grant,
    QueryBuffers,
    Runnable,
    WorkerPool,
    on_cores,
)

COMMAND = "snakemake --cores all benchmarks_engine"
ROUNDS = 15
REST_S = 0.02  # threads of two pools share the cores: those of one fall asleep before the other's turn
NULL_LAYERS, GRANTS, ADOPTING_LAYERS, STARTS, YIELDS = 1000, 2000, 100, 500, 200
LAYERS_BEFORE_YIELD_S = 0.003


@dataclass(frozen=True, slots=True)
class ListedCalls:
    """Buffers of a query with given calls: `calls[layer][version]`."""

    calls: Sequence[Sequence[tuple[Any, tuple[Any, ...]]]]
    inputs: Sequence[Any] = ()
    outputs: Sequence[Any] = ()


def worker_figures(
    models: Mapping[str, LoadedModel],
    solo: Mapping[str, tuple[int, ...]],
    machine: Machine,
    build_dir: Path,
    rounds: int = ROUNDS,
) -> dict[str, BenchmarkResult]:
    """Measure all figures; `solo` is the version of each layer of each model.

    Of the ratios of several models the geometric mean is the figure, each model's is beside it.
    """
    with_all = machine.core_ids
    workers = NativePool(with_all, build_dir)
    try:
        figures = null_figures(workers, machine, build_dir)
        ratios = {
            name: against_tvm(workers, model, solo[name], with_all, rounds) for name, model in models.items()
        }
        figures |= ratio_figures(
            "pool_vs_tvm", "block on our workers ÷ on TVM's own threads, all cores", ratios
        )
        if machine.cores > 1:
            kept = {
                name: beside(workers, model, solo[name], with_all, rounds) for name, model in models.items()
            }
            unit = "speed beside another tenant ÷ speed alone, half of the cores each, the slower one"
            figures |= ratio_figures("co_tenancy_ratio", unit, kept)
        else:
            print("one core: no tenants beside each other", flush=True)
        return figures
    finally:
        workers.stop()


def null_figures(workers: NativePool, machine: Machine, build_dir: Path) -> dict[str, BenchmarkResult]:
    """Return what a kernel of no duration, a start, changes of cores and a yield cost."""
    kernel = NullKernel(build_dir)
    buffers = workers.bind(ListedCalls([[(kernel, ())]] * NULL_LAYERS), "null")
    grant = Grant(machine.core_ids[:1], (0,) * NULL_LAYERS)
    overheads = [
        1e6 * run(workers, BlockRun(0, buffers, 0, NULL_LAYERS, grant)).busy_s / NULL_LAYERS
        for _ in range(ROUNDS)
    ]
    grants_us = [_grant_us(workers, buffers, machine.core_ids) for _ in range(ROUNDS)]
    layer = NullKernel(build_dir, passes_time=True)
    adoptions_us = [_adoption_us(workers, layer, machine.core_ids) for _ in range(ROUNDS)]
    layers = workers.bind(ListedCalls([[(layer, ())]] * ADOPTING_LAYERS), "null")
    many_layers = BlockRun(0, layers, 0, ADOPTING_LAYERS, Grant(machine.core_ids, (0,) * ADOPTING_LAYERS))
    yields_us = [1e6 * yield_after(workers, many_layers, LAYERS_BEFORE_YIELD_S) for _ in range(YIELDS)]
    one_layer = BlockRun(
        0, workers.bind(ListedCalls([[(kernel, ())]]), "null"), 0, 1, Grant(machine.core_ids, (0,))
    )
    starts_us = [_start_us(workers, one_layer) for _ in range(STARTS)]
    return {
        "kernel_overhead_us": median_result(
            overheads, f"µs a kernel that does nothing, blocks of {NULL_LAYERS}", COMMAND
        ),
        "grant_us": median_result(
            grants_us, f"µs a change of a running block's cores, mean of {GRANTS}, from Python", COMMAND
        ),
        "resize_cost_us": median_result(
            adoptions_us,
            "µs that the adoption of other cores adds to a layer, kernels without loops",
            COMMAND,
        ),
        "yield_us": median_result(
            yields_us, "µs for which a block that is to yield holds its cores longer than its layer", COMMAND
        ),
        "start_cost_us": median_result(
            starts_us, "µs from the call that starts a block to its first layer", COMMAND
        ),
    }


def run(workers: WorkerPool, block: BlockRun) -> Ended:
    """Run a block with nothing beside it and return its end. Raises the error of its kernels."""
    workers.run(block)
    return ends(workers, 1)[0]


def ends(workers: WorkerPool, count: int) -> list[Ended]:
    """Return the next so many ends of blocks. Raises the error of the first that failed."""
    found: list[Ended] = []
    while len(found) < count:
        found += [notice for notice in workers.wait(None) if isinstance(notice, Ended)]
    for end in found:
        if end.error is not None:
            raise end.error
    return found


def bare_seconds(
    workers: WorkerPool, runnable: Runnable, versions: Sequence[int], cores: tuple[int, ...]
) -> float:
    """Return what a list of kernels takes that a worker calls one after the other, and nothing more."""
    calls = [layer[version] for layer, version in zip(runnable.calls, versions, strict=True)]

    def call_all() -> None:
        for kernel, arguments in calls:
            kernel(*arguments)

    bare = workers.bind(ListedCalls([[(call_all, ())]]), "bare")
    return run(workers, BlockRun(0, bare, 0, 1, Grant(cores, (0,)))).busy_s


def against_tvm(
    workers: WorkerPool,
    model: LoadedModel,
    versions: tuple[int, ...],
    cores: tuple[int, ...],
    rounds: int,
) -> list[float]:
    """Return what a whole model takes as a block on our workers ÷ on TVM's threads, in turn, by round."""
    block = BlockRun(0, _buffers(workers, model), 0, len(versions), Grant(cores, versions))
    instance = model.filled_instance()
    ratios = []
    for _ in range(-1, rounds):  # the first one warms up
        time.sleep(REST_S)
        ours_s = run(workers, block).busy_s
        time.sleep(REST_S)
        with on_cores(cores):
            ratios.append(ours_s / sum(time_layers(instance, versions)))
    return ratios[1:]


def beside(
    workers: WorkerPool, model: LoadedModel, versions: tuple[int, ...], cores: tuple[int, ...], rounds: int
) -> list[float]:
    """Return what two tenants on half of the cores each keep of their speed alone, the slower, by round."""
    half = len(cores) // 2
    indices = (cores[:half], cores[half : 2 * half])
    buffers = [_buffers(workers, model) for _ in indices]
    blocks = [
        BlockRun(number, own, 0, len(versions), Grant(index, versions))
        for number, (own, index) in enumerate(zip(buffers, indices, strict=True))
    ]
    kept = []
    for _ in range(rounds):
        alone = [run(workers, block).busy_s for block in blocks]
        for block in blocks:
            workers.run(block)
        together = {end.block.query_id: end.busy_s for end in ends(workers, len(blocks))}
        kept.append(min(alone_s / together[number] for number, alone_s in enumerate(alone)))
    return kept


def _buffers(workers: WorkerPool, model: LoadedModel) -> QueryBuffers:
    return workers.bind(model.filled_instance(), model.plan.model)


def _grant_us(workers: NativePool, buffers: CallTables, cores: tuple[int, ...]) -> float:
    """Return the microseconds of a change between all cores and one, while a block runs."""
    sleeps = workers.bind(ListedCalls([[(lambda: time.sleep(0.05), ())]] * 2), "sleeps")
    grants = [Grant(cores, (0, 0)), Grant(cores[:1], (0, 0))]
    block = BlockRun(0, sleeps, 0, 2, grants[0])
    workers.run(block)
    start_s, count = time.perf_counter(), 0
    while count < GRANTS and time.perf_counter() - start_s < 0.04:
        workers.resize(block, grants[count % 2])
        count += 1
    seconds = time.perf_counter() - start_s
    ends(workers, 1)
    return 1e6 * seconds / count


def _adoption_us(workers: NativePool, kernel: NullKernel, cores: tuple[int, ...]) -> float:
    """Return the microseconds that a block loses where it adopts other cores, all of them or one, in turn."""
    layers = (0,) * ADOPTING_LAYERS
    buffers = workers.bind(ListedCalls([[(kernel, ())]] * ADOPTING_LAYERS), "null")
    grants = [Grant(cores, layers), Grant(cores[:1], layers)]
    plain_s = run(workers, BlockRun(0, buffers, 0, ADOPTING_LAYERS, grants[0])).busy_s
    block = BlockRun(0, buffers, 0, ADOPTING_LAYERS, grants[0])
    workers.run(block)
    adopted = 0
    workers.resize(block, grants[1])
    while True:
        for notice in workers.wait(None):
            if isinstance(notice, Ended):
                return 1e6 * (notice.busy_s - plain_s) / max(1, adopted)
            adopted += 1
            workers.resize(block, grants[(adopted + 1) % 2])


def _start_us(workers: NativePool, block: BlockRun) -> float:
    """Return the microseconds from starting a block to its first layer; its worker has just become idle."""
    start_s = time.monotonic()
    end = run(workers, block)
    return 1e6 * (end.monotonic_s - end.busy_s - start_s)


def ratio_figures(name: str, unit: str, ratios: Mapping[str, Sequence[float]]) -> dict[str, BenchmarkResult]:
    """Return a ratio's median of each model, and the geometric mean of them."""
    figures = {f"{name}_{model}": median_result(samples, unit, COMMAND) for model, samples in ratios.items()}
    values = tuple(one.value for one in figures.values())
    figures[name] = BenchmarkResult(
        geometric_mean(values), f"{unit}, geometric mean of models", values, COMMAND
    )
    for key, one in figures.items():
        print(f"{key}: {one.value:.3f}", flush=True)
    return figures
