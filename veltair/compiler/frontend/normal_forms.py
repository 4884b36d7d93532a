"""Bring operators into the one of their forms that TVM's importer has right.

What its converters leave out was found by comparing small models with ONNX Runtime: automatic padding, shapes
and scales that broadcast, exponents of another type. Each pass keeps the function of a model.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from veltair.compiler.frontend.graph import (
    Rewriter,
    attributes,
    copied,
    drop_attributes,
    has,
    node_name,
    opset,
    set_attribute,
    shapes,
    types,
)
from veltair.compiler.frontend.model_error import ModelError

POOLS = ("MaxPool", "AveragePool", "LpPool")
PADDED = ("Conv", "ConvTranspose", *POOLS)


def explicit_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace `auto_pad`, and a ConvTranspose's `output_shape`, by the pads that they mean."""
    chosen = [node for node in model.graph.node if node.op_type in PADDED and _pads_itself(node)]
    if not chosen:
        return model
    known = shapes(model)
    model = copied(model)
    for node in model.graph.node:
        if node.op_type in PADDED and _pads_itself(node) and node.input[0] in known:
            pads = _transposed_pads if node.op_type == "ConvTranspose" else _window_pads
            set_attribute(node, "pads", pads(node, known))
            drop_attributes(node, "auto_pad", "output_shape")
    return model


def _pads_itself(node: onnx.NodeProto) -> bool:
    given = attributes(node)
    return given.get("auto_pad", "NOTSET") != "NOTSET" or bool(given.get("output_shape"))


def _window_pads(node: onnx.NodeProto, known: dict[str, tuple[int, ...]]) -> list[int]:
    """Return the pads with which a window's output has the size of its input over the stride, rounded up."""
    given = attributes(node)
    extents = known[node.input[0]][2:]
    kernel = given.get("kernel_shape") or (known[node.input[1]][2:] if node.op_type == "Conv" else ())
    rank = len(extents)
    strides, dilations = given.get("strides") or [1] * rank, given.get("dilations") or [1] * rank
    if node.op_type in POOLS and given["auto_pad"] != "VALID" and any(gap != 1 for gap in dilations):
        raise ModelError(
            f"node {node_name(node)} ({node.op_type}) has dilations and auto_pad, of which "
            "ONNX Runtime computes another size than ONNX says; export it with pads in place of auto_pad"
        )
    before, after = [], []
    for extent, width, stride, dilation in zip(extents, kernel, strides, dilations, strict=True):
        total = 0
        if given["auto_pad"].startswith("SAME"):
            total = max(0, (-(-extent // stride) - 1) * stride + (width - 1) * dilation + 1 - extent)
        # An odd one goes to the end, or with SAME_LOWER to the beginning.
        first = total - total // 2 if given["auto_pad"] == "SAME_LOWER" else total // 2
        before.append(first)
        after.append(total - first)
    return before + after


def _transposed_pads(node: onnx.NodeProto, known: dict[str, tuple[int, ...]]) -> list[int]:
    given = attributes(node)
    extents = known[node.input[0]][2:]
    kernel = given.get("kernel_shape") or known[node.input[1]][2:]
    rank = len(extents)
    strides, dilations = given.get("strides") or [1] * rank, given.get("dilations") or [1] * rank
    added = given.get("output_padding") or [0] * rank
    automatic = given.get("auto_pad", "NOTSET")
    wanted = list(given.get("output_shape") or [])[-rank:]
    if not wanted and automatic == "VALID":
        return [0] * (2 * rank)
    wanted = wanted or [extent * stride for extent, stride in zip(extents, strides, strict=True)]
    before, after = [], []
    for axis in range(rank):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        total = strides[axis] * (extents[axis] - 1) + added[axis] + reach - wanted[axis]
        if total < 0:
            raise ModelError(
                f"node {node_name(node)} (ConvTranspose) has output_shape {wanted}, larger than what it "
                "computes; export it with output_padding instead"
            )
        first = total // 2 if automatic == "SAME_UPPER" else total - total // 2
        before.append(first)
        after.append(total - first)
    return before + after


def scales_as_wide(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a LayerNormalization, or RMSNormalization, a scale and bias as wide as what it normalises."""
    if not has(model, "LayerNormalization", "RMSNormalization"):
        return model
    known = shapes(model)
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        if node.op_type in ("LayerNormalization", "RMSNormalization") and node.input[0] in known:
            shape = known[node.input[0]]
            axis = attributes(node).get("axis", -1)
            wide = shape[axis if axis < 0 else axis - len(shape) :]
            for place, given in enumerate(node.input[1:], start=1):
                node.input[place] = _as_wide(rewriter, given, known.get(given, wide), wide)
        rewriter.keep(node)
    return rewriter.result()


def _as_wide(rewriter: Rewriter, name: str, shape: tuple[int, ...], wide: tuple[int, ...]) -> str:
    if not name or shape == wide:
        return name
    array = rewriter.values(name)
    # A scale may have leading dimensions of 1 beyond those that are normalised.
    narrow = shape[len(shape) - len(wide) :] if prod(shape[: max(0, len(shape) - len(wide))]) == 1 else shape
    if array is not None:
        return rewriter.constant(np.broadcast_to(array.reshape(narrow), wide), name)
    target = rewriter.constant(np.array(wide, np.int64), name)
    if narrow != shape:
        name = rewriter.emit(
            "Reshape", [name, rewriter.constant(np.array(narrow, np.int64), name)], near=name
        )
    return rewriter.emit("Expand", [name, target], near=name)


def powers_of_one_type(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the exponent of a Pow the type of its base."""
    if not has(model, "Pow"):
        return model
    known = types(model)
    wrong = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Pow" and known.get(node.input[0]) != known.get(node.input[1])
    }
    if not wrong:
        return model
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        if node.op_type == "Pow" and node.output[0] in wrong:
            kind = known[node.input[0]]
            array = rewriter.values(node.input[1])
            if kind in (TensorProto.INT32, TensorProto.INT64):
                # Of whole numbers too the power is computed as ONNX Runtime does, in float64.
                rewriter.keep(node)
                continue
            if array is not None:
                node.input[1] = rewriter.constant(
                    array.astype(helper.tensor_dtype_to_np_dtype(kind)), node.output[0]
                )
            else:
                node.input[1] = rewriter.emit("Cast", [node.input[1]], near=node.output[0], to=kind)
        rewriter.keep(node)
    return rewriter.result()


def squeezed_axes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name the axes of each Squeeze, counted from the front."""
    if not has(model, "Squeeze"):
        return model
    known = shapes(model)
    version = opset(model)
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        if node.op_type == "Squeeze" and node.input[0] in known:
            shape = known[node.input[0]]
            axes = _axes(node, rewriter)
            if axes is None and not node.input[1:]:
                axes = [axis for axis, extent in enumerate(shape) if extent == 1]
            if axes is not None:
                axes = sorted(axis % len(shape) for axis in axes)
                if version >= 13:
                    name = rewriter.constant(np.array(axes, np.int64), node.output[0])
                    del node.input[1:]
                    node.input.append(name)
                else:
                    set_attribute(node, "axes", axes)
        rewriter.keep(node)
    return rewriter.result()


def _axes(node: onnx.NodeProto, rewriter: Rewriter) -> list[int] | None:
    if len(node.input) > 1 and node.input[1]:
        array = rewriter.values(node.input[1])
        return None if array is None else [int(axis) for axis in array.reshape(-1)]
    found: Sequence[Any] | None = attributes(node).get("axes")
    return None if found is None else [int(axis) for axis in found]


def whole_attributes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop attributes that are empty lists: exporters write them for what is not given."""
    empty = {onnx.AttributeProto.INTS: "ints", onnx.AttributeProto.FLOATS: "floats"}

    def is_empty(one: onnx.AttributeProto) -> bool:
        return one.type in empty and not getattr(one, empty[one.type])

    if not any(is_empty(one) for node in model.graph.node for one in node.attribute):
        return model
    model = copied(model)
    for node in model.graph.node:
        drop_attributes(node, *[one.name for one in node.attribute if is_empty(one)])
    return model


def averages_with_gaps(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace an AveragePool with dilations, which TVM has wrong, by a convolution of each channel alone."""

    def has_gaps(node: onnx.NodeProto) -> bool:
        given = attributes(node)
        gaps = any(gap != 1 for gap in given.get("dilations") or [])
        return node.op_type == "AveragePool" and gaps and not given.get("ceil_mode", 0)

    if not any(map(has_gaps, model.graph.node)):
        return model
    known = shapes(model)
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        source, made = node.input[0], node.output[0]
        if not has_gaps(node) or source not in known or made not in known:
            rewriter.keep(node)
            continue
        given, channels = attributes(node), known[source][1]
        width = given["kernel_shape"]
        kernel = np.full((channels, 1, *width), 1 / prod(width), np.float32)
        options: dict[str, Any] = {
            key: list(given[key]) for key in ("dilations", "pads", "strides") if given.get(key)
        }
        inputs = [source, rewriter.constant(kernel, made)]
        if given.get("count_include_pad", 0) or not any(given.get("pads") or []):
            rewriter.emit("Conv", inputs, made, group=channels, **options)
            continue
        sums = rewriter.emit("Conv", inputs, near=made, group=channels, **options)
        factors = _whole_windows(node, known[source][2:], known[made][2:])
        rewriter.emit("Mul", [sums, rewriter.constant(factors, made)], made)
    return rewriter.result()


def _whole_windows(node: onnx.NodeProto, extents: Sequence[int], made: Sequence[int]) -> NDArray[np.float32]:
    """Return the values of a window over those inside the input, for each output: (1, 1, height, ...)."""
    given = attributes(node)
    rank = len(extents)
    strides = given.get("strides") or [1] * rank
    factors = np.ones([1] * (rank + 2))
    for axis, extent in enumerate(extents):
        width, gap, before = given["kernel_shape"][axis], given["dilations"][axis], given["pads"][axis]
        places = np.arange(made[axis])[:, None] * strides[axis] - before + np.arange(width)[None, :] * gap
        inside = ((places >= 0) & (places < extent)).sum(axis=1)
        factors = factors * (width / inside).reshape(
            [-1 if one == axis + 2 else 1 for one in range(rank + 2)]
        )
    return factors.astype(np.float32)
