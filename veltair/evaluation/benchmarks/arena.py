"""What it gains that activations whose lives do not overlap share bytes, whatever their shapes."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from veltair.compiler.build.build import ModelPlan
from veltair.evaluation.benchmarks.workers import REST_S, bare_seconds, ratio_figures
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult
from veltair.machine.models.activations import Placed, whole_lines
from veltair.machine.models.buffers import lives_of
from veltair.machine.models.library import Instance, LoadedModel
from veltair.machine.profile.corunner import ALONE, CoRunner, CoRunnerLoad, conditions
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import WorkerPool

ROUNDS = 9
BESIDE = (ALONE, "cache")  # nothing, and a core that touches as much as the L3 holds


def arena_figures(
    models: Mapping[str, LoadedModel],
    solo: Mapping[str, Sequence[int]],
    machine: Machine,
    build_dir: Path,
    rounds: int = ROUNDS,
) -> dict[str, BenchmarkResult]:
    """Return latency and bytes with activations placed by shape ÷ with those placed by their lives.

    Latencies are of whole models on one core and on all, alone and beside a co-runner that fills the L3
    from the last core; there it takes turns with a block on all cores. `solo` is the version of each layer.
    """
    pairs = {
        name: (model.filled_instance(by_shape(model.plan)), model.filled_instance())
        for name, model in models.items()
    }
    held = {name: [before.nbytes / after.nbytes] for name, (before, after) in pairs.items()}
    figures = ratio_figures("arena_memory", "bytes of a query, placed by shape ÷ by their lives", held)
    loads = conditions(machine)
    counts = {1: "", machine.cores: "_all"}
    for cores, of_cores in counts.items():
        for kind in BESIDE if machine.cores > 1 else BESIDE[:1]:
            workers = NativePool(machine.core_ids, build_dir)
            try:
                with _beside(machine, build_dir, loads[kind]):
                    ratios = {
                        name: _ratios(workers, pair, solo[name], machine.core_ids[:cores], rounds)
                        for name, pair in pairs.items()
                    }
            finally:
                workers.stop()
            where = f"{cores} core{'s' if cores > 1 else ''}{'' if kind == ALONE else ', beside a full L3'}"
            name = f"arena_ratio{of_cores}{'' if kind == ALONE else f'_{kind}'}"
            figures |= ratio_figures(name, f"latency, placed by shape ÷ by their lives, {where}", ratios)
    return figures


def by_shape(plan: ModelPlan) -> Placed:
    """Return where activations begin if only those of equal shape and type share memory.

    Each takes the place of one that is no longer needed, else a new one at the end.
    """
    lives, end = lives_of(plan), 0
    begins: dict[tuple[int, int], int] = {}
    idle: dict[object, list[int]] = {}
    kinds = {
        (number, output): kind
        for number, layer in enumerate(plan.layers)
        for output, kind in enumerate(zip(layer.outputs, layer.dtypes, strict=True))
    }
    for number in range(len(plan.layers)):
        for key in (key for key in kinds if key[0] == number):
            free = idle.get(kinds[key])
            if free:
                begins[key] = free.pop()
            else:
                begins[key], end = end, end + whole_lines(lives[key].nbytes)
        for key in (key for key in begins if lives[key].last == number):
            idle.setdefault(kinds[key], []).append(begins[key])
    return [begins[key] for key in lives], end


def _ratios(
    workers: WorkerPool,
    pair: tuple[Instance, Instance],
    versions: Sequence[int],
    cores: tuple[int, ...],
    rounds: int,
) -> list[float]:
    """Return the quotient of both instances' seconds by round; who goes first takes turns."""
    ratios = []
    for number in range(-1, rounds):  # the first one warms up
        seconds = {}
        for which in (0, 1) if number % 2 else (1, 0):
            time.sleep(REST_S)
            bare_seconds(workers, pair[which], versions, cores)  # the caches are then its own
            seconds[which] = bare_seconds(workers, pair[which], versions, cores)
        ratios.append(seconds[0] / seconds[1])
    return ratios[1:]


def _beside(machine: Machine, build_dir: Path, load: CoRunnerLoad | None) -> "CoRunner | nullcontext[None]":
    if load is None:
        return nullcontext()
    return CoRunner(1.0, machine.core_ids[-1], machine, build_dir, load)
