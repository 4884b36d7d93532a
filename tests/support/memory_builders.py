"""Contexts with batches and bounded memory, and a policy that makes any use of both that it may."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tests.support.random_policies import Capricious
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.costs.cost_model import MachineCostModel
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.policy import (
    Allocation,
    Answer,
    Context,
    Evict,
    Load,
    MemoryLimits,
    Snapshot,
    Yield,
)


def with_batches(context: Context, factors: Mapping[int, float], models: Sequence[str] = ()) -> Context:
    """Return the context with batches: one of `queries` takes so many times as long as a query.

    `models` are those that have batches; none named: all.
    """
    rows, batches = [context.costs.repeats], {}
    for model in models or context.models:
        batches[model] = {queries: f"{model} x{queries}" for queries in factors}
        of_one = rows[0][rows[0]["model"] == model]
        rows += [
            of_one.assign(model=f"{model} x{queries}", seconds=of_one["seconds"] * factor)
            for queries, factor in factors.items()
        ]
    costs = CostTable(pd.concat(rows, ignore_index=True), context.costs.machine)
    return replace(context, costs=costs, batches=batches)


def batched_cost_model(cost_model: MachineCostModel, context: Context) -> MachineCostModel:
    """Return the cost model with that of each batch: the computing of as many queries, and their tilings."""
    layers = dict(cost_model.layers)
    for model, built in context.batches.items():
        for queries, name in built.items():
            layers[name] = tuple(
                tuple(replace(one, compute_s=queries * one.compute_s) for one in versions)
                for versions in layers[model]
            )
    return replace(cost_model, layers=layers)


def with_memory(context: Context, budget_bytes: int, sizes: Mapping[str, int], bytes_per_s: float) -> Context:
    """Return the context with bounded memory."""
    load_s = {name: size / bytes_per_s for name, size in sizes.items()}
    return replace(context, memory=MemoryLimits(budget_bytes, sizes, load_s))


@dataclass
class CapriciousLoader(Capricious):
    """`Capricious` for batches and bounded memory: loads, evicts and serves queries together as is drawn."""

    loads_models = True

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Return answers that are drawn, all for models that are resident."""
        self.resident = set(snapshot.resident)
        self.seen.append((tuple(snapshot.resident), snapshot.load))
        waiting = [entry for entry in snapshot.pending if entry.query.model in self.resident]
        shown = replace(snapshot, pending=waiting)
        answers = [
            answer
            for answer in super().allocate(shown)
            # What is drawn is for blocks of one query; those of several cannot yield.
            if not (isinstance(answer, Yield) and self._serves_several(snapshot, answer.query_id))
        ]
        answers = self._together(snapshot, answers)
        return [*answers, *self._memory(snapshot, answers)]

    def _serves_several(self, snapshot: Snapshot, query_id: int) -> bool:
        return any(run.query.id == query_id and run.others for run in snapshot.running)

    def _together(self, snapshot: Snapshot, answers: Sequence[Answer]) -> list[Answer]:
        """Return the answers with some whole blocks for several queries that nothing else is said about."""
        named = {getattr(answer, "query_id", None) for answer in answers}
        free = [entry for entry in snapshot.pending if entry.query.id not in named and not entry.next_layer]
        changed = []
        yielding = {answer.query_id for answer in answers if isinstance(answer, Yield)}
        for answer in answers:
            if isinstance(answer, Allocation) and answer.block.start == 0 and answer.query_id not in yielding:
                model = answer.block.model
                others = [entry.query.id for entry in free if entry.query.model == model]
                sizes = [size for size in self.context.batches.get(model, {}) if size <= 1 + len(others)]
                if sizes and self.random.random() < 0.7:
                    others = others[: self.random.choice(sizes) - 1]
                    free = [entry for entry in free if entry.query.id not in others]
                    block = LayerBlock(model, 0, len(self.context.models[model].layers))
                    answer = replace(  # noqa: PLW2901 # the same start, for more
                        answer, block=block, versions=self._versions(block), others=tuple(others)
                    )
            changed.append(answer)
        return changed

    def _memory(self, snapshot: Snapshot, answers: Sequence[Answer]) -> list[Answer]:
        limits = self.context.memory
        assert limits is not None
        starting = {answer.block.model for answer in answers if isinstance(answer, Allocation)}
        busy = starting | {run.block.model for run in snapshot.running}
        gone = [name for name in sorted(self.resident) if name not in busy and self.random.random() < 0.3]
        cold = sorted({entry.query.model for entry in snapshot.pending} - self.resident)
        if not busy and cold and snapshot.load is None:  # or it would wait for ever
            return [*(Evict(name) for name in sorted(self.resident)), Load(self.random.choice(cold))]
        stay = self.resident - set(gone)
        said: list[Answer] = [Evict(name) for name in gone]
        if snapshot.load is not None:
            return said
        held = sum(limits.model_bytes[name] for name in stay)
        fitting = [
            name
            for name, size in limits.model_bytes.items()
            if name not in stay and held + size <= limits.budget_bytes
        ]
        if fitting and self.random.random() < 0.5:
            said.append(Load(self.random.choice(fitting)))
        return said


def drawn_context(rng: np.random.Generator, context: Context) -> Context:
    """Return a context with batches and memory that hold one of two models, or both."""
    sizes = {name: int(rng.integers(1, 10)) for name in context.models}
    budget = int(rng.integers(max(sizes.values()), sum(sizes.values()) + 1))
    batched = with_batches(context, {2: 1.5, 3: 2.5})
    return with_memory(batched, budget, sizes, float(rng.choice([0.5, 5.0, 50.0])))
