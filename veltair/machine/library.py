"""A built model in memory: its kernels, its weights packed for each version, and room for queries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from veltair.compiler.build import CONSTANTS, LIBRARY, ModelPlan, VersionPlan, read_plan
from veltair.compiler.target import sleep_when_idle, use_all_cores

Call = tuple[Any, tuple[Any, ...]]


class LoadedModel:
    """A model whose kernels can be called. `packed_bytes` counts the weights of all versions, packed."""

    def __init__(self, folder: Path) -> None:
        """Load the library and pack the weights. Raises LookupError if the model was not built there."""
        if not (folder / LIBRARY).is_file():
            raise LookupError(f"{folder} holds no built model; run rule `build`")
        # Before the first kernel, which packs weights: TVM reads both once.
        use_all_cores()
        sleep_when_idle()
        self.plan: ModelPlan = read_plan(folder)
        self._module = tvm.runtime.load_module(str(folder / LIBRARY))
        with np.load(folder / CONSTANTS) as archive:
            self._constants = [tvm.runtime.tensor(archive[str(n)]) for n in range(len(archive.files))]
        self.packed_bytes = 0
        self._arguments = [
            [self._constant_arguments(layer, version) for version in self.plan.of(layer)]
            for layer in range(len(self.plan.layers))
        ]

    def instance(self) -> "Instance":
        """Return room for one query at a time."""
        return Instance(self)

    def kernel(self, symbol: str) -> Any:
        """Return a kernel of the library."""
        return self._module[symbol]

    def constants(self, layer: int, version: int) -> dict[int, Any]:
        """Return the constant arguments of a version of a layer by their places."""
        return self._arguments[layer][version]

    def _constant_arguments(self, layer: int, version: VersionPlan) -> dict[int, Any]:
        inputs = self.plan.layers[layer].inputs
        arguments = {
            place: self._constants[number]
            for place, (kind, number, _) in enumerate(inputs)
            if kind == "constant"
        }
        if version.packer:
            packed = [tvm.runtime.empty(shape, "float32") for shape in version.packed_shapes]
            self.kernel(version.packer)(*(arguments[place] for place in version.packed), *packed)
            arguments.update(zip(version.packed, packed, strict=True))
            self.packed_bytes += sum(tensor.numpy().nbytes for tensor in packed)
        return arguments


class Instance:
    """The activations of one query, and every kernel call bound to them.

    `calls[layer][version]` is a kernel and its arguments. Activations that are no longer needed lend their
    memory to later ones of equal shape.
    """

    def __init__(self, model: LoadedModel) -> None:
        """Allocate the activations and bind the calls."""
        self.model = model
        self.input = tvm.runtime.empty(model.plan.input_shape, "float32")
        made = self._allocate(model.plan)
        self.outputs = [
            self.input if kind == "input" else made[number][output]
            for kind, number, output in model.plan.outputs
        ]
        self.calls: list[list[Call]] = [
            [self._bind(layer, version, made) for version in range(len(model.plan.of(layer)))]
            for layer in range(len(model.plan.layers))
        ]

    def set_input(self, values: NDArray[np.float32]) -> None:
        """Copy a sample in."""
        self.input.copyfrom(values)

    def run(self, versions: Sequence[int]) -> list[NDArray[np.float32]]:
        """Run all layers on this thread's cores and return copies of the outputs."""
        for calls, version in zip(self.calls, versions, strict=True):
            kernel, arguments = calls[version]
            kernel(*arguments)
        return self.read_outputs()

    def read_outputs(self) -> list[NDArray[np.float32]]:
        """Return copies of the outputs."""
        return [tensor.numpy().copy() for tensor in self.outputs]

    def _bind(self, layer: int, version: int, made: list[list[Any]]) -> Call:
        plan = self.model.plan.layers[layer]
        constants = self.model.constants(layer, version)
        arguments = []
        for place, (kind, number, output) in enumerate(plan.inputs):
            if kind == "constant":
                arguments.append(constants[place])
            else:
                arguments.append(self.input if kind == "input" else made[number][output])
        symbol = self.model.plan.of(layer)[version].symbol
        return self.model.kernel(symbol), (*arguments, *made[layer])

    @staticmethod
    def _allocate(plan: ModelPlan) -> list[list[Any]]:
        last_use = {number: len(plan.layers) for kind, number, _ in plan.outputs if kind == "layer"}
        for reader, layer in enumerate(plan.layers):
            for kind, number, _ in layer.inputs:
                if kind == "layer":
                    last_use[number] = max(reader, last_use.get(number, reader))
        idle: dict[tuple[int, ...], list[Any]] = {}
        made: list[list[Any]] = []
        for number, layer in enumerate(plan.layers):
            made.append(
                [
                    idle[shape].pop() if idle.get(shape) else tvm.runtime.empty(shape, "float32")
                    for shape in layer.outputs
                ]
            )
            for done in range(number + 1):
                if last_use.get(done, done) == number:
                    for shape, tensor in zip(plan.layers[done].outputs, made[done], strict=True):
                        idle.setdefault(shape, []).append(tensor)
        return made
