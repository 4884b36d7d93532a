"""Recorded runs of random policies on servers, for tests of timelines and of what is drawn from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st

from tests.support.builders import make_context, make_model, random_queries
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.costs.block_costs import BlockCosts
from veltair.machine.topology.placement import PLACEMENTS
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.dispatcher import Dispatcher
from veltair.serving.loop.policy import (
    Allocation,
    Answer,
    Context,
    Rejection,
    Resize,
    Running,
    Snapshot,
    Wake,
    Yield,
)
from veltair.serving.loop.query import QueryRecord
from veltair.serving.loop.timeline import LIMIT, Recorder, Timeline, serve_recorded
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator

GROUPS = {1: (1, 1), 3: (1, 3), 8: (2, 4), 64: (16, 4)}


@lru_cache
def server_context(cores: int) -> Context:
    """Return two models on a machine of so many cores; times are exact in binary, so that ends coincide."""
    groups, size = GROUPS[cores]
    ids = tuple(tuple(range(group, cores, groups)) for group in range(groups))
    machine = Machine("server", 1, ids, 2**19, 2**24, 1e11, 1e11, validated=False)
    models = [make_model("small", (1, 1)), make_model("large", (1, 1, 1, 1))]
    assert all(len(group) == size for group in ids)
    counts = np.arange(1, cores + 1)
    seconds = {
        model.name: np.broadcast_to(
            2.0**-9 * (1 + 1 / counts)[None, None, :, None], (len(model.layers), 2, cores, 1)
        )
        for model in models
    }
    return make_context(seconds, models, cores=tuple(counts.tolist()), machine=machine)


@dataclass
class Whimsical:
    """Answers with all that is allowed, at random: blocks, resizes, yields, rejections, wakes."""

    context: Context
    rng: np.random.Generator
    free: int = field(init=False, default=0)

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Answer at random; a query is only left waiting if the policy will be called again."""
        self.free = snapshot.free_cores
        answers: list[Answer] = []
        for pending in snapshot.pending:
            if self.rng.random() < 0.1:
                answers.append(Rejection(pending.query.id, "whim"))
            elif self.free and self.rng.random() < 0.7:
                answers.append(self._start(pending.query.id, pending.query.model, pending.next_layer))
        for run in snapshot.running:
            if not run.yields:
                answers += self._change(run)
        return [*answers, Wake(snapshot.time_s + 0.01)] if snapshot.pending else answers

    def _start(self, query_id: int, model: str, first: int) -> Allocation:
        stop = int(self.rng.integers(first, len(self.context.models[model].layers))) + 1
        cores, wanted = (int(count) for count in self.rng.integers(1, self.free + 1, 2))
        self.free -= cores
        versions = tuple(self.rng.integers(2, size=stop - first).tolist())
        return Allocation(query_id, LayerBlock(model, first, stop), versions, cores, max(cores, wanted))

    def _change(self, run: Running) -> list[Answer]:
        yields: list[Answer] = [Yield(run.query.id)] if self.rng.random() < 0.2 else []
        if self.rng.random() < 0.5 or run.target_cores > run.cores:
            return yields
        cores = int(self.rng.integers(1, run.reserved_cores + self.free + 1))
        self.free -= max(0, cores - run.reserved_cores)
        versions = tuple(self.rng.integers(2, size=len(run.block)).tolist())
        return [Resize(run.query.id, cores, versions if self.rng.random() < 0.5 else None), *yields]


def recorded_run(
    seed: int,
    cores: int = 8,
    placement: str = "spread",
    limit: int = LIMIT,
    queries: int = 30,
    drain_s: float = 1.0,
) -> tuple[Timeline, list[QueryRecord]]:
    """Return the timeline and the records of a run of a whimsical policy."""
    context = server_context(cores)
    # Arrivals on a grid of the layers' times: many events at once.
    arrivals = [
        query._replace(arrival_s=round(query.arrival_s * 512) / 512)
        for query in random_queries(context, queries, seed)
    ]
    rng = np.random.default_rng(seed)
    simulator = Simulator(
        arrivals,
        context,
        noise_batches(arrivals, context, rng),
        drain_s=drain_s,
        costs=BlockCosts(start_s=2.0**-14, resize_s=2.0**-15, yield_s=2.0**-16),
    )
    recorder = Recorder(simulator, context, placement, limit=limit)
    records = list(serve_recorded(Dispatcher(Whimsical(context, rng), context), recorder))
    return recorder.timeline(), records


RUNS = {
    "seed": st.integers(0, 10_000),
    "cores": st.sampled_from(sorted(GROUPS)),
    "placement": st.sampled_from(sorted(PLACEMENTS)),
    "limit": st.sampled_from([1, 5, LIMIT]),
    "drain_s": st.sampled_from([0.0, 1.0]),
}
