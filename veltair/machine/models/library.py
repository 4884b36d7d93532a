"""A built model in memory: its kernels, its weights packed for each version, and buffers for queries."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import tvm
from numpy.typing import NDArray

from veltair.compiler.build.build import CONSTANTS, LIBRARY, ModelPlan, read_plan
from veltair.compiler.build.constants import MappedConstants
from veltair.compiler.frontend.samples import random_samples
from veltair.compiler.search.target import sleep_when_idle, spin_when_idle, use_all_cores
from veltair.machine.models.activations import Placed, place
from veltair.machine.models.buffers import lives_of
from veltair.machine.models.pages import anonymous

Call = tuple[Any, tuple[Any, ...]]
Versions = Sequence[Collection[int]]  # some versions of each layer

# Smaller arrays share pages of the allocator; larger ones have their own, which go back when they are freed.
SMALL_BYTES = 64 * 1024


class LoadedModel:
    """A model whose kernels can be called, with the weights of those versions that are loaded.

    Weights that a version wants in a layout of its own are packed when it is loaded; the others are read
    where they lie in the mapped file. Not to be called by two threads at once; instances are made and dropped
    while no load is under way.
    """

    def __init__(self, folder: Path, *, load: bool = True, spins: bool = False) -> None:
        """Load the library, and all versions unless `load` is false.

        `spins`: idle threads wait awake, for nobody else needs a core. Raises LookupError if the model was
        not built there, or by another version of this program.
        """
        if not (folder / LIBRARY).is_file():
            raise LookupError(f"{folder} holds no built model; run rule `build`")
        # Before the first kernel, which packs weights: TVM reads both once.
        use_all_cores()
        (spin_when_idle if spins else sleep_when_idle)()
        self.plan: ModelPlan = read_plan(folder)
        self._module = tvm.runtime.load_module(str(folder / LIBRARY))
        self._constants = MappedConstants(folder / CONSTANTS, self.plan.constants)
        self._mapped: dict[int, Any] = {}  # the constants that are read where they lie, by number
        # Where each constant is read, by layer and place: steps of an unrolled network share theirs.
        self._places: dict[int, list[tuple[int, int]]] = {}
        for layer in range(len(self.plan.layers)):
            for index, number in self._numbers(layer).items():
                self._places.setdefault(number, []).append((layer, index))
        self._arguments: dict[tuple[int, int], dict[int, Any]] = {}
        self._instances: WeakSet[Instance] = WeakSet()
        if load:
            self.load()

    @property
    def packed_bytes(self) -> int:
        """What the loaded versions have packed; what is alike counts once."""
        return self.held_bytes - sum(self.plan.constants[number].nbytes for number in self._mapped)

    @property
    def held_bytes(self) -> int:
        """What the loaded versions hold: what they packed, and constants that they read as they lie."""
        return _total_bytes(tensor for held in self._arguments.values() for tensor in held.values())

    def bytes_needed(self, versions: Versions | None = None) -> int:
        """Return what some versions, or all, hold once loaded: at most, for those that pack alike share."""
        read: set[int] = set()
        packed_bytes = 0
        for layer, version in self._numbered(versions):
            plan, numbers = self.plan.of(layer)[version], self._numbers(layer)
            for index, shape in zip(plan.packed, plan.packed_shapes, strict=True):
                packed_bytes += prod(shape) * np.dtype(self.plan.constants[numbers[index]].dtype).itemsize
            read.update(number for index, number in numbers.items() if index not in plan.packed)
        return packed_bytes + sum(self.plan.constants[number].nbytes for number in read)

    def load(self, versions: Versions | None = None) -> None:
        """Bring the weights of some versions of each layer, or of all, into memory.

        Those that are loaded stay as they are. An error leaves loaded what was loaded before.
        """
        wanted = [key for key in self._numbered(versions) if key not in self._arguments]
        layers = dict.fromkeys(layer for layer, _ in wanted)
        for number in (number for layer in layers for number in self._numbers(layer).values()):
            self._constants.expect(number)
        try:
            for layer, keys in groupby(wanted, key=itemgetter(0)):
                for key in keys:
                    self._arguments[key] = self._load(*key)
                self._drop_unread(layer)  # here, lest the whole file is in memory before the end
        except BaseException:
            self._forget(wanted)
            raise
        self._bind_anew(wanted)

    def release(self, versions: Versions | None = None) -> None:
        """Give back the memory of some versions of each layer, or of all. None of them may be running."""
        gone = [key for key in self._numbered(versions) if key in self._arguments]
        self._forget(gone)
        self._bind_anew(gone)

    def part(self, versions: Versions | None = None) -> "Part":
        """Return some versions of each layer, or all, as what a ModelMemory holds."""
        numbered = self._numbered(versions)
        layers = range(len(self.plan.layers))
        return Part(self, tuple(tuple(v for other, v in numbered if other == layer) for layer in layers))

    def filled_instance(self, placed: Placed | None = None) -> "Instance":
        """Return an instance whose inputs are random numbers, for measurements without a query.

        Memory as it comes may hold NaN and denormal numbers, which some kernels are slow on.
        """
        made = self.instance(placed)
        made.set_inputs(random_samples(self.plan.inputs, seed=0))
        return made

    def instance(self, placed: Placed | None = None) -> "Instance":
        """Return buffers for one query at a time; `placed` is where its activations lie, if not as ever."""
        made = Instance(self, placed)
        self._instances.add(made)
        return made

    def kernel(self, symbol: str) -> Any:
        """Return a kernel of the library."""
        return self._module[symbol]

    def is_loaded(self, layer: int, version: int) -> bool:
        """Whether a version of a layer can be called."""
        return (layer, version) in self._arguments

    def constants(self, layer: int, version: int) -> Mapping[int, Any]:
        """Return the constant arguments of a loaded version of a layer by their places.

        Raises LookupError if it is not loaded.
        """
        if not self.is_loaded(layer, version):
            raise self.not_loaded(layer, version)
        return self._arguments[layer, version]

    def not_loaded(self, layer: int, version: int) -> LookupError:
        """Return the error that a version of a layer is called but not loaded."""
        return LookupError(
            f"version {version} of layer {self.plan.layers[layer].name} of {self.plan.model} is not loaded; "
            "load it before a query needs it"
        )

    def _numbered(self, versions: Versions | None) -> list[tuple[int, int]]:
        """Return layer and version of each that is meant, by layer. Raises LookupError for one too many."""
        counts = [len(self.plan.of(layer)) for layer in range(len(self.plan.layers))]
        meant = [range(count) for count in counts] if versions is None else versions
        if len(meant) != len(counts):
            raise LookupError(f"{self.plan.model} has {len(counts)} layers, not {len(meant)}; name each's")
        numbered = [(layer, version) for layer, group in enumerate(meant) for version in sorted(set(group))]
        for layer, version in numbered:
            if not 0 <= version < counts[layer]:
                raise LookupError(
                    f"layer {self.plan.layers[layer].name} of {self.plan.model} has no version {version}; "
                    f"choose from 0 to {counts[layer] - 1}"
                )
        return numbered

    def _numbers(self, layer: int) -> dict[int, int]:
        """Return the numbers of the constants of a layer by their places."""
        inputs = self.plan.layers[layer].inputs
        return {index: number for index, (kind, number, _) in enumerate(inputs) if kind == "constant"}

    def _load(self, layer: int, version: int) -> dict[int, Any]:
        """Return the constant arguments of a version: as they are, or in a layout of its own."""
        plan, numbers = self.plan.of(layer)[version], self._numbers(layer)
        arguments = {
            index: self._as_it_lies(number) for index, number in numbers.items() if index not in plan.packed
        }
        if not plan.packer:
            return arguments
        given = [_tensor_of(self._constants.array(numbers[index])) for index in plan.packed]
        made = [_room(shape, one.dtype) for shape, one in zip(plan.packed_shapes, given, strict=True)]
        self.kernel(plan.packer)(*given, *made)
        for index, tensor in zip(plan.packed, made, strict=True):
            arguments[index] = self._share(layer, index, tensor)
        return arguments

    def _as_it_lies(self, number: int) -> Any:
        if number not in self._mapped:
            self._constants.fetch(number)
            self._mapped[number] = _tensor_of(self._constants.array(number))
        return self._mapped[number]

    def _share(self, layer: int, index: int, tensor: Any) -> Any:
        """Return what a loaded version packed alike of the same constant, else the tensor itself."""
        seen: set[int] = set()
        for one, at in self._places[self._numbers(layer)[index]]:
            for version, plan in enumerate(self.plan.of(one)):
                if at not in plan.packed or not self.is_loaded(one, version):
                    continue
                other = self._arguments[one, version][at]
                if id(other) in seen:
                    continue
                seen.add(id(other))
                if np.array_equal(np.from_dlpack(tensor), np.from_dlpack(other)):
                    return other
        return tensor

    def _forget(self, keys: Sequence[tuple[int, int]]) -> None:
        for key in keys:
            self._arguments.pop(key, None)
        for layer in dict.fromkeys(layer for layer, _ in keys):
            self._drop_unread(layer)

    def _drop_unread(self, layer: int) -> None:
        """Give back what no loaded version reads where it lies: it was only packed from."""
        for number in dict.fromkeys(self._numbers(layer).values()):
            if not any(self._reads_as_it_lies(*at) for at in self._places[number]):
                self._mapped.pop(number, None)
                self._constants.drop(number)

    def _reads_as_it_lies(self, layer: int, index: int) -> bool:
        """Whether a loaded version of a layer reads a constant in no layout of its own."""
        return any(
            index not in plan.packed and self.is_loaded(layer, version)
            for version, plan in enumerate(self.plan.of(layer))
        )

    def _bind_anew(self, keys: Sequence[tuple[int, int]]) -> None:
        instances = list(self._instances)
        for layer, version in keys:
            for instance in instances:
                instance.bind(layer, version)


@dataclass(frozen=True, slots=True)
class Part:
    """Some versions of each layer of a model, as what a ModelMemory holds; one part of a model at a time."""

    model: LoadedModel
    versions: tuple[tuple[int, ...], ...]

    @property
    def bytes_needed(self) -> int:
        """Bytes held once loaded, at most."""
        return self.model.bytes_needed(self.versions)

    def load(self) -> int:
        """Load the versions and return the bytes that the model then holds."""
        self.model.load(self.versions)
        return self.model.held_bytes

    def release(self) -> None:
        """Give the memory back."""
        self.model.release(self.versions)


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """Stands for the kernel of a version that is not loaded: to call it raises LookupError."""

    model: LoadedModel
    layer: int
    version: int

    def __call__(self) -> None:
        """Raise the error."""
        raise self.model.not_loaded(self.layer, self.version)


class Instance:
    """The activations of one query, and every kernel call bound to them.

    `calls[layer][version]` is a kernel and its arguments; while a version is not loaded, its kernel is a
    `NotLoaded`. Loading or releasing a version puts a new call there: pointers taken from the old one dangle.
    Activations that are no longer needed lend their memory to later ones.
    """

    def __init__(self, model: LoadedModel, placed: Placed | None = None) -> None:
        """Allocate the activations and bind the calls."""
        self.model = model
        self.inputs = [tvm.runtime.empty(value.shape, value.dtype) for value in model.plan.inputs]
        self._activations = Activations(model.plan, placed)
        self._made = self._activations.made
        self.outputs = [self._tensor(source) for source in model.plan.outputs]
        self.calls: list[list[Call]] = [
            [self._call(layer, version) for version in range(len(model.plan.of(layer)))]
            for layer in range(len(model.plan.layers))
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of its inputs and activations, which no budget of a ModelMemory counts."""
        return self._activations.nbytes + _total_bytes(self.inputs)

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

    def bind(self, layer: int, version: int) -> None:
        """Make the call of a version anew, since its weights came, or went."""
        self.calls[layer][version] = self._call(layer, version)

    def _call(self, layer: int, version: int) -> Call:
        if not self.model.is_loaded(layer, version):
            return NotLoaded(self.model, layer, version), ()
        plan = self.model.plan.layers[layer]
        constants = self.model.constants(layer, version)
        arguments = [
            constants[index] if source[0] == "constant" else self._tensor(source)
            for index, source in enumerate(plan.inputs)
        ]
        symbol = self.model.plan.of(layer)[version].symbol
        return self.model.kernel(symbol), (*arguments, *self._made[layer])

    def _tensor(self, source: tuple[str, int, int]) -> Any:
        kind, number, output = source
        return self.inputs[number] if kind == "input" else self._made[number][output]


class Activations:
    """The outputs of each layer of a model; those whose lives do not overlap share memory."""

    def __init__(self, plan: ModelPlan, placed: Placed | None = None) -> None:
        """Allocate them where `place` has them by their lives, unless they are `placed` elsewhere."""
        lives = lives_of(plan)
        offsets, self.nbytes = placed or place(list(lives.values()))
        pages = anonymous(self.nbytes)
        self.made: list[list[Any]] = [[] for _ in plan.layers]
        for (number, output), offset in zip(lives, offsets, strict=True):
            layer = plan.layers[number]
            array = np.ndarray(layer.outputs[output], layer.dtypes[output], pages, offset)
            self.made[number].append(_tensor_of(array))


def _room(shape: Sequence[int], dtype: str) -> Any:
    """Return a tensor for packed weights."""
    nbytes = prod(shape) * np.dtype(dtype).itemsize
    if nbytes < SMALL_BYTES:
        return tvm.runtime.empty(shape, dtype)
    return _tensor_of(np.ndarray(shape, dtype, buffer=anonymous(nbytes)))


def _total_bytes(tensors: Iterable[Any]) -> int:
    """Return the bytes of some tensors, each counted once."""
    # As views: a tensor's own numpy() copies.
    return sum(np.from_dlpack(tensor).nbytes for tensor in {id(one): one for one in tensors}.values())


def _tensor_of(array: NDArray[Any]) -> Any:
    """Return an array as a tensor, which keeps it alive. It may be read-only: nobody writes constants."""
    return tvm.runtime.from_dlpack(array.__dlpack__(max_version=(1, 0)))
