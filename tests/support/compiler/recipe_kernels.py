"""Kernels of recipes, compiled and run on the arguments of a layer that ONNX Runtime has answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm.ir import IRModule
from tvm.tirx import build as tvm_build

from tests.support.onnx_builders import relative_error
from veltair.compiler.recipes.recipes import generated
from veltair.compiler.search.intrinsics import vectorise_math
from veltair.compiler.search.prepacked import Prepacked, split_prepacked
from veltair.compiler.search.target import cpu_target
from veltair.compiler.select.shipped import AVX2, AVX512, INSTRUCTION_SETS, host_flags

Array = NDArray[np.float32]
CPUS = {AVX2: "x86-64-v3", AVX512: "x86-64-v4"}
SETS = [
    pytest.param(
        name, marks=pytest.mark.skipif(not needed <= host_flags(), reason=f"this CPU cannot run {name}")
    )
    for name, needed in INSTRUCTION_SETS.items()
]
TOLERANCE = 1e-4
GUARD = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A layer's function, its arguments but the output, and ONNX Runtime's answer."""

    function: Any
    arguments: tuple[Array, ...]
    answer: Array


def kinds_of(found: Sequence[Any]) -> set[str]:
    """Return the kinds of recipes."""
    return {kind for recipe in found for kind in recipe}


def some_of(found: Sequence[Any], seed: int) -> list[Any]:
    """Return the first and the last recipe of each kind, and one between."""
    random = np.random.default_rng(seed)
    chosen: list[Any] = []
    for kind in sorted(kinds_of(found)):
        group = [recipe for recipe in found if kind in recipe]
        places = {0, len(group) - 1, int(random.integers(len(group)))}
        chosen += [group[place] for place in sorted(places)]
    return chosen


def outputs_of(layer: Answered, recipes: Sequence[Mapping[str, Any]], target: Any) -> list[Array]:
    """Return what the kernels of recipes make of a layer's arguments; all are compiled at once."""
    split = [
        split_prepacked(generated(layer.function, recipe)["main"], f"kernel{number}")
        for number, recipe in enumerate(recipes)
    ]
    vectorise_math()
    functions = {name: function for one in split for name, function in one.functions.items()}
    library = tvm_build(IRModule(functions), target=target)
    return [_run(library, one, layer) for one in split]


def worst_error(layer: Answered, recipes: Sequence[Mapping[str, Any]], target: Any = None) -> float:
    """Return the largest relative error of the kernels of recipes; without a target, for AVX2."""
    outputs = outputs_of(layer, recipes, target or cpu_target(64, "x86-64-v3"))
    # NaN, of a number that was never written, must not be lost.
    return float(np.max([relative_error(output, layer.answer) for output in outputs], initial=0.0))


def _run(library: Any, kernel: Prepacked, layer: Answered) -> Array:
    given = [tvm.runtime.tensor(array) for array in layer.arguments]
    made = [_Guarded(shape) for shape in (*kernel.packed_shapes, layer.answer.shape)]
    *packed, output = (one.tensor for one in made)
    if kernel.packer:
        library[kernel.packer](*(given[index] for index in kernel.packed), *packed)
    for index, tensor in zip(kernel.packed, packed, strict=True):
        given[index] = tensor
    library[kernel.kernel](*given, output)
    assert all(one.is_whole for one in made), f"{kernel.kernel} wrote past the end of an array"
    found: Array = output.numpy()
    return found


class _Guarded:
    """An array to be written, and after it numbers that must not be."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._size = prod(shape)
        # Not zeros: what a kernel leaves out must be seen.
        self._all = tvm.runtime.tensor(np.full(self._size + GUARD, np.nan, np.float32))
        self.tensor = self._all._create_view(list(shape))

    @property
    def is_whole(self) -> bool:
        """Whether nothing was written after it."""
        return bool(np.isnan(self._all.numpy()[self._size :]).all())
