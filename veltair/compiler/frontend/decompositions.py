"""Operators written as others that compute the same: those for which TVM has no kernel, or a wrong one."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from veltair.compiler.frontend.graph import (
    Rewriter,
    attributes,
    constants,
    has,
    node_name,
    shapes,
    types,
    values,
)
from veltair.compiler.frontend.model_error import ModelError

# A sum over more elements than this is no product with a triangle of ones any more.
LONGEST_SUM = 4096


def sums_as_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace CumSum, for which TVM has no kernel that fuses, by a product with a triangle of ones."""
    if not has(model, "CumSum"):
        return model
    known, kinds = shapes(model), types(model)
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        axis = rewriter.values(node.input[1]) if node.op_type == "CumSum" else None
        shape = known.get(node.input[0], ())
        if axis is None or not shape or shape[int(axis.reshape(-1)[0])] > LONGEST_SUM:
            rewriter.keep(node)
            continue
        given = attributes(node)
        place = int(axis.reshape(-1)[0]) % len(shape)
        extent = shape[place]
        ones = np.tri(extent, extent, -1 if given.get("exclusive") else 0)
        ones = ones if given.get("reverse") else ones.T
        kind = helper.tensor_dtype_to_np_dtype(kinds[node.input[0]])
        order = [one for one in range(len(shape)) if one != place] + [place]
        source = node.input[0]
        last = place == len(shape) - 1
        near = node.output[0]
        if not last:
            source = rewriter.emit("Transpose", [source], near=near, perm=order)
        triangle = rewriter.constant(ones.astype(kind), near)
        if last:
            rewriter.emit("MatMul", [source, triangle], near)
        else:
            product = rewriter.emit("MatMul", [source, triangle], near=near)
            rewriter.emit("Transpose", [product], near, perm=np.argsort(order).tolist())
    return rewriter.result()


def skips_as_sums(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace ONNX Runtime's SkipLayerNormalization by the sum and the normalization that it is."""
    if all(node.op_type != "SkipLayerNormalization" for node in model.graph.node):
        return model
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        if node.op_type != "SkipLayerNormalization":
            rewriter.keep(node)
            continue
        source, skip, scale, *rest = node.input
        bias, added = (*rest, "", "")[:2]
        total = node.output[3] if len(node.output) > 3 and node.output[3] else None
        first = rewriter.emit("Add", [source, skip], None if added else total, near=node.output[0])
        if added:
            first = rewriter.emit("Add", [first, added], total, near=node.output[0])
        epsilon = attributes(node).get("epsilon", 1e-12)
        inputs = [first, scale, *([bias] if bias else [])]
        rewriter.emit("LayerNormalization", inputs, node.output[0], axis=-1, epsilon=epsilon)
    return rewriter.result()


def finite_divisors(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace a division by a constant 0 by a product with infinity, which is the same and compiles.

    Raises ModelError where some of the constant's values are 0 and others not, or whole numbers are divided.
    """

    def by_zero(node: onnx.NodeProto) -> NDArray[Any] | None:
        found = values(node.input[1], known) if node.op_type == "Div" else None
        return found if found is not None and (found == 0).any() else None

    if not has(model, "Div"):
        return model
    known = constants(model)
    if all(by_zero(node) is None for node in model.graph.node):
        return model
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        divisor = by_zero(node)
        if divisor is None:
            rewriter.keep(node)
            continue
        if divisor.dtype.kind != "f" or divisor.any():
            raise ModelError(f"node {node_name(node)} (Div) divides by a constant 0; mend the export")
        infinite = np.copysign(np.full_like(divisor, np.inf), divisor)
        rewriter.emit("Mul", [node.input[0], rewriter.constant(infinite, node.output[0])], node.output[0])
    return rewriter.result()


def lookups_of_one(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace OneHot, which TVM makes in float64, by comparisons with a range."""
    if not has(model, "OneHot"):
        return model
    known, kinds = shapes(model), types(model)
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        depth = rewriter.values(node.input[1]) if node.op_type == "OneHot" else None
        pair = rewriter.values(node.input[2]) if node.op_type == "OneHot" else None
        kind = kinds.get(node.input[0])
        if depth is None or pair is None or kind is None:
            rewriter.keep(node)
            continue
        indices = node.input[0]
        if kind not in (TensorProto.INT32, TensorProto.INT64):
            kind = TensorProto.INT64
            indices = rewriter.emit("Cast", [indices], near=node.output[0], to=kind)
        count, made = int(depth.reshape(-1)[0]), node.output[0]
        rank = len(known[node.input[0]]) + 1
        axis = attributes(node).get("axis", -1) % rank
        whole = helper.tensor_dtype_to_np_dtype(kind)
        # Negative ones count from the end.
        zero, size = (rewriter.constant(np.array(one, whole), made) for one in (0, count))
        from_end = rewriter.emit("Add", [indices, size], near=made)
        negative = rewriter.emit("Less", [indices, zero], near=made)
        places = rewriter.emit("Where", [negative, from_end, indices], near=made)
        places = rewriter.emit(
            "Unsqueeze", [places, rewriter.constant(np.array([axis], np.int64), made)], near=made
        )
        counted = np.arange(count, dtype=whole).reshape([-1 if one == axis else 1 for one in range(rank)])
        equal = rewriter.emit("Equal", [places, rewriter.constant(counted, made)], near=made)
        off, on = (rewriter.constant(pair[place], made) for place in (0, 1))
        rewriter.emit("Where", [equal, on, off], made)
    return rewriter.result()


def local_responses(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace LRN over an even number of channels, for which TVM has no kernel, by a product with a band."""

    def is_even(node: onnx.NodeProto) -> bool:
        return node.op_type == "LRN" and attributes(node)["size"] % 2 == 0

    if not any(map(is_even, model.graph.node)):
        return model
    known = shapes(model)
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        if not is_even(node) or node.input[0] not in known:
            rewriter.keep(node)
            continue
        given, made, shape = attributes(node), node.output[0], known[node.input[0]]
        size, channels = given["size"], shape[1]
        first, last = (size - 1) // 2, size - 1 - (size - 1) // 2
        places = np.arange(channels)[None, :] - np.arange(channels)[:, None]
        band = ((places >= -first) & (places <= last)) * np.float32(given.get("alpha", 1e-4) / size)
        flat, whole = (
            rewriter.constant(np.array(one, np.int64), made) for one in ([shape[0], channels, -1], shape)
        )
        beta, bias = (
            rewriter.constant(np.array(given.get(key, usual), np.float32), made)
            for key, usual in (("beta", 0.75), ("bias", 1.0))
        )
        squares = rewriter.emit("Mul", [node.input[0], node.input[0]], near=made)
        rows = rewriter.emit("Reshape", [squares, flat], near=made)
        sums = rewriter.emit("MatMul", [rewriter.constant(band.astype(np.float32), made), rows], near=made)
        summed = rewriter.emit("Reshape", [sums, whole], near=made)
        scale = rewriter.emit("Pow", [rewriter.emit("Add", [summed, bias], near=made), beta], near=made)
        rewriter.emit("Div", [node.input[0], scale], made)
    return rewriter.result()
