"""Engines without TVM: models of Python kernels, and workers whose layers end on command."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.builders import linear_context
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.topology.placement import spread
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import (
    Adopted,
    BlockRun,
    Ended,
    Grant,
    Launch,
    Notice,
    QueryBuffers,
    Runnable,
)
from veltair.serving.engine.engine import Engine, Sample
from veltair.serving.loop.policy import Context

ZERO = Sample((np.zeros(1, np.float32),), (np.ones(1, np.float32),))
NEVER_S = 1000.0


class PythonModel:
    """A model whose layers call Python functions, one version each; it counts its instances."""

    def __init__(self, kernels: Sequence[Callable[[], object]]) -> None:
        self.calls = [[(kernel, ())] for kernel in kernels]
        self.instances = 0

    def instance(self) -> Any:
        """Return buffers for one query: here, itself."""
        self.instances += 1
        return self

    @property
    def inputs(self) -> list[Any]:
        """One input."""
        return [np.zeros(1, np.float32)]

    @property
    def outputs(self) -> list[Any]:
        """One output, whose answer is always 1."""
        return [np.ones(1, np.float32)]


def python_context(core_ids: tuple[int, ...], layers: int, layer_s: float = 0.001) -> Context:
    """Return the context of "net" whose layers speed up linearly on these cores."""
    machine = Machine("toy", 1, (core_ids,), 2**19, 2**24, 1e11, 1e11, validated=False)
    return linear_context(
        [layer_s] * layers, cores=tuple(range(1, len(core_ids) + 1)), machine=machine, qos_s=10.0
    )


def python_engine(
    context: Context,
    kernels: Sequence[Callable[[], object]],
    launch: Launch,
    drain_s: float = NEVER_S,
) -> Engine:
    """Return an engine that serves "net" with these kernels, one a layer."""
    return Engine(
        {"net": PythonModel(kernels)},
        [("net", ZERO)],
        {"net": 10.0},
        context.costs,
        context.machine,
        spread,
        ObservedSlowdown(),
        drain_s,
        launch,
    )


@dataclass
class FakeBuffers:
    """A query's buffers, and how many layers of its block have ended."""

    runnable: Any
    ended_layers: int = 0
    layer_seconds: Sequence[float] = ()


class FakePool:
    """Workers whose layers end when `end_layer` is called; it checks that no core is used twice."""

    def __init__(self, core_ids: Sequence[int]) -> None:
        self.blocks: dict[int, BlockRun] = {}
        self.adopted: dict[int, Grant] = {}
        self.notices: list[Notice] = []
        self.yielding: set[int] = set()

    def bind(self, runnable: Runnable, name: str) -> QueryBuffers:
        """Return a query's buffers as blocks name them."""
        return FakeBuffers(runnable)

    def run(self, block: BlockRun) -> None:
        """Start a block on the cores of its grant."""
        self.blocks[block.query_id] = block
        block.buffers.ended_layers = 0  # type: ignore[attr-defined]
        self._adopt(block)

    def resize(self, block: BlockRun, grant: Grant) -> None:
        """Grant a running block other cores."""
        block.grant = grant

    def yield_block(self, block: BlockRun) -> None:
        """Let a block end at its next layer end."""
        self.yielding.add(block.query_id)

    def wait(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what has happened."""
        notices, self.notices = self.notices, []
        return notices

    def poke(self) -> None:
        """Nobody sleeps."""

    def ended_layers(self, block: BlockRun) -> int:
        """Return how many layers of a block have ended."""
        ended: int = block.buffers.ended_layers  # type: ignore[attr-defined]
        return ended

    def layer_started_s(self, block: BlockRun) -> float:
        """Return the time: no layer ever takes any."""
        return time.monotonic()

    def stop(self, timeout_s: float = 0.0) -> int:
        """Nothing runs by itself."""
        return 0

    def end_layer(self, query_id: int) -> None:
        """End a layer of a block, as a worker does."""
        block = self.blocks[query_id]
        ended = self.ended_layers(block) + 1
        block.buffers.ended_layers = ended  # type: ignore[attr-defined]
        if ended == block.stop - block.start or query_id in self.yielding:
            self.yielding.discard(query_id)
            del self.blocks[query_id], self.adopted[query_id]
            self.notices.append(Ended(block, None, ended, time.monotonic(), 0.0015 * ended, 0))
        elif block.grant is not self.adopted[query_id]:
            self._adopt(block)
            self.notices.append(Adopted(block, block.grant, time.monotonic()))

    def _adopt(self, block: BlockRun) -> None:
        self.adopted[block.query_id] = block.grant
        used = [core for grant in self.adopted.values() for core in grant.cores]
        assert len(set(used)) == len(used), f"cores used twice: {self.adopted}"
