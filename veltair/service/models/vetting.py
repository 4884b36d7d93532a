"""Whether the bytes that a stranger uploaded may be looked at more closely: told before anything computes.

It runs in the builder's sandbox. Bytes are parsed, never searched: a message of protobuf can be written in
many ways that mean the same. Nothing is read but those bytes.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from veltair.compiler.frontend.folding import OF_SHAPES
from veltair.compiler.frontend.graph import dimensions, light, node_name
from veltair.compiler.frontend.model_error import ModelError, one_line
from veltair.compiler.frontend.operators import check_known
from veltair.service.keys.builder_keys import BoundsKeys

NAME = "the model"
# Letters of one name of a node or tensor.
LONGEST_NAME = 1_000
_BYTES = {TensorProto.DOUBLE: 8, TensorProto.INT64: 8, TensorProto.UINT64: 8}
_MOST_DIMENSIONS = 16


def vet(content: bytes, bounds: BoundsKeys) -> onnx.ModelProto:
    """Return the model that is written in some bytes. Raises ModelError, on one line, if it is refused.

    Refused are: what is no model, data outside of the bytes, sparse tensors, functions, bodies, operators
    that nobody here knows, training, and more nodes, elements or text than the bounds. So is a constant part
    of which nobody can say before how large it gets.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ModelError("the bytes are no ONNX model: they cannot be parsed; export it again") from None
    graph = model.graph
    if not graph.node:
        raise ModelError("the bytes are no ONNX model: there are no nodes; export it again")
    if len(graph.node) > bounds.nodes:
        raise _too_much("nodes", len(graph.node), "bounds.nodes", bounds.nodes)
    _check_form(model)
    _check_text(model, bounds)
    for one in (*graph.initializer, *(tensor for node in graph.node for tensor in _tensors(node))):
        _check_tensor(one, bounds)
    check_known(model, NAME)
    check_sizes(model, bounds)
    return model


def check_sizes(model: onnx.ModelProto, bounds: BoundsKeys) -> None:
    """Raise ModelError if a tensor, or all that nodes make, is larger than the bounds, by inferred shapes.

    Nodes that depend on no input are computed when a model is opened. Their outputs must have a known shape.
    """
    # Values are followed only where all sizes that are known without are within the bounds: ONNX writes the
    # values of a Range out to follow them.
    _check_shapes(model, bounds, follows_values=False)
    _check_shapes(model, bounds, follows_values=True)


def _check_shapes(model: onnx.ModelProto, bounds: BoundsKeys, *, follows_values: bool) -> None:
    try:
        graph = onnx.shape_inference.infer_shapes(light(model), data_prop=follows_values).graph
    except Exception as error:  # ONNX's C++ errors have no class in common
        raise ModelError(f"{NAME} is not valid: {one_line(error)}") from None
    values = (*graph.value_info, *graph.output, *graph.input)
    shapes = {value.name: dimensions(value) for value in values}
    sizes = {value.name: _BYTES.get(value.type.tensor_type.elem_type, 4) for value in values}
    for value in model.graph.input:
        _check_elements(value.name, shapes.get(value.name), bounds)
    constant = {one.name for one in model.graph.initializer} | {""}
    total_bytes = 0
    for node in model.graph.node:
        folded = node.op_type in OF_SHAPES or all(name in constant for name in node.input)
        for made in filter(None, node.output):
            shape = shapes.get(made)
            if shape is None and folded and (follows_values or node.op_type == "Range"):
                raise ModelError(
                    f"{NAME}: node {_shown(node_name(node))} ({node.op_type}) is computed from constants, "
                    "but how large its output gets is not known before; export it with constants folded"
                )
            total_bytes += _check_elements(made, shape, bounds) * sizes.get(made, 4)
            if folded:
                constant.add(made)
    if total_bytes > bounds.activation_mb * 1e6:
        raise _too_much("MB of activations", total_bytes / 1e6, "bounds.activation_mb", bounds.activation_mb)


def check_work(macs: int, bounds: BoundsKeys) -> None:
    """Raise ModelError for more multiply-accumulates than the bounds."""
    if macs > bounds.gmacs * 1e9:
        raise _too_much("GMACs", macs / 1e9, "bounds.gmacs", bounds.gmacs)


def _check_form(model: onnx.ModelProto) -> None:
    graph = model.graph
    refused = [
        ("functions of its own", model.functions),
        ("parts for training", model.training_info),
        ("sparse initialisers", graph.sparse_initializer),
        ("quantisation annotations", graph.quantization_annotation),
    ]
    for what, found in refused:
        if len(found):
            raise ModelError(f"{NAME} has {what}, which are not served; export it without")
    for node in graph.node:
        for attribute in node.attribute:
            where = f"node {_shown(node_name(node))} ({_shown(node.op_type)})"
            if attribute.HasField("g") or len(attribute.graphs):
                raise ModelError(f"{NAME}: {where} has a body, which is not served; export it without")
            if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
                raise ModelError(f"{NAME}: {where} has a sparse tensor; export it dense")
            if attribute.HasField("tp") or len(attribute.type_protos) or attribute.ref_attr_name:
                raise ModelError(f"{NAME}: {where} has an attribute that is no value; export it without")


def _check_text(model: onnx.ModelProto, bounds: BoundsKeys) -> None:
    graph = model.graph
    text = len(model.doc_string) + len(graph.doc_string) + len(model.producer_name) + len(model.domain)
    for holder in (model, graph, *graph.node, *graph.initializer):
        text += sum(len(one.key) + len(one.value) for one in holder.metadata_props)
    for one in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        text += len(one.doc_string)
    if text > bounds.metadata_kb * 1e3:
        raise _too_much("kB of text about it", text / 1e3, "bounds.metadata_kb", bounds.metadata_kb)
    for name in _names(graph):
        if len(name) > LONGEST_NAME:
            raise ModelError(f"{NAME} has a name of {len(name)} letters; {LONGEST_NAME} are taken")


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    for one in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        yield one.name


def _check_tensor(tensor: onnx.TensorProto, bounds: BoundsKeys) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
        raise ModelError(
            f"{NAME} keeps {_shown(tensor.name)} in another file; upload one file that holds all of it"
        )
    if len(tensor.dims) > _MOST_DIMENSIONS or any(one < 0 for one in tensor.dims):
        raise ModelError(f"{NAME}: the shape of {_shown(tensor.name)} is none; export it again")
    _check_elements(tensor.name, tuple(tensor.dims), bounds)


def _check_elements(name: str, shape: tuple[int, ...] | None, bounds: BoundsKeys) -> int:
    """Return the elements of a shape, 0 if it is not known."""
    elements = prod(shape) if shape is not None else 0
    if elements > bounds.tensor_elements:
        raise _too_much(
            f"elements in {_shown(name)}", elements, "bounds.tensor_elements", bounds.tensor_elements
        )
    return elements


def _tensors(node: onnx.NodeProto) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _shown(name: str) -> str:
    """Return a name as it can stand in a message: short and of letters that can be seen."""
    seen = "".join(one if one.isprintable() else "?" for one in name[:80])
    return seen or "a tensor without a name"


def _too_much(what: str, found: float, key_name: str, most: float) -> ModelError:
    return ModelError(f"{NAME} has {found:.6g} {what}; {key_name} is {most:.6g}: upload a smaller one")
