"""What the engine adds to blocks on this machine, sampled with the models that it serves: rule `profile`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import ceil, nan
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import pandas as pd

from veltair.compiler.frontend.model import LayerBlock, Model
from veltair.compiler.frontend.samples import random_samples
from veltair.config import Config
from veltair.evaluation.measurement.pool_recorder import recording
from veltair.evaluation.measurement.resize_costs import layer_resizes
from veltair.evaluation.measurement.yield_costs import layer_yields
from veltair.machine.costs.block_costs import COLUMNS, FIRST_LAYER, GRANT, START, YIELD
from veltair.machine.costs.folder import Tables
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.library import LoadedModel
from veltair.machine.steps import profile_models
from veltair.machine.topology.placement import spread
from veltair.machine.workers.pool import Ended, Launch, QueryBuffers, Sample, WorkerPool, on_cores
from veltair.serving.engine.engine import Engine
from veltair.serving.loop.backend import BackendWrapper, Command, Event
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Answer, Context, Rejection, Resize, Snapshot
from veltair.serving.loop.query import NEVER_S

# Of each model: starts on each count of cores, grants, changes of cores each way, and yields, at least.
STARTS, GRANTS, RESIZES, YIELDS = 200, 100, 100, 100
GRANT_GAP_S = 0.002  # longer than a layer: most changes are adopted before the next one is asked for

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

    All go through `serve()` with a policy that hardly computes, but for changes of cores and yields at a
    layer's end, which no decision is part of. Raises EngineError or a kernel's error if one fails.
    """
    machine, rows = tables.machine, list[Row]()
    for name, model in models.items():
        context = Context({name: Model(name, tables.layers[name], NEVER_S)}, tables.costs, machine)
        ends: list[Ended] = []
        with _engine(model, context, recording(launch, ends)) as engine:
            # As few and as many cores as were profiled: the engine looks every block up.
            for cores in sorted({tables.costs.cores[0], tables.costs.cores[-1]}):
                starts = sample_starts(engine, context, cores, ends)
                rows += rows_of(START, name, cores, starts.waits_s)
                rows += rows_of(FIRST_LAYER, name, cores, starts.longer_s)
        if machine.cores > 1:
            with _engine(model, context, launch) as engine:
                rows += rows_of(GRANT, name, machine.cores, sample_grants(engine, context))
            for kind, samples in sample_resizes(model, context, launch).items():
                rows += rows_of(kind, name, machine.cores, samples)
        rows += rows_of(YIELD, name, machine.cores, sample_yields(model, context, launch))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def rows_of(kind: str, model: str, cores: int, samples: list[float]) -> list[Row]:
    """Return samples of one kind as rows of `COLUMNS`."""
    return [(kind, model, cores, number, seconds) for number, seconds in enumerate(samples)]


@contextmanager
def _engine(model: LoadedModel, context: Context, launch: Launch) -> Iterator[Engine]:
    """Within the context, an engine serves one model, which is asked for one sample only."""
    (name,) = context.models
    samples = [(name, right_answer(model, context))]
    site = (context.costs, context.machine, spread, ObservedSlowdown())
    engine = Engine({name: model}, samples, {name: NEVER_S}, *site, NEVER_S, launch)
    try:
        engine.warm_up()
        yield engine
    finally:
        engine.stop()


def right_answer(model: LoadedModel, context: Context) -> Sample:
    """Return an input and the output of the solo versions, run alone."""
    instance, values = model.instance(), random_samples(model.plan.inputs, seed=0)
    instance.set_inputs(values)
    with on_cores(context.machine.core_ids):
        return Sample(values, tuple(instance.run(_solo(context))))


def _solo(context: Context) -> tuple[int, ...]:
    """Return the versions of the only model that are the fastest alone."""
    (name,) = context.models
    return tuple(map(int, context.costs.model(name).solo))


# Starts.


class EqualBlocks:
    """Gives the oldest query some cores for its next layers, as soon as nothing runs."""

    def __init__(self, context: Context, layers: int, cores: int) -> None:
        """Take the size of a block, and its cores."""
        self._versions, self._layers, self._cores = _solo(context), layers, cores

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Return one allocation, or nothing."""
        if not snapshot.pending or snapshot.running:
            return []
        query, start = snapshot.pending[0]
        stop = min(start + self._layers, len(self._versions))
        block = LayerBlock(query.model, start, stop)
        return [Allocation(query.id, block, self._versions[start:stop], self._cores)]


@dataclass(frozen=True, slots=True)
class Starts:
    """Seconds of each start: from the end before it to its first layer, and what that one takes longer."""

    waits_s: list[float]
    longer_s: list[float]


def sample_starts(engine: Engine, context: Context, cores: int, ends: list[Ended]) -> Starts:
    """Return the starts of blocks of one layer, of queries that are alone; none of a model of one layer.

    Each query is followed by one in a single block, whose layers theirs are compared with. `ends` is where
    all ends of blocks are noted.
    """
    layers, starts = len(_solo(context)), Starts([], [])
    singly, whole = (
        serve(Dispatcher(EqualBlocks(context, size, cores), context), engine) for size in (1, layers)
    )
    for number in range(1 + ceil(STARTS / max(1, layers - 2))):
        for records in (singly, whole):
            engine.arrive(number, 0, time.monotonic())
            next(records)
        *single, together = ends
        ends.clear()
        if number:  # the first round warms up
            add_starts(starts, single, together.block.buffers.layer_seconds)
    return starts


def add_starts(starts: Starts, ends: Sequence[Ended], together_s: Sequence[float]) -> None:
    """Add the blocks of a query, but the first, which copies the sample in, and the last, which compares."""
    for before, end, layer_s in zip(ends[:-2], ends[1:-1], together_s[1:-1], strict=True):
        starts.waits_s.append(end.monotonic_s - end.busy_s - before.monotonic_s)
        starts.longer_s.append(end.busy_s - layer_s)


# Grants.


class OneOrAll:
    """Lets one query run on all cores; one that arrives meanwhile only changes it to 1 core, or back."""

    def __init__(self, context: Context) -> None:
        """Take the most cores that were profiled."""
        self._versions, self._cores = _solo(context), context.costs.cores[-1]

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Return the first query's start, or the others' rejection and a change."""
        if not snapshot.pending:
            return []
        if not snapshot.running:
            query = snapshot.pending[0].query
            block = LayerBlock(query.model, 0, len(self._versions))
            return [Allocation(query.id, block, self._versions, self._cores)]
        run = snapshot.running[0]
        answers: list[Answer] = [
            Rejection(entry.query.id, "it only asks for a change") for entry in snapshot.pending
        ]
        if run.cores == run.target_cores:
            answers.append(Resize(run.query.id, 1 if run.cores > 1 else self._cores))
        return answers


class GrantTimes(BackendWrapper):
    """A backend that notes how long after an event a running block has been granted other cores."""

    def __init__(self, engine: Engine) -> None:
        """Stand before an engine."""
        super().__init__(engine)
        self.grants_s: list[float] = []
        self._engine, self._event_s = engine, nan

    def wait(self) -> Event | None:
        """Return the next event."""
        event = self._engine.wait()
        if event is not None:
            self._event_s = event.time_s
        return event

    def do(self, command: Command) -> None:
        """Pass a command on; of a change of cores, note the time."""
        self._engine.do(command)
        if isinstance(command, Resize):
            self.grants_s.append(self._engine.now_s() - self._event_s)


def sample_grants(engine: Engine, context: Context) -> list[float]:
    """Return the seconds from an arrival to a grant of other cores that follows from it."""
    backend, is_over = GrantTimes(engine), Flag()

    def ask() -> None:
        for number in count():
            if is_over.wait(GRANT_GAP_S):
                return
            engine.arrive(number, 0, time.monotonic())

    asking = Thread(target=ask)
    asking.start()
    try:
        for _ in serve(Dispatcher(OneOrAll(context), context), backend):
            if len(backend.grants_s) >= GRANTS:
                return backend.grants_s
        raise AssertionError("an engine whose arrivals go on ends no run")
    finally:
        is_over.set()
        asking.join()


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
