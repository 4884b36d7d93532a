"""Small models, cost tables, machines and snapshots, and a backend without contention, for tests."""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd

from veltair.compiler.frontend.model import Layer, LayerBlock, Model
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.backend import (
    Arrival,
    BlockEnd,
    Closed,
    Command,
    Event,
    Loaded,
    Resized,
    Woken,
)
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import (
    Allocation,
    Context,
    Load,
    LoadUnderWay,
    Pending,
    Policy,
    Resize,
    Running,
    Snapshot,
    Wake,
    Yield,
)
from veltair.serving.loop.query import Ending, Query, QueryRecord


def make_model(name: str = "net", macs: Sequence[int] = (1, 1, 1), qos_s: float = 0.010) -> Model:
    """Return a model with one layer for each number of MACs."""
    layers = tuple(Layer(f"{name}_{index}", f"{name}_{index}", count) for index, count in enumerate(macs))
    return Model(name, layers, qos_s)


def make_machine(cores: int = 8, core_unit: int = 1, name: str = "toy") -> Machine:
    """Return a machine with one cache group."""
    return Machine(name, core_unit, (tuple(range(cores)),), 2**19, 2**24, 1e11, 1e11, validated=False)


def linear_seconds(work_core_s: Sequence[float], cores: Sequence[int]) -> np.ndarray:
    """Return times of layers that speed up linearly: shape (layers, 1 version, core counts, 1 level)."""
    seconds: np.ndarray = np.divide.outer(np.asarray(work_core_s), np.asarray(cores))
    return seconds[:, None, :, None]


def make_costs(
    seconds: Mapping[str, np.ndarray],
    cores: Sequence[int],
    levels: Sequence[float] = (0.0,),
    machine: str = "toy",
) -> CostTable:
    """Return a cost table from arrays of shape (layers, versions, core counts, levels); NaN is a hole."""
    rows = [
        (model, layer, version, cores[count], levels[level], 0, value, 0.0, 0.0)
        for model, array in seconds.items()
        for (layer, version, count, level), value in np.ndenumerate(array)
        if not np.isnan(value)
    ]
    columns = ["model", "layer", "version", "cores", "level", "repeat", "seconds"]
    return CostTable(pd.DataFrame(rows, columns=[*columns, "traffic_bytes", "footprint_bytes"]), machine)


def make_context(
    seconds: Mapping[str, np.ndarray],
    models: Iterable[Model],
    *,
    cores: Sequence[int] = tuple(range(1, 9)),
    levels: Sequence[float] = (0.0,),
    machine: Machine | None = None,
) -> Context:
    """Return the context of some models on a machine with as many cores as were profiled."""
    machine = machine or make_machine(max(cores))
    return Context(
        {model.name: model for model in models}, make_costs(seconds, cores, levels, machine.name), machine
    )


def linear_context(
    work_core_s: Sequence[float],
    *,
    macs: Sequence[int] | None = None,
    qos_s: float = 0.010,
    cores: Sequence[int] = tuple(range(1, 9)),
    machine: Machine | None = None,
) -> Context:
    """Return the context of one model, "net", whose layers speed up linearly."""
    model = make_model(macs=macs or [1] * len(work_core_s), qos_s=qos_s)
    return make_context({"net": linear_seconds(work_core_s, cores)}, [model], cores=cores, machine=machine)


def pending(query_id: int, model: Model, arrival_s: float = 0.0, next_layer: int = 0) -> Pending:
    """Return a waiting query."""
    return Pending(Query(query_id, model.name, arrival_s, model.qos_s), next_layer)


def running(
    query_id: int, model: Model, cores: int, *, start: int = 0, target_cores: int | None = None
) -> Running:
    """Return a query whose remaining layers run as one block, all in version 0."""
    block = LayerBlock(model.name, start, len(model.layers))
    return Running(
        Query(query_id, model.name, 0.0, model.qos_s),
        block,
        (0,) * len(block),
        cores,
        target_cores or cores,
        cores,
        0.0,
    )


def snapshot(
    free_cores: int,
    waiting: Sequence[Pending] = (),
    runs: Sequence[Running] = (),
    *,
    time_s: float = 0.0,
    pressure: float = 0.0,
    progress: Mapping[int, int] | None = None,
    gone: Sequence[QueryRecord] = (),
    resident: Collection[str] = (),
    load: LoadUnderWay | None = None,
) -> Snapshot:
    """Return what a policy sees; no layer of a running block has ended unless `progress` says so.

    `gone` are the records of queries that ended since the last decision.
    """
    ended = {run.query.id: 0 for run in runs} | dict(progress or {})
    return Snapshot(time_s, free_cores, pressure, waiting, runs, ended, gone, resident, load)


def served(query_id: int, model: Model, end_s: float, arrival_s: float = 0.0) -> QueryRecord:
    """Return the record of a query that was served in one block without a conflict."""
    query = Query(query_id, model.name, arrival_s, model.qos_s)
    return QueryRecord(query, Ending.SERVED, arrival_s, end_s, 1, 0, end_s - arrival_s)


class FakeBackend:
    """Virtual time without contention: each layer takes its time in the table at level 0.

    `pressure` is the part of the cores that is busy. At `close_s` the run is cut off.
    """

    def __init__(self, context: Context, queries: Iterable[Query], close_s: float | None = None) -> None:
        self._context = context
        self._cores = context.machine.cores
        self._now_s = 0.0
        self._sequence = 0
        self._due: list[tuple[float, int, int, Event | int]] = []
        self._blocks: dict[int, Allocation] = {}
        self._resizes: dict[int, Resize] = {}
        self._yields: set[int] = set()
        self._progress: dict[int, int] = {}
        for query in queries:
            self._push(query.arrival_s, 1, Arrival(query.arrival_s, query))
        if close_s is not None:
            self._push(close_s, 3, Closed(close_s))

    def do(self, command: Command) -> None:
        match command:
            case Load(model=model):
                assert self._context.memory is not None
                end_s = self._now_s + self._context.memory.load_s[model]
                self._push(end_s, 0, Loaded(end_s, model))
            case Allocation(query_id=query_id):
                self._blocks[query_id] = command
                self._progress[query_id] = 0
                self._run_layer(query_id)
            case Resize(query_id=query_id):
                before = self._resizes.get(query_id)
                versions = command.versions or (before.versions if before else None)
                self._resizes[query_id] = Resize(query_id, command.cores, versions)
            case Yield(query_id=query_id):
                self._yields.add(query_id)
            case Wake(time_s=time_s):
                self._push(time_s, 2, Woken(time_s))

    def wait(self) -> Event | None:
        while self._due:
            self._now_s, _, _, item = heapq.heappop(self._due)
            event = self._end_layer(item) if isinstance(item, int) else item
            if isinstance(event, Closed):
                self._due.clear()
            if event is not None:
                return event
        return None

    def pressure(self) -> float:
        return sum(block.cores for block in self._blocks.values()) / self._cores

    def progress(self) -> Mapping[int, int]:
        return self._progress

    def _push(self, time_s: float, priority: int, item: Event | int) -> None:
        self._sequence += 1
        heapq.heappush(self._due, (time_s, priority, self._sequence, item))

    def _run_layer(self, query_id: int) -> None:
        allocation, ended = self._blocks[query_id], self._progress[query_id]
        costs = self._context.costs
        layer, version = allocation.block.start + ended, allocation.versions[ended]
        column = costs.core_index(allocation.cores)
        name = self._context.costs_name(allocation.block.model, 1 + len(allocation.others))
        seconds = costs.model(name).seconds[layer, version, column, 0]
        self._push(self._now_s + float(seconds), 0, query_id)

    def _end_layer(self, query_id: int) -> Event | None:
        allocation = self._blocks[query_id]
        self._progress[query_id] += 1
        resize = self._resizes.pop(query_id, None)
        if self._progress[query_id] == len(allocation.block) or query_id in self._yields:
            self._yields.discard(query_id)
            del self._blocks[query_id]
            return BlockEnd(self._now_s, query_id, allocation.block.start + self._progress.pop(query_id))
        if resize is not None:
            versions = resize.versions or allocation.versions
            self._blocks[query_id] = replace(allocation, versions=versions, cores=resize.cores)
        self._run_layer(query_id)
        return Resized(self._now_s, query_id, resize.cores) if resize is not None else None


def run_to_end(policy: Policy, context: Context, queries: Iterable[Query]) -> list[QueryRecord]:
    """Return the records of a whole run on the fake backend."""
    return list(serve(Dispatcher(policy, context), FakeBackend(context, queries)))


@lru_cache(maxsize=64)
def random_context(seed: int, *, cores: int = 8, core_unit: int = 1) -> Context:
    """Return two models of random times: 3 versions, 3 levels, tables where more cores may be slower."""
    rng = np.random.default_rng(seed)
    counts = tuple(range(core_unit, cores + 1, core_unit))
    models = [
        make_model("small", rng.integers(0, 9, 5).tolist(), qos_s=0.010),
        make_model("large", rng.integers(0, 9, 9).tolist(), qos_s=0.030),
    ]
    seconds = {}
    for model in models:
        shape = (len(model.layers), 3, len(counts), 3)
        work = (
            rng.uniform(0.2, 2.0, shape[:2])[:, :, None, None] * model.qos_s * core_unit / len(model.layers)
        )
        slowdown = 1 + rng.uniform(0, 2, shape[:2])[:, :, None, None] * np.array([0.0, 0.5, 1.0])
        seconds[model.name] = (
            work / np.array(counts)[None, None, :, None] * slowdown * rng.uniform(0.8, 1.25, shape)
        )
    machine = make_machine(cores, core_unit)
    return make_context(seconds, models, cores=counts, levels=(0.0, 0.5, 1.0), machine=machine)


def random_queries(context: Context, count: int, seed: int, gap_s: float = 0.004) -> list[Query]:
    """Return queries with exponential gaps over the models of a context."""
    rng = np.random.default_rng(seed)
    models = list(context.models.values())
    arrivals = rng.exponential(gap_s, count).cumsum().tolist()
    noise_index = rng.integers(len(models), size=count).tolist()
    return [
        Query(number, models[pick].name, arrival_s, models[pick].qos_s)
        for number, (pick, arrival_s) in enumerate(zip(noise_index, arrivals, strict=True))
    ]
