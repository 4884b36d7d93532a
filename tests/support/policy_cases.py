"""Every policy with what it must be told, contexts whose versions have traffic, and a backend that audits."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
import pandas as pd

from tests.support.builders import FakeBackend, random_context
from veltair.compiler.frontend.model import Model
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.backend import BlockEnd, Closed, Command, Event, Resized
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Context, Policy, Resize
from veltair.serving.loop.query import Query, QueryRecord

# By the name in figures: the import path, and options that no preset has.
POLICIES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "FcfsMin": ("baselines.fcfs_min:FcfsMin", {}),
    "FcfsAll": ("baselines.fcfs_all:FcfsAll", {}),
    "EdfMin": ("baselines.edf_min:EdfMin", {}),
    "PreemptiveEdf": ("baselines.preemptive_edf:PreemptiveEdf", {}),
    "FixedBlocks": ("baselines.fixed_blocks:FixedBlocks", {"layers": 3}),
    "LayerWise": ("baselines.layer_wise:LayerWise", {}),
    "Planaria": ("baselines.planaria:Planaria", {}),
    "Planaria-AuRORA": ("baselines.planaria:Planaria", {"reshare_s": 0.001}),
    "Planaria-aware": ("baselines.planaria:PlanariaAware", {}),
    "Fixed-v1": ("baselines.fixed_version:FixedVersionBlocks", {"version": 1}),
    "Fixed-v1 elastic": ("baselines.fixed_version:FixedVersionElastic", {"version": 1}),
    "Streams-2": ("baselines.streams:Streams", {"streams": 2}),
    "PREMA": ("baselines.prema:Prema", {"period_s": 0.0005}),
    "PREMA, two priorities": ("baselines.prema:Prema", {"period_s": 0.0005, "priorities": {"small": 9.0}}),
    "Static": ("baselines.static:Static", {"shares": {"large": 2.0}}),
    "Static-MIG": ("baselines.static:Static", {"sizes": "mig"}),
    "PARTIES": (
        "baselines.parties:Parties",
        {"window_s": 0.01, "warm_up_s": 0.02, "freeze_s": 0.02},
    ),
    "AI-MT": ("baselines.ai_mt:AiMt", {}),
    "AI-MT, preferred": ("baselines.ai_mt:AiMt", {"pairing": "preferred", "memory_share": 0.3}),
    "DART": ("baselines.dart:Dart", {}),
    "DART-2": ("baselines.dart:Dart", {"nodes": 2}),
    "Clockwork-2": ("baselines.clockwork:Clockwork", {"executors": 2}),
    "Packrat": ("baselines.packrat:Packrat", {}),
    "DREAM": ("baselines.dream:Dream", {}),
    "ElasticRoom": ("baselines.elastic_room:ElasticRoom", {}),
    "MoCA": ("baselines.moca:Moca", {}),
    "MoCA, two priorities": ("baselines.moca:Moca", {"groups": 2, "priorities": {"small": 4.0}}),
    "Oversubscribed": ("baselines.oversubscribed:Oversubscribed", {}),
    "Oversubscribed, best": ("baselines.oversubscribed:Oversubscribed", {"threads": "best", "callers": 3}),
    "Veltair-AS": ("veltair.serving.policies.adaptive:VeltairAS", {}),
    "Veltair-AC": ("veltair.serving.policies.adaptive:VeltairAC", {}),
    "Veltair-FULL": ("veltair.serving.policies.adaptive:VeltairFULL", {}),
    "Lookahead": ("veltair.serving.policies.lookahead:Lookahead", {}),
    "Lookahead, no pauses": ("veltair.serving.policies.lookahead:Lookahead", {"pauses": False}),
    "Lookahead, no drops": ("veltair.serving.policies.lookahead:Lookahead", {"drop_late": "never"}),
}


@lru_cache(maxsize=256)
def traffic_context(
    seed: int,
    *,
    cores: int = 8,
    core_unit: int = 1,
    time_scale: float = 1.0,
    factors: tuple[float, ...] = (1.0,),
) -> Context:
    """Return the models of `random_context` with random traffic and a repeat for each of the factors.

    All their times are scaled by `time_scale`.
    """
    plain = random_context(seed, cores=cores, core_unit=core_unit)
    rows = plain.costs.repeats
    moved_s = np.random.default_rng(seed).uniform(0, 0.001, len(rows)) * time_scale
    rows = rows.assign(traffic_bytes=moved_s * plain.machine.dram_bytes_per_s)
    repeats = [
        rows.assign(repeat=repeat, seconds=rows["seconds"] * factor * time_scale)
        for repeat, factor in enumerate(factors)
    ]
    models = {
        name: Model(name, model.layers, model.qos_s * time_scale) for name, model in plain.models.items()
    }
    costs = CostTable(pd.concat(repeats, ignore_index=True), plain.machine.name)
    return Context(models, costs, plain.machine)


def scaled_options(options: Mapping[str, object], time_scale: float) -> dict[str, object]:
    """Return the options with those that are seconds, by their names, scaled."""
    return {
        name: value * time_scale if name.endswith("_s") and isinstance(value, float) else value
        for name, value in options.items()
    }


def scaled_queries(queries: Iterable[Query], time_scale: float) -> list[Query]:
    """Return the queries with arrivals and targets scaled."""
    return [
        query._replace(arrival_s=query.arrival_s * time_scale, qos_s=query.qos_s * time_scale)
        for query in queries
    ]


class Auditor(FakeBackend):
    """Keeps its own account of the cores that are held, from the commands alone.

    `core_s` is their integral over time; those that are shared count as held, all of them if they are more.
    Raises AssertionError as soon as more are held than there are, or some beside shared ones.
    """

    def __init__(self, context: Context, queries: Iterable[Query], close_s: float | None = None) -> None:
        super().__init__(context, queries, close_s)
        self.core_s = 0.0
        self._held: dict[int, tuple[int, int]] = {}
        self._shared: dict[int, int] = {}
        self._since_s = 0.0
        self._all_cores = context.machine.cores

    def do(self, command: Command) -> None:
        super().do(command)
        match command:
            case Allocation(query_id=query_id, cores=cores, shares_cores=True):
                self._shared[query_id] = cores
                assert not self._held
            case Allocation(query_id=query_id, cores=cores):
                self._hold(query_id, cores, cores)
            case Resize(query_id=query_id, cores=cores):
                self._hold(query_id, self._held[query_id][0], cores)

    def wait(self) -> Event | None:
        event = super().wait()
        if event is not None:
            self.core_s += self._busy() * (event.time_s - self._since_s)
            self._since_s = event.time_s
        if isinstance(event, BlockEnd):
            (self._shared if event.query_id in self._shared else self._held).pop(event.query_id)
        elif isinstance(event, Resized):
            self._hold(event.query_id, event.cores, self._held[event.query_id][1])
        elif isinstance(event, Closed):
            self._held.clear()
            self._shared.clear()
        return event

    def _hold(self, query_id: int, cores: int, target: int) -> None:
        self._held[query_id] = cores, target
        assert self._busy() <= self._all_cores and not self._shared

    def _busy(self) -> int:
        held = sum(max(cores, target) for cores, target in self._held.values())
        return held + min(sum(self._shared.values()), self._all_cores)


def audited(policy: Policy, context: Context, queries: Iterable[Query]) -> tuple[list[QueryRecord], Auditor]:
    """Return the records of a whole run, and who audited it."""
    auditor = Auditor(context, queries)
    return list(serve(Dispatcher(policy, context), auditor)), auditor
