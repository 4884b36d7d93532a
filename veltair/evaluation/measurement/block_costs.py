"""What the engine adds to blocks on this machine, sampled with the models that it serves: rule `profile`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from pathlib import Path

import pandas as pd

from veltair.compiler.frontend.model import Model
from veltair.compiler.frontend.samples import random_samples
from veltair.config import Config
from veltair.evaluation.measurement.equal_blocks import EqualBlocks
from veltair.evaluation.measurement.resize_costs import layer_resizes
from veltair.evaluation.measurement.yield_costs import layer_yields
from veltair.machine.costs.block_costs import COLUMNS, FIRST_LAYER, GRANT, START, YIELD
from veltair.machine.costs.folder import Tables
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.library import LoadedModel
from veltair.machine.steps import profile_models
from veltair.machine.workers.pool import Launch, QueryBuffers, Sample, WorkerPool, on_cores
from veltair.serving.engine.log_entries import Entry, EntryKind
from veltair.serving.engine.native_engine import NativeEngine, Site
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import NEVER_S
from veltair.serving.policies.presets import make_policy

# Of each model: starts on each count of cores, pairs of queries that share the cores, changes of cores
# each way, and yields, at least.
STARTS, PAIRS, RESIZES, YIELDS = 200, 20, 100, 100
PLANARIA, TIGHT = "baselines.planaria:Planaria", 3.0  # the target: times of a query alone

Row = tuple[str, str, int, int, float]


def profile_host(
    config: Config, builds: Mapping[str, Path], machine: Path, build_dir: Path, folder: Path, notes: Path
) -> None:
    """Profile built models on this machine: what their layers cost, and what blocks cost beside.

    `machine` is its description; `notes` is where the workers write what they are at, should the process
    crash.
    """
    asked = config.profile
    cores = None if asked.cores == "all" else asked.cores
    measured = (cores, asked.levels, asked.repeats)
    values = config.model_dump(mode="json")
    profile_models(builds, machine, *measured, sample_blocks, values, build_dir, folder, notes)


def sample_blocks(tables: Tables, models: Mapping[str, LoadedModel], launch: Launch) -> pd.DataFrame:
    """Return samples of what blocks cost beside their kernels: a row each, with `block_costs.COLUMNS`.

    All go through the loop in C, but for changes of cores and yields at a layer's end, which no decision is
    part of. Raises EngineError or a kernel's error if one fails.
    """
    machine, rows = tables.machine, list[Row]()
    for name, model in models.items():
        context = Context({name: Model(name, tables.layers[name], NEVER_S)}, tables.costs, machine)
        with _engine(model, context, launch) as engine:
            # As few and as many cores as were profiled: the engine looks every block up.
            for cores in sorted({tables.costs.cores[0], tables.costs.cores[-1]}):
                starts = sample_starts(engine, context, cores)
                rows += _rows(START, name, cores, starts.waits_s)
                rows += _rows(FIRST_LAYER, name, cores, starts.longer_s)
            if machine.cores > 1:
                rows += _rows(GRANT, name, machine.cores, sample_grants(engine, context))
        if machine.cores > 1:
            for kind, samples in sample_resizes(model, context, launch).items():
                rows += _rows(kind, name, machine.cores, samples)
        rows += _rows(YIELD, name, machine.cores, sample_yields(model, context, launch))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(kind: str, model: str, cores: int, samples: list[float]) -> list[Row]:
    return [(kind, model, cores, number, seconds) for number, seconds in enumerate(samples)]


@contextmanager
def _engine(model: LoadedModel, context: Context, launch: Launch) -> Iterator[NativeEngine]:
    """Within the context, an engine serves one model, which is asked for one sample only."""
    (name,) = context.models
    samples = [(name, _right_answer(model, context))]
    site = Site(context, "spread", ObservedSlowdown(), NEVER_S)
    engine = NativeEngine(site, {name: model}, samples, launch)
    try:
        engine.warm_up()
        yield engine
    finally:
        engine.stop()


def _right_answer(model: LoadedModel, context: Context) -> Sample:
    instance, values = model.instance(), random_samples(model.plan.inputs, seed=0)
    instance.set_inputs(values)
    with on_cores(context.machine.core_ids):
        return Sample(values, tuple(instance.run(_solo(context))))


def _solo(context: Context) -> tuple[int, ...]:
    """Return the versions of the only model that are the fastest alone."""
    (name,) = context.models
    return tuple(map(int, context.costs.model(name).solo))


# Starts.


@dataclass(frozen=True, slots=True)
class Starts:
    """Seconds of each start: from the end before it to its first layer, and what that one takes longer."""

    waits_s: list[float]
    longer_s: list[float]


def sample_starts(engine: NativeEngine, context: Context, cores: int) -> Starts:
    """Return the starts of blocks of one layer, of queries that are alone; none of a model of one layer.

    Each query is followed by one in a single block, whose layers theirs are compared with.
    """
    (name,) = context.models
    layers, starts = len(_solo(context)), Starts([], [])
    for number in range(1 + ceil(STARTS / max(1, layers - 2))):
        single = _ends_of_a_query(engine, EqualBlocks(context, 1, cores))
        _ends_of_a_query(engine, EqualBlocks(context, layers, cores))
        if number:  # the first round warms up
            add_starts(starts, single, engine.layer_seconds(name))
    return starts


def _ends_of_a_query(engine: NativeEngine, policy: EqualBlocks) -> list[Entry]:
    engine.begin(policy, rings_at_ends=True)
    engine.arrive(0, 0, time.monotonic())
    engine.flush()
    for _ in engine.serve():
        pass
    return [entry for entry in engine.entries() if entry.kind is EntryKind.BLOCK_ENDED]


def add_starts(starts: Starts, ends: Sequence[Entry], together_s: Sequence[float]) -> None:
    """Add the blocks of a query, but the first, which copies the sample in, and the last, which compares."""
    for before, end, layer_s in zip(ends[:-2], ends[1:-1], together_s[1:-1], strict=True):
        starts.waits_s.append(end.time_s - end.seconds - before.time_s)
        starts.longer_s.append(end.seconds - layer_s)


# Grants.


def sample_grants(engine: NativeEngine, context: Context) -> list[float]:
    """Return the seconds from an arrival or an end to a grant of other cores that follows from it.

    Planaria decides. Each query is joined by another one, so that it loses cores, and alone again after.
    """
    alone_s = _alone_s(context)
    tight = {name: replace(model, qos_s=TIGHT * alone_s) for name, model in context.models.items()}
    engine.begin(make_policy(PLANARIA, replace(context, models=tight), "paper", {}), rings_at_ends=True)
    records = engine.serve()
    for pair in range(PAIRS):
        engine.arrive(2 * pair, 0, time.monotonic())
        time.sleep(0.3 * alone_s)
        engine.arrive(2 * pair + 1, 0, time.monotonic())
        for _ in range(2):
            next(records)
    engine.flush()
    assert not list(records)
    turns = pairwise(engine.entries())
    return [
        decided.seconds
        for decided, command in turns
        if (decided.kind, command.kind) == (EntryKind.DECIDED, EntryKind.BLOCK_RESIZED)
    ]


def _alone_s(context: Context) -> float:
    (name,) = context.models
    costs = context.costs.model(name)
    return float(costs.seconds[range(len(costs.solo)), costs.solo, -1, 0].sum())


# Changes of cores, and yields.


def sample_resizes(model: LoadedModel, context: Context, launch: Launch) -> dict[str, list[float]]:
    """Return the seconds that a change of cores adds to the layer that adopts it, by kind of change."""
    versions, found = _solo(context), dict[str, list[float]]()
    with _workers(model, context, launch) as (pool, buffers):
        for _ in range(ceil(RESIZES / max(1, len(versions) - 1))):
            for kind, seconds in layer_resizes(pool, buffers, versions, context.machine.core_ids):
                found.setdefault(kind, []).append(seconds)
    return found


def sample_yields(model: LoadedModel, context: Context, launch: Launch) -> list[float]:
    """Return the seconds for which a block that yields holds its cores longer than its layer."""
    versions = _solo(context)
    with _workers(model, context, launch) as (pool, buffers):
        return [
            seconds
            for _ in range(ceil(YIELDS / max(1, len(versions) - 1)))
            for seconds in layer_yields(pool, buffers, versions, context.machine.core_ids)
        ]


@contextmanager
def _workers(
    model: LoadedModel, context: Context, launch: Launch
) -> Iterator[tuple[WorkerPool, QueryBuffers]]:
    """Within the context, workers and buffers of a model that ran once."""
    pool = launch(context.machine.core_ids)
    try:
        instance = model.filled_instance()
        with on_cores(context.machine.core_ids):
            instance.run(_solo(context))
        yield pool, pool.bind(instance, model.plan.model)
    finally:
        pool.stop()
