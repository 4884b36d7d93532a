"""Layers of one product of matrices: imported from ONNX, and answered by ONNX Runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.support.compiler.recipe_kernels import Answered, Array
from tests.support.onnx_builders import make_onnx, node, run_onnx
from veltair.compiler.frontend.importer import LayerCall, Source, import_model

# What is multiplied, with p pairs of r x d by d x c matrices:
# "weights"  (p, r, d) by constants (d, c), as most layers do
# "each"     (r, d) by constants (p, d, c), as what makes the heads of an attention
# "inputs"   (p, r, d) by (p, d, c), as an attention does
# "heads"    (p, HEADS, r, d) by constants (HEADS, d, c), summed over heads too, as what follows an attention
FORMS = ("weights", "each", "inputs", "heads")
HEADS = 3
ENDINGS = ("none", "bias", "gelu", "residual", "attention")


@dataclass(frozen=True, slots=True)
class ProductCase:
    """A product of `pairs` of matrices, rows x depth by depth x columns, with what follows it."""

    rows: int = 6
    depth: int = 10
    columns: int = 16
    pairs: int = 1
    form: str = "weights"
    ending: str = "none"
    seed: int = 0


def model_of(case: ProductCase) -> onnx.ModelProto:
    """Return a case as a network; a residual is an input of the output's shape, a mask one of columns."""
    random = np.random.default_rng(case.seed)
    rows, depth, columns, pairs = case.rows, case.depth, case.columns, case.pairs
    data, weights = {
        "weights": ((pairs, rows, depth), (depth, columns)),
        "each": ((rows, depth), (pairs, depth, columns)),
        "inputs": ((pairs, rows, depth), (pairs, depth, columns)),
        "heads": ((pairs, HEADS, rows, depth), (HEADS, depth, columns)),
    }[case.form]
    shape = (pairs, rows, columns)
    inputs = {"x": data, "w": weights, "r": shape, "m": (1, 1, columns)}
    constants = {
        "w": random.standard_normal(weights),
        "b": random.standard_normal(columns),
        **{name: np.array(value) for name, value in (("root", 2**0.5), ("one", 1), ("half", 0.5))},
    }
    if case.form == "inputs":
        del constants["w"]
    nodes = [_product(case), *_ENDINGS[case.ending]]
    return small_model(nodes, inputs, shape, constants)


def small_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int]],
    output: Sequence[int],
    constants: Mapping[str, NDArray[Any]] | None = None,
) -> onnx.ModelProto:
    """Return nodes as a network that makes "y": what they read of inputs and of constants, in float32."""
    read = {name for one in nodes for name in one.input}
    kept = {name: value.astype(np.float32) for name, value in (constants or {}).items() if name in read}
    given = {name: shape for name, shape in inputs.items() if name in read and name not in kept}
    return make_onnx(nodes, given, {"y": output}, kept)


def calls_of(model: onnx.ModelProto) -> dict[str, LayerCall]:
    """Return the layers of a small network by the operators that are fused in them."""
    imported = import_model("small", model, 1.0)
    return {
        layer.structure.rsplit("-", 1)[0]: call
        for layer, call in zip(imported.model.layers, imported.calls, strict=True)
    }


def function_of(model: onnx.ModelProto) -> Any:
    """Return the unscheduled function of a network of one layer."""
    (call,) = calls_of(model).values()
    return call.function


def answered(model: onnx.ModelProto, *samples: Array, seed: int = 0) -> Answered:
    """Return a network of one layer with ONNX Runtime's answer to samples; without any, to random ones."""
    imported = import_model("one", model, 1.0)
    random = np.random.default_rng(seed + 1)
    given = samples or [random.standard_normal(one.shape).astype(np.float32) for one in imported.inputs]
    (call,) = imported.calls
    (answer,) = run_onnx(model, *given)
    arguments = [given[one.output] if isinstance(one, Source) else one for one in call.inputs]
    return Answered(call.function, tuple(arguments), answer)


def _product(case: ProductCase) -> onnx.NodeProto:
    output = "y" if case.ending == "none" else "c"
    if case.form == "heads":
        return node("Einsum", ["x", "w"], [output], equation="phrd,hdc->prc")
    return node("MatMul", ["x", "w"], [output])


_BIAS = node("Add", ["c", "b"], ["a"])
_ENDINGS: dict[str, list[onnx.NodeProto]] = {
    "none": [],
    "bias": [node("Add", ["c", "b"], ["y"])],
    "gelu": [
        _BIAS,
        node("Div", ["a", "root"], ["d"]),
        node("Erf", ["d"], ["e"]),
        node("Add", ["e", "one"], ["f"]),
        node("Mul", ["a", "f"], ["g"]),
        node("Mul", ["g", "half"], ["y"]),
    ],
    "residual": [_BIAS, node("Add", ["a", "r"], ["y"])],
    "attention": [node("Div", ["c", "root"], ["s"]), node("Add", ["s", "m"], ["y"])],
}
