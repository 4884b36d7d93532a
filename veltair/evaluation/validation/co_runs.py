"""Pairs of models side by side on disjoint cores of this machine, timed beside each other and alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd

from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.placement import Placement
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import BlockRun, Ended, Grant, QueryBuffers, WorkerPool

PAIRS, ROUNDS = 24, 7
ALONE, BESIDE = "alone", "beside"
COLUMNS = ("corun", "side", "model", "versions", "cores", "round", "kind", "seconds")


@dataclass(frozen=True, slots=True)
class CoRunModel:
    """A model that runs whole, over and over, on `cores` cores; `versions` has one entry a layer.

    `choice` says how the versions were chosen: the most local ones, the fastest alone, the most parallel.
    """

    model: str
    choice: str
    versions: tuple[int, ...]
    cores: int

    def __post_init__(self) -> None:
        if not self.versions or self.cores < 1:
            raise ValueError(
                f"tenant {self.model}: {len(self.versions)} versions on {self.cores} cores; give a version "
                "for each layer, and a core at least"
            )

    def __str__(self) -> str:
        return f"{self.model} ({self.choice}, {self.cores} cores)"


Pair = tuple[CoRunModel, CoRunModel]


def tenants(tables: Tables) -> list[CoRunModel]:
    """Return each profiled model in three choices of versions, on a half and on a quarter of the cores.

    Choices that come to the same versions are one tenant. Raises ValueError where no two tenants fit beside
    each other, that is on one core or where only larger counts were profiled.
    """
    counts = _counts(tables.machine, tables.costs)
    if not counts:
        raise ValueError(
            f"{tables.machine.name} has {tables.machine.cores} cores, of which {tables.costs.cores} were "
            "profiled: no two models fit beside each other; co-runs take 2 cores or more, and a profile of "
            "half of them (`profile.cores`)"
        )
    found: dict[tuple[str, tuple[int, ...], int], CoRunModel] = {}
    for model, layers in tables.tilings.items():
        choices = {
            "solo": tuple(map(int, tables.costs.model(model).solo)),
            "local": (0,) * len(layers),
            "parallel": tuple(len(versions) - 1 for versions in layers),
        }
        for cores in counts:
            for choice, versions in choices.items():
                found.setdefault((model, versions, cores), CoRunModel(model, choice, versions, cores))
    return list(found.values())


def draw_pairs(candidates: Sequence[CoRunModel], cores: int, seed: int, count: int = PAIRS) -> list[Pair]:
    """Return up to `count` different pairs of tenants that fit on so many cores, drawn with a seed.

    A tenant may run beside another one of its kind.
    """
    pairs = [pair for pair in combinations_with_replacement(candidates, 2) if _cores(pair) <= cores]
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [pairs[place] for place in order[:count]]


def measure_pairs(
    pool: WorkerPool,
    models: Mapping[str, LoadedModel],
    pairs: Sequence[Pair],
    machine: Machine,
    place: Placement,
    rounds: int = ROUNDS,
) -> pd.DataFrame:
    """Return the seconds of each tenant of each pair, alone and beside the other, with `COLUMNS`.

    `corun` numbers the pairs, `side` is 0 or 1. In a round each pair runs alone, alone, and together:
    rounds are outermost, so that a disturbance of seconds spreads over all pairs. Raises the error of a
    kernel.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds of co-runs; give 1 or more")
    buffers = _Buffers(pool, models)
    blocks = [_blocks(pair, buffers, machine, place) for pair in pairs]
    rows = [
        (corun, side, tenant.model, tenant.choice, tenant.cores, number, kind, seconds)
        for number in range(-1, rounds)  # the first one warms up
        for corun, pair in enumerate(pairs)
        for side, kind, seconds in _round(pool, blocks[corun])
        for tenant in pair[side : side + 1]
        if number >= 0
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def beside_each_other(pool: WorkerPool, blocks: Sequence[BlockRun]) -> list[list[float]]:
    """Run blocks over and over until each has ended once; return the seconds of the runs of each.

    A block starts again as soon as it ends, so every run that counts has the others beside it all the time.
    The runs that the end finds under way do not count. The query ids of the blocks are 0, 1, ...
    """
    seconds: list[list[float]] = [[] for _ in blocks]
    for block in blocks:
        pool.run(block)
    under_way = len(blocks)
    while under_way:
        for end in _ends(pool):
            done = all(seconds)
            if done:
                under_way -= 1
                continue
            seconds[end.block.query_id].append(end.busy_s)
            if all(seconds):
                under_way -= 1
            else:
                pool.run(end.block)
    return seconds


class _Buffers:
    """A query's buffers of each model and side, bound once."""

    def __init__(self, pool: WorkerPool, models: Mapping[str, LoadedModel]) -> None:
        self._pool, self._models = pool, models
        self._known: dict[tuple[str, int], QueryBuffers] = {}

    def of(self, model: str, side: int) -> QueryBuffers:
        """Return the buffers of a model on a side, with a sample in them."""
        key = (model, side)
        if key not in self._known:
            self._known[key] = self._pool.bind(self._models[model].filled_instance(), model)
        return self._known[key]


def _blocks(pair: Pair, buffers: _Buffers, machine: Machine, place: Placement) -> list[BlockRun]:
    free, blocks = set(machine.core_ids), []
    for side, tenant in enumerate(pair):
        chosen = place(tenant.cores, free, machine, ())
        free.difference_update(chosen)
        grant = Grant(chosen, tenant.versions)
        blocks.append(BlockRun(side, buffers.of(tenant.model, side), 0, len(tenant.versions), grant))
    return blocks


def _round(pool: WorkerPool, blocks: Sequence[BlockRun]) -> Iterator[tuple[int, str, float]]:
    for side, block in enumerate(blocks):
        pool.run(block)
        yield from ((side, ALONE, end.busy_s) for end in _ends(pool))
    for side, times in enumerate(beside_each_other(pool, blocks)):
        yield from ((side, BESIDE, seconds) for seconds in times)


def _ends(pool: WorkerPool) -> list[Ended]:
    """Return the next ends of blocks, one at least. Raises the error of the first that failed."""
    found: list[Ended] = []
    while not found:
        found = [notice for notice in pool.wait(None) if isinstance(notice, Ended)]
    for end in found:
        if end.error is not None:
            raise end.error
    return found


def _counts(machine: Machine, costs: CostTable) -> list[int]:
    """Return the counts of cores that tenants get: about a half and a quarter of the machine."""
    half = [cores for cores in costs.cores if 2 * cores <= machine.cores]
    quarter = [cores for cores in costs.cores if 4 * cores <= machine.cores]
    return sorted({counts[-1] for counts in (half, quarter) if counts})


def _cores(pair: Pair) -> int:
    return pair[0].cores + pair[1].cores
