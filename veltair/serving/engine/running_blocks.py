"""The blocks that run on real cores, and their progress."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.costs.table import CostTable
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import BlockRun, Grant, WorkerPool
from veltair.serving.loop.policy import Allocation

CANNOT_SHARE_CORES = (
    "a block is to share its cores with others, but workers of the engine are one a core and run one block "
    "at a time; simulate this policy, and measure what it stands for as a runtime of its own (rule "
    "`benchmarks_engine`: `onnxruntime default` lets all queries of a model share all cores)"
)


@dataclass(slots=True)
class RunningBlock:
    """A running block: its allocation, its run on the workers, and the grant that it began with."""

    allocation: Allocation
    run: BlockRun
    first_grant: Grant


def profiled_s(
    costs: CostTable, block: LayerBlock, versions: tuple[int, ...], cores: int
) -> tuple[float, float]:
    """Return what the layers of a block took together, alone and at the highest level, when profiled."""
    of, at = costs.model(block.model), costs.core_index(cores)
    seconds = of.seconds[np.arange(block.start, block.stop), versions, at]
    return float(seconds[:, 0].sum()), float(seconds[:, -1].sum())


def least_layer_s(costs: CostTable, allocation: Allocation) -> tuple[float, ...]:
    """Return how long each layer of a block takes at least by what it may draw of memory; () if all."""
    if allocation.dram_bytes_per_s is None:
        return ()
    block, at = allocation.block, costs.core_index(allocation.cores)
    moved = costs.model(block.model).traffic_bytes[
        np.arange(block.start, block.stop), allocation.versions, at, 0
    ]
    return tuple((moved / allocation.dram_bytes_per_s).tolist())


class Progress(Mapping[int, int]):
    """The ended layers of running blocks by query, read when asked for: most decisions do not ask."""

    def __init__(self, blocks: Mapping[int, RunningBlock], pool: WorkerPool) -> None:
        """Take the running blocks, which may change, and who runs them."""
        self._blocks, self._pool = blocks, pool

    def __getitem__(self, query_id: int) -> int:
        return self._pool.ended_layers(self._blocks[query_id].run)

    def __iter__(self) -> Iterator[int]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)


class WorkerStates:
    """What the leaders of running blocks say of themselves."""

    def __init__(self, pool: NativePool, core_ids: Sequence[int]) -> None:
        """Take the workers, and the cores that they are on."""
        self._states = pool.states
        self._indices = {core: index for index, core in enumerate(core_ids)}

    def ended_layers(self, block: BlockRun) -> int:
        """Return how many layers of a running block have ended."""
        return int(self._state(block).ended_layers)

    def layer_started_s(self, block: BlockRun) -> float:
        """Return when the current layer of a running block began; now, if the worker does not run it."""
        state = self._state(block)
        return 1e-9 * state.layer_started_ns if state.token else time.monotonic()

    def _state(self, block: BlockRun) -> Any:
        return self._states[self._indices[block.grant.cores[0]]]
