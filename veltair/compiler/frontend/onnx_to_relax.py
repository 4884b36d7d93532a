"""TVM's importer of ONNX with converters of our own, and what it made compared with what ONNX says."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import helper
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from veltair.compiler.frontend.converters import CONVERTERS
from veltair.compiler.frontend.graph import node_name, opset, shapes, types
from veltair.compiler.frontend.model_error import ModelError


class _Importer(ONNXGraphImporter):  # type: ignore[misc]  # TVM has no types
    def _convert_operator(
        self, op_name: str, inputs: Sequence[Any], attrs: Mapping[str, Any], opset: int
    ) -> Any:
        own = CONVERTERS.get(op_name)
        if own is None:
            return super()._convert_operator(op_name, inputs, attrs, opset)
        return self.bb.normalize(own(self.bb, inputs, attrs))

    def expression(self, name: str) -> Any:
        """Return what a value of the model became; None if it is not there."""
        return self._nodes.get(name)


def to_relax(model: onnx.ModelProto) -> Any:
    """Return a module of Relax that computes a model, its weights as constants.

    Raises ModelError for a node whose output has another shape or type than ONNX infers, and whatever TVM's
    converters raise.
    """
    importer = _Importer({}, "float32")
    module = importer.from_onnx(model.graph, opset(model))
    sizes, kinds = shapes(model), types(model)
    for node in model.graph.node:
        for output in node.output:
            expression = importer.expression(output)
            if output and expression is not None and output in sizes:
                _check(node, expression, sizes[output], kinds.get(output, 0))
    return module


def _check(node: onnx.NodeProto, expression: Any, shape: tuple[int, ...], kind: int) -> None:
    made = getattr(expression, "ty", None)
    if not isinstance(made, relax.TensorType) or not isinstance(made.shape, relax.ShapeExpr):
        return
    found = tuple(int(extent) for extent in made.shape)
    if found != shape:
        raise ModelError(
            f"node {node_name(node)} ({node.op_type}) becomes {_text(found)}, but ONNX infers "
            f"{_text(shape)}: its attributes are not imported right; replace it in the export"
        )
    wanted = str(helper.tensor_dtype_to_np_dtype(kind)) if kind else str(made.dtype)
    if str(made.dtype) != wanted:
        raise ModelError(
            f"node {node_name(node)} ({node.op_type}) becomes {made.dtype}, but ONNX infers {wanted}; "
            "replace it in the export"
        )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
