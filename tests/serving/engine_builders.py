"""Engines without TVM: models of Python kernels, and a gang whose layers end on command."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from builders import linear_context

from veltair.machine.gang import BlockRun, Grant
from veltair.machine.interference import ObservedSlowdown
from veltair.machine.placement import spread
from veltair.machine.topology import Machine
from veltair.serving.engine import Engine, Sample
from veltair.serving.policy import Context

ZERO = Sample((np.zeros(1, np.float32),), (np.ones(1, np.float32),))
NEVER_S = 1000.0


class Tensor:
    """An output whose answer is always 1."""

    def numpy(self) -> Any:
        """Return it."""
        return np.ones(1, np.float32)


class PythonModel:
    """A model whose layers call Python functions; it counts its instances."""

    def __init__(self, kernels: Sequence[Callable[[], object]]) -> None:
        self.kernels = kernels
        self.instances = 0

    def instance(self) -> Any:
        """Return room for one query: here, itself."""
        self.instances += 1
        return self

    @property
    def calls(self) -> list[list[tuple[Callable[[], object], tuple[()]]]]:
        """One version of each layer."""
        return [[(kernel, ())] for kernel in self.kernels]

    @property
    def outputs(self) -> list[Tensor]:
        """One output."""
        return [Tensor()]

    def set_inputs(self, samples: Any) -> None:
        """Take any samples."""


def python_context(core_ids: tuple[int, ...], layers: int, layer_s: float = 0.001) -> Context:
    """Return the context of "net" whose layers speed up linearly on these cores."""
    machine = Machine("toy", 1, (core_ids,), 2**19, 2**24, 1e11, 1e11, validated=False)
    return linear_context(
        [layer_s] * layers, cores=tuple(range(1, len(core_ids) + 1)), machine=machine, qos_s=10.0
    )


def python_engine(
    context: Context, kernels: Sequence[Callable[[], object]], drain_s: float = NEVER_S
) -> Engine:
    """Return an engine that serves "net" with these kernels, one a layer."""
    return Engine(
        {"net": PythonModel(kernels)},  # type: ignore[dict-item]
        [("net", ZERO)],
        {"net": 10.0},
        context.costs,
        context.machine,
        spread,
        ObservedSlowdown(),
        drain_s,
    )


class FakeGang:
    """Workers whose layers end when `end_layer` is called; it checks that no core is used twice."""

    def __init__(self, core_ids: Sequence[int]) -> None:
        self.blocks: dict[int, BlockRun] = {}
        self.adopted: dict[int, Grant] = {}

    def run(self, block: BlockRun) -> None:
        """Start a block on the cores of its grant."""
        self.blocks[block.query_id] = block
        self._adopt(block)

    def stop(self) -> None:
        """Nothing runs by itself."""

    def end_layer(self, query_id: int) -> None:
        """End a layer of a block, as a worker does."""
        block = self.blocks[query_id]
        block.ended_layers += 1
        block.layer_seconds.append(0.0015)
        if block.ended_layers == len(block.calls):
            del self.blocks[query_id], self.adopted[query_id]
            block.on_end(block, None)
        elif block.grant is not self.adopted[query_id]:
            self._adopt(block)
            block.on_resized(block, block.grant)

    def _adopt(self, block: BlockRun) -> None:
        self.adopted[block.query_id] = block.grant
        used = [core for grant in self.adopted.values() for core in grant.cores]
        assert len(set(used)) == len(used), f"cores used twice: {self.adopted}"
