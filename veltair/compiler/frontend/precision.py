"""Float16 to float32: kernels are written, and compared with ONNX Runtime, in float32."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from veltair.compiler.frontend.graph import copied

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
# Attributes that name an element type.
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision", "precision")


def uses_float16(model: onnx.ModelProto) -> bool:
    """Tell whether anything in a model is float16."""
    return any(_types(model.graph)) or any(
        any(map(_names_half, node.attribute)) for function in model.functions for node in function.node
    )


def to_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with everything that is float16 in float32, inputs and outputs included."""
    model = copied(model)
    _convert(model.graph)
    for function in model.functions:
        for node in function.node:
            _convert_attributes(node)
    return model


def _types(graph: onnx.GraphProto) -> Iterator[bool]:
    for tensor in graph.initializer:
        yield tensor.data_type == HALF
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.type.tensor_type.elem_type == HALF
    for node in graph.node:
        for attribute in node.attribute:
            yield _names_half(attribute)
            for body in (attribute.g, *attribute.graphs):
                yield from _types(body)


def _names_half(attribute: onnx.AttributeProto) -> bool:
    return attribute.t.data_type == HALF or (attribute.name in TYPE_ATTRIBUTES and attribute.i == HALF)


def _convert(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _convert_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == HALF:
            value.type.tensor_type.elem_type = SINGLE
    for node in graph.node:
        _convert_attributes(node)


def _convert_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _convert_tensor(attribute.t)
        if attribute.name in TYPE_ATTRIBUTES and attribute.i == HALF:
            attribute.i = SINGLE
        for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            _convert(body)


def _convert_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == HALF:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
