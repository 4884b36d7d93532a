"""Runs the layers of an imported model as they are, without a search, a build folder or a plan."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.ir import IRModule
from tvm.target import Target
from tvm.tirx import build

from veltair.compiler.importer import ImportedModel, Source


def run_unscheduled(imported: ImportedModel, samples: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return a model's outputs to its inputs, with the loops of each layer as the importer left them."""
    symbols = {structure: structure.replace("-", "_") for structure in imported.functions()}
    functions = {
        symbols[structure]: function.with_attr("global_symbol", symbols[structure])
        for structure, function in imported.functions().items()
    }
    # Compiling takes longer than running these small networks: nothing is optimised.
    library = build(IRModule(functions), target=Target({"kind": "llvm", "opt-level": 0}))
    made: list[list[Any]] = []
    given = [tvm.runtime.tensor(sample) for sample in samples]
    for layer, call in zip(imported.model.layers, imported.calls, strict=True):
        arguments = [_argument(source, given, made) for source in call.inputs]
        outputs = zip(call.outputs, call.dtypes, strict=True)
        made.append([tvm.runtime.empty(shape, dtype) for shape, dtype in outputs])
        library[symbols[layer.structure]](*arguments, *made[-1])
    return [np.asarray(_argument(source, given, made).numpy()) for source in imported.outputs]


def _argument(source: Source | NDArray[Any], given: Sequence[Any], made: Sequence[Sequence[Any]]) -> Any:
    if not isinstance(source, Source):
        return tvm.runtime.tensor(source)
    return given[source.output] if source.layer < 0 else made[source.layer][source.output]
