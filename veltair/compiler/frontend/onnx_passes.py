"""Rewrite an ONNX model into the form that fuses well.

Each pass returns a model that computes the same function, and leaves its argument as it is. A model in which
it finds nothing to do it returns as it is, for a copy of the largest takes more than a gigabyte.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from veltair.compiler.frontend.graph import (
    STANDARD,
    attributes,
    constants,
    copied,
    count_readers,
    has,
    opset,
    shapes,
    tensor,
    types,
    values,
    with_nodes,
)


def fold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Scale the weights of each Conv that only a BatchNormalization reads; the shift becomes its bias."""
    if not has(model, "BatchNormalization"):
        return model
    model = copied(model)
    weights = constants(model)
    producers = {output: node for node in model.graph.node for output in node.output}
    readers = count_readers(model)
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        conv = producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or readers[conv.output[0]] != 1:
            kept.append(node)
            continue
        if any(name not in weights for name in (*node.input[1:5], *conv.input[1:])):
            kept.append(node)
            continue
        gamma, beta, mean, variance = (numpy_helper.to_array(weights[name]) for name in node.input[1:5])
        scale = gamma / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        weight = numpy_helper.to_array(weights[conv.input[1]])
        bias = numpy_helper.to_array(weights[conv.input[2]]) if len(conv.input) > 2 else np.zeros_like(mean)
        folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        # New names, for another Conv may share the weight.
        prefix = f"{conv.output[0]}.folded"
        names = [f"{prefix}.weight", f"{prefix}.bias"]
        model.graph.initializer.extend(
            tensor(name, value.astype(weight.dtype))
            for name, value in zip(names, (folded, beta + (bias - mean) * scale), strict=True)
        )
        conv.input[:] = [conv.input[0], *names]
        conv.output[0] = node.output[0]
    return with_nodes(model, kept)


def sum_to_add(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace Sum by a chain of Add, which fuses into the layer before it."""
    if not has(model, "Sum"):
        return model
    model = copied(model)
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "Sum" or len(node.input) < 2:
            kept.append(node)
            continue
        total = node.input[0]
        for index, term in enumerate(node.input[1:], start=2):
            output = node.output[0] if index == len(node.input) else f"{node.output[0]}.sum{index}"
            kept.append(helper.make_node("Add", [total, term], [output], name=output))
            total = output
    return with_nodes(model, kept)


def drop_identities(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove Identity and Dropout, which do nothing in inference, and sums and the like of one input."""
    if not any(map(_does_nothing, model.graph.node)):
        return model
    model = copied(model)
    outputs = {value.name for value in model.graph.output}
    alias: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        node.input[:] = [alias.get(name, name) for name in node.input]
        if _does_nothing(node) and node.output[0] not in outputs:
            alias[node.output[0]] = node.input[0]
            continue
        if _does_nothing(node) and node.op_type != "Dropout":
            node.op_type = "Identity"
        kept.append(node)
    return with_nodes(model, kept)


def _does_nothing(node: onnx.NodeProto) -> bool:
    alone = node.op_type in ("Sum", "Max", "Min", "Mean") and len(node.input) == 1
    return node.domain in STANDARD and (node.op_type in ("Identity", "Dropout") or alone)


def drop_unused_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove trailing optional outputs that nobody reads, such as MaxPool's Indices."""
    if all(len(node.output) == 1 for node in model.graph.node):
        return model
    model = copied(model)
    readers = count_readers(model)
    opsets = {entry.domain: entry.version for entry in model.opset_import} | {"": opset(model)}
    for node in model.graph.node:
        while not readers.get(node.output[-1], 0) and _is_last_optional(node, opsets):
            del node.output[-1]
    return model


def _is_last_optional(node: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    """Return whether a node may go without its last output; False for operators that ONNX does not know."""
    if not onnx.defs.has(node.op_type, node.domain):
        return False
    schema = onnx.defs.get_schema(
        node.op_type, opsets.get(node.domain, onnx.defs.onnx_opset_version()), node.domain
    )
    index = len(node.output) - 1
    # Split's outputs are one place of many, which a node may not go without.
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return index < len(schema.outputs) and schema.outputs[index].option == optional


def slopes_per_channel(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace LeakyRelu, and PRelu of one slope, by PRelu with a slope a channel: only this fuses.

    It takes the layout of the convolution before it; one slope alone is taken as the last axis' instead.
    """
    if not has(model, "LeakyRelu", "PRelu"):
        return model
    model = copied(model)
    extents, kinds, known = shapes(model), types(model), constants(model)
    for node in model.graph.node:
        slope = _only_slope(node, known)
        shape = extents.get(node.input[0], ()) if slope is not None else ()
        if len(shape) < 2 or shape[1] < 2:
            continue
        name = f"{node.output[0]}.slopes"
        kind = helper.tensor_dtype_to_np_dtype(kinds[node.input[0]])
        slopes = np.full((shape[1], *[1] * (len(shape) - 2)), slope, kind)
        model.graph.initializer.append(tensor(name, slopes))
        node.CopyFrom(helper.make_node("PRelu", [node.input[0], name], list(node.output), name=node.name))
    return with_nodes(model, model.graph.node)


def _only_slope(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> float | None:
    """Return the factor of a LeakyRelu, or of a PRelu that has one; None for any other node."""
    if node.op_type == "LeakyRelu":
        return float(attributes(node).get("alpha", 0.01))
    slopes = values(node.input[1], known) if node.op_type == "PRelu" else None
    return float(slopes.reshape(())) if slopes is not None and slopes.size == 1 else None
