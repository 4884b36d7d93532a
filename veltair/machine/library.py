"""A built model in memory: its kernels, its weights packed for each version, and room for queries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from veltair.compiler.build import CONSTANTS, LIBRARY, ModelPlan, VersionPlan, read_plan
from veltair.compiler.target import sleep_when_idle, spin_when_idle, use_all_cores

Call = tuple[Any, tuple[Any, ...]]


class LoadedModel:
    """A model whose kernels can be called. `packed_bytes` counts what all versions packed, the like once."""

    def __init__(self, folder: Path, *, spins: bool = False) -> None:
        """Load the library and pack the weights; `spins`: idle threads wait awake, nobody else needs a core.

        Raises LookupError if the model was not built there.
        """
        if not (folder / LIBRARY).is_file():
            raise LookupError(f"{folder} holds no built model; run rule `build`")
        # Before the first kernel, which packs weights: TVM reads both once.
        use_all_cores()
        (spin_when_idle if spins else sleep_when_idle)()
        self.plan: ModelPlan = read_plan(folder)
        self._module = tvm.runtime.load_module(str(folder / LIBRARY))
        self.packed_bytes = 0
        with np.load(folder / CONSTANTS) as archive:
            self._arguments = [
                self._constant_arguments(layer, archive) for layer in range(len(self.plan.layers))
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

    def _constant_arguments(self, layer: int, archive: Mapping[str, NDArray[Any]]) -> list[dict[int, Any]]:
        """Return the constant arguments of each version of a layer.

        What no version reads is not kept, and versions that pack alike share what they packed.
        """
        constants = {
            place: tvm.runtime.tensor(archive[str(number)])
            for place, (kind, number, _) in enumerate(self.plan.layers[layer].inputs)
            if kind == "constant"
        }
        known: dict[int, list[Any]] = {place: [] for place in constants}
        return [constants | self._pack(version, constants, known) for version in self.plan.of(layer)]

    def _pack(
        self, version: VersionPlan, constants: Mapping[int, Any], known: Mapping[int, list[Any]]
    ) -> dict[int, Any]:
        """Return the constants that a version wants in a layout of its own, by their places.

        `known` holds, by place, what earlier versions packed; what is equal is taken from there.
        """
        if not version.packer:
            return {}
        made = zip(version.packed, version.packed_shapes, strict=True)
        packed = [tvm.runtime.empty(shape, constants[place].dtype) for place, shape in made]
        self.kernel(version.packer)(*(constants[place] for place in version.packed), *packed)
        return {
            place: self._share(tensor, known[place])
            for place, tensor in zip(version.packed, packed, strict=True)
        }

    def _share(self, tensor: Any, known: list[Any]) -> Any:
        for other in known:
            if np.array_equal(tensor.numpy(), other.numpy()):
                return other
        known.append(tensor)
        self.packed_bytes += tensor.numpy().nbytes
        return tensor


class Instance:
    """The activations of one query, and every kernel call bound to them.

    `calls[layer][version]` is a kernel and its arguments. Activations that are no longer needed lend their
    memory to later ones of equal shape and dtype.
    """

    def __init__(self, model: LoadedModel) -> None:
        """Allocate the activations and bind the calls."""
        self.model = model
        self.inputs = [tvm.runtime.empty(value.shape, value.dtype) for value in model.plan.inputs]
        made = self._allocate(model.plan)
        self.outputs = [self._tensor(source, made) for source in model.plan.outputs]
        self.calls: list[list[Call]] = [
            [self._bind(layer, version, made) for version in range(len(model.plan.of(layer)))]
            for layer in range(len(model.plan.layers))
        ]

    def set_inputs(self, samples: Sequence[NDArray[Any]]) -> None:
        """Copy an array for each input in. Raises ValueError for too few, too many or other shapes."""
        for tensor, values in zip(self.inputs, samples, strict=True):
            tensor.copyfrom(values)

    def run(self, versions: Sequence[int]) -> list[NDArray[Any]]:
        """Run all layers on this thread's cores and return copies of the outputs."""
        for calls, version in zip(self.calls, versions, strict=True):
            kernel, arguments = calls[version]
            kernel(*arguments)
        return self.read_outputs()

    def read_outputs(self) -> list[NDArray[Any]]:
        """Return copies of the outputs."""
        return [tensor.numpy().copy() for tensor in self.outputs]

    def _bind(self, layer: int, version: int, made: list[list[Any]]) -> Call:
        plan = self.model.plan.layers[layer]
        constants = self.model.constants(layer, version)
        arguments = [
            constants[place] if source[0] == "constant" else self._tensor(source, made)
            for place, source in enumerate(plan.inputs)
        ]
        symbol = self.model.plan.of(layer)[version].symbol
        return self.model.kernel(symbol), (*arguments, *made[layer])

    def _tensor(self, source: tuple[str, int, int], made: Sequence[Sequence[Any]]) -> Any:
        kind, number, output = source
        return self.inputs[number] if kind == "input" else made[number][output]

    @staticmethod
    def _allocate(plan: ModelPlan) -> list[list[Any]]:
        last_use = {number: len(plan.layers) for kind, number, _ in plan.outputs if kind == "layer"}
        for reader, layer in enumerate(plan.layers):
            for kind, number, _ in layer.inputs:
                if kind == "layer":
                    last_use[number] = max(reader, last_use.get(number, reader))
        idle: dict[Any, list[Any]] = {}
        made: list[list[Any]] = []
        kinds = [list(zip(layer.outputs, layer.dtypes, strict=True)) for layer in plan.layers]
        for number in range(len(plan.layers)):
            made.append(
                [idle[like].pop() if idle.get(like) else tvm.runtime.empty(*like) for like in kinds[number]]
            )
            for done in range(number + 1):
                if last_use.get(done, done) == number:
                    for like, tensor in zip(kinds[done], made[done], strict=True):
                        idle.setdefault(like, []).append(tensor)
        return made
