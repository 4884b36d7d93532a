"""The profile: every version of every layer, timed inside its network, by cores and pressure level."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from veltair.compiler.build.build import VersionPlan
from veltair.compiler.footprint.traffic import Tiling, traffic_bytes
from veltair.machine.costs.disturbance import AWAY
from veltair.machine.costs.table import COLUMNS, KEY
from veltair.machine.models.library import Instance, LoadedModel
from veltair.machine.profile.corunner import AchievedPressure, CoRunner
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import BlockRun, Ended, Grant, Launch, QueryBuffers, WorkerPool

WARM_PASSES = 1

# The columns of a CostTable, and `AWAY`.
Row = tuple[str, int, int, int, float, int, float, float, float, float]


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """What to measure: core counts, pressure levels (0 is alone) and repeats of each."""

    cores: tuple[int, ...]
    levels: tuple[float, ...]
    repeats: int

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"profile.repeats is {self.repeats}; give 1 or more")
        if 0.0 not in self.levels:
            raise ValueError(f"profile.levels {self.levels} lack 0, each version alone; add it")


@dataclass(frozen=True, slots=True)
class Profile:
    """The repeats, one row each with the columns of a CostTable and `AWAY`, and what the co-runners did."""

    repeats: pd.DataFrame
    achieved: Mapping[float, AchievedPressure]


def profile(
    models: Mapping[str, LoadedModel],
    machine: Machine,
    settings: ProfileSettings,
    launch: Launch,
    build_dir: Path,
    progress: Callable[[str], None],
) -> Profile:
    """Measure all models on the workers that `launch` starts: those that will serve them.

    The co-runner has a core of its own: all cores are only measured alone. A whole network runs for each
    time, so that a layer finds the caches as its predecessor left them. Raises ValueError for core counts
    that the machine does not have.
    """
    too_many = [cores for cores in settings.cores if not 1 <= cores <= machine.cores]
    if too_many:
        raise ValueError(
            f"profile.cores {too_many}: {machine.name} has {machine.cores} cores; choose from 1 to that"
        )
    pool = launch(machine.core_ids)
    try:
        return _measure(models, machine, settings, pool, build_dir, progress)
    finally:
        pool.stop()


def _measure(
    models: Mapping[str, LoadedModel],
    machine: Machine,
    settings: ProfileSettings,
    pool: WorkerPool,
    build_dir: Path,
    progress: Callable[[str], None],
) -> Profile:
    buffers = {name: pool.bind(model.filled_instance(), name) for name, model in models.items()}
    for own in buffers.values():
        own.watch()
    rows: list[Row] = []
    achieved: dict[float, AchievedPressure] = {}
    for level in sorted(settings.levels):
        counts = [cores for cores in settings.cores if level == 0 or cores < machine.cores]
        if not counts:
            continue
        progress(f"level {level:g} on {', '.join(map(str, counts))} cores")
        corunner = CoRunner(level, machine.core_ids[-1], machine, build_dir)
        with corunner:
            rows.extend(_measure_level(pool, buffers, models, machine, settings, counts, level))
        achieved[level] = corunner.achieved
    table = pd.DataFrame(rows, columns=[*COLUMNS, AWAY])
    return Profile(table.sort_values(list(KEY), ignore_index=True), achieved)


def _measure_level(
    pool: WorkerPool,
    buffers: Mapping[str, QueryBuffers],
    models: Mapping[str, LoadedModel],
    machine: Machine,
    settings: ProfileSettings,
    counts: Sequence[int],
    level: float,
) -> Iterator[Row]:
    # Repeats are outermost, so that a disturbance of seconds spreads over all cells instead of filling one.
    for repeat in range(-WARM_PASSES, settings.repeats):
        for name, own in buffers.items():
            plan_of = models[name].plan.of
            plans = [plan_of(layer) for layer in range(len(own.runnable.calls))]
            for number in range(max(map(len, plans))):
                versions = tuple(min(number, len(plan) - 1) for plan in plans)
                for cores in counts:
                    seconds = time_block(pool, own, Grant(machine.core_ids[:cores], versions))
                    if repeat < 0:
                        continue
                    away = np.minimum(1.0, np.divide(own.away_seconds, seconds)).tolist()
                    for layer, plan in enumerate(plans):
                        if number < len(plan):
                            tiling = tiling_of(plan[number])
                            share = cache_share(machine, cores, level)
                            traffic = traffic_bytes(tiling, cores, share)
                            footprint = float(tiling.compulsory_bytes)
                            key = (name, layer, number, cores, level, repeat)
                            yield (*key, seconds[layer], traffic, footprint, away[layer])


def time_block(pool: WorkerPool, buffers: QueryBuffers, grant: Grant) -> Sequence[float]:
    """Run a whole network as one block and return the seconds of each layer. Raises its kernels' error."""
    pool.run(BlockRun(0, buffers, 0, len(grant.versions), grant))
    while True:
        for notice in pool.wait(None):
            if isinstance(notice, Ended):
                if notice.error is not None:
                    raise notice.error
                return tuple(buffers.layer_seconds)


def time_layers(instance: Instance, versions: Sequence[int]) -> list[float]:
    """Run a network once on this thread's cores and return the seconds of each layer."""
    clock = time.perf_counter
    seconds = []
    for calls, version in zip(instance.calls, versions, strict=True):
        kernel, arguments = calls[version]
        start_s = clock()
        kernel(*arguments)
        seconds.append(clock() - start_s)
    return seconds


def cache_share(machine: Machine, cores: int, level: float) -> float:
    """Return the L3 bytes that a block gets beside co-runners: what they leave, at least its fair share."""
    return machine.total_l3_bytes * max(1.0 - level, cores / machine.cores)


def tiling_of(version: VersionPlan) -> Tiling:
    """Return the tiling of a built version."""
    return version.tiling
