"""Float16 and float64 to float32: kernels are written, and compared with ONNX Runtime, in float32."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from veltair.compiler.frontend.graph import copied

HALF, DOUBLE, SINGLE = TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.FLOAT
# Attributes that name an element type.
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision", "precision")


def uses(model: onnx.ModelProto, kind: int) -> bool:
    """Tell whether anything in a model is of a kind, `HALF` or `DOUBLE`."""
    return any(_are(model.graph, kind)) or any(
        _names(attribute, kind)
        for function in model.functions
        for node in function.node
        for attribute in node.attribute
    )


def to_float32(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """Return the model with everything that is of a kind in float32, inputs and outputs included."""
    model = copied(model)
    _convert(model.graph, kind)
    for function in model.functions:
        for node in function.node:
            _convert_attributes(node, kind)
    return model


def _are(graph: onnx.GraphProto, kind: int) -> Iterator[bool]:
    for tensor in graph.initializer:
        yield tensor.data_type == kind
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.type.tensor_type.elem_type == kind
    for node in graph.node:
        for attribute in node.attribute:
            yield _names(attribute, kind)
            for body in (attribute.g, *attribute.graphs):
                yield from _are(body, kind)


def _names(attribute: onnx.AttributeProto, kind: int) -> bool:
    return attribute.t.data_type == kind or (attribute.name in TYPE_ATTRIBUTES and attribute.i == kind)


def _convert(graph: onnx.GraphProto, kind: int) -> None:
    for tensor in graph.initializer:
        _convert_tensor(tensor, kind)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == kind:
            value.type.tensor_type.elem_type = SINGLE
    for node in graph.node:
        _convert_attributes(node, kind)


def _convert_attributes(node: onnx.NodeProto, kind: int) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _convert_tensor(attribute.t, kind)
        if attribute.name in TYPE_ATTRIBUTES and attribute.i == kind:
            attribute.i = SINGLE
        for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            _convert(body, kind)


def _convert_tensor(tensor: onnx.TensorProto, kind: int) -> None:
    if tensor.data_type == kind:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
