"""Tiny machines, models and cost tables whose times can be worked by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from veltair.compiler.frontend.model import Layer, LayerBlock, Model
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.policy import Allocation, Answer, Context, Snapshot
from veltair.serving.loop.query import Query


def machine(cores: int = 4) -> Machine:
    """Return a machine of one cache group with 100 bytes of L3 and 100 bytes/s of DRAM bandwidth."""
    return Machine(
        name="toy",
        core_unit=1,
        cache_groups=(tuple(range(cores)),),
        l2_bytes=1,
        l3_bytes=100,
        core_peak_flops=1.0,
        dram_bytes_per_s=100.0,
        validated=False,
    )


@dataclass(frozen=True)
class Cost:
    """One layer in one version: seconds alone on one core, on c cores a c-th of it.

    At pressure 1 it takes `slowdown` times as long. `dram_share` is its DRAM demand over the toy
    machine's bandwidth on every core count, `footprint_bytes` its L3 share in percent.
    """

    seconds: float
    slowdown: float = 1.0
    dram_share: float = 0.0
    footprint_bytes: float = 0.0


def cost_table(
    models: Mapping[str, Sequence[Sequence[Cost]]],
    cores: Sequence[int] = (1, 2, 4),
    factors: Sequence[float] = (1.0,),
    levels: Sequence[float] = (0.0, 1.0),
) -> CostTable:
    """Return the table of models given as layers x versions; each cell has one repeat for each factor.

    Every level above 0 costs the full slowdown.
    """
    rows = [
        (
            name,
            layer,
            version,
            count,
            level,
            repeat,
            factor * cost.seconds / count * (cost.slowdown if level else 1.0),
            cost.dram_share * 100.0 * cost.seconds / count,
            cost.footprint_bytes,
        )
        for name, layers in models.items()
        for layer, versions in enumerate(layers)
        for version, cost in enumerate(versions)
        for count in cores
        for level in levels
        for repeat, factor in enumerate(factors)
    ]
    return CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "toy")


def context(
    models: Mapping[str, Sequence[Sequence[Cost]]],
    cores: Sequence[int] = (1, 2, 4),
    factors: Sequence[float] = (1.0,),
) -> Context:
    """Return models, their table and a machine with the largest of the core counts."""
    served = {
        name: Model(name, tuple(Layer(f"{name}{index}", "s", 1) for index in range(len(layers))), 100.0)
        for name, layers in models.items()
    }
    return Context(served, cost_table(models, cores, factors), machine(max(cores)))


def trace(*arrivals: tuple[float, str]) -> list[Query]:
    """Return queries 0, 1, … of these arrival times and models, with a target of 100 s."""
    return [Query(index, model, arrival_s, 100.0) for index, (arrival_s, model) in enumerate(arrivals)]


def allocation(query_id: int, model: str, layers: tuple[int, int], cores: int) -> Allocation:
    """Start layers [start, stop) in version 0."""
    start, stop = layers
    return Allocation(query_id, LayerBlock(model, start, stop), (0,) * (stop - start), cores)


@dataclass
class Greedy:
    """Starts pending queries, oldest first, in blocks of `block` layers on `cores` cores each."""

    context: Context
    cores: int = 1
    block: int = 1000

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Allocate while cores are free."""
        free, answers = snapshot.free_cores, []
        for pending in snapshot.pending:
            if free < self.cores:
                break
            free -= self.cores
            layers = len(self.context.models[pending.query.model].layers)
            stop = min(layers, pending.next_layer + self.block)
            answers.append(
                allocation(pending.query.id, pending.query.model, (pending.next_layer, stop), self.cores)
            )
        return list(answers)
