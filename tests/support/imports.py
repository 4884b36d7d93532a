"""Import small models as a run does, and compare them with ONNX Runtime."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.support.onnx_builders import Shape, make_onnx, node
from veltair.compiler.frontend.fix import Choices, fix
from veltair.compiler.frontend.importer import import_model
from veltair.compiler.oracle.proof import Proof, prove
from veltair.compiler.search.target import cpu_target


def proof_of(model: onnx.ModelProto, choices: Choices | None = None) -> Proof:
    """Fix, import and prove a model. Raises ModelError if it is refused or wrong."""
    fixed = fix(model, "net", choices)
    return prove(import_model("net", fixed.model, 1.0), fixed, cpu_target(1))


def one(
    operator: str,
    shape: Shape,
    made: Shape,
    *constants: NDArray[Any] | None,
    opset: int = 17,
    kinds: Mapping[str, int] | None = None,
    outputs: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node: input x, then constants (None: an input left out); output y, and others."""
    given = {f"k{number}": array for number, array in enumerate(constants) if array is not None}
    names = [f"k{number}" if array is not None else "" for number, array in enumerate(constants)]
    while names and not names[-1]:
        names.pop()
    makes = ["y", *(f"y{number}" for number in range(1, outputs))]
    single = node(operator, ["x", *names], makes, **attributes)
    model = make_onnx([single], {"x": shape}, {"y": made}, given, types=kinds)
    return with_opset(model, opset)


def with_opset(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return the model as of another version of the standard operators."""
    kept = [entry for entry in model.opset_import if entry.domain]
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", version), *kept])
    return model


def whole(*numbers: int) -> NDArray[np.int64]:
    """Return whole numbers, as shapes and axes are."""
    return np.array(numbers, np.int64)


def floats(*numbers: float) -> NDArray[np.float32]:
    """Return single floats, as scales are."""
    return np.array(numbers, np.float32)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Return weights."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def chain(*operators: Sequence[Any], shape: Shape, made: Shape, **options: Any) -> onnx.ModelProto:
    """Return a model of nodes, each given by operator, inputs and outputs as texts, and attributes."""
    nodes = [
        node(operator, inputs.split(), outputs.split(), **(rest[0] if rest else {}))
        for operator, inputs, outputs, *rest in operators
    ]
    return make_onnx(nodes, {"x": shape}, {"y": made}, **options)


INT64, FLOAT16, DOUBLE = TensorProto.INT64, TensorProto.FLOAT16, TensorProto.DOUBLE
