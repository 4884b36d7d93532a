"""The layers of an imported model with their loops as they are: run at once, or as versions to build."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import s_tir
from tvm.ir import IRModule
from tvm.target import Target
from tvm.tirx import build

from veltair.compiler.footprint.tiling import read_tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.frontend.importer import ImportedModel, Source


class Unscheduled:
    """A model that is compiled once, with the loops of each layer as the importer left them."""

    def __init__(self, imported: ImportedModel) -> None:
        self._imported = imported
        self._symbols = {structure: structure.replace("-", "_") for structure in imported.functions()}
        functions = {
            self._symbols[structure]: function.with_attr("global_symbol", self._symbols[structure])
            for structure, function in imported.functions().items()
        }
        # Compiling takes longer than running these small networks: nothing is optimised.
        self._library = build(IRModule(functions), target=Target({"kind": "llvm", "opt-level": 0}))

    def run(self, samples: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the model's outputs to its inputs."""
        made: list[list[Any]] = []
        given = [tvm.runtime.tensor(sample) for sample in samples]
        for layer, call in zip(self._imported.model.layers, self._imported.calls, strict=True):
            arguments = [_argument(source, given, made) for source in call.inputs]
            outputs = zip(call.outputs, call.dtypes, strict=True)
            made.append([tvm.runtime.empty(shape, dtype) for shape, dtype in outputs])
            self._library[self._symbols[layer.structure]](*arguments, *made[-1])
        return [np.asarray(_argument(source, given, made).numpy()) for source in self._imported.outputs]


def run_unscheduled(imported: ImportedModel, samples: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return a model's outputs to its inputs, compiled for this one run."""
    return Unscheduled(imported).run(samples)


def _argument(source: Source | NDArray[Any], given: Sequence[Any], made: Sequence[Sequence[Any]]) -> Any:
    if not isinstance(source, Source):
        return tvm.runtime.tensor(source)
    return given[source.output] if source.layer < 0 else made[source.layer][source.output]


def unscheduled_versions(imported: ImportedModel) -> dict[str, tuple[Candidate, ...]]:
    """Return one version of each structure."""
    return {
        structure: (Candidate(structure, 0, read_tiling(function), (1.0,), _empty_trace(function)),)
        for structure, function in imported.functions().items()
    }


def _empty_trace(function: Any) -> Any:
    return s_tir.Schedule(IRModule({"main": function})).trace.as_json()
