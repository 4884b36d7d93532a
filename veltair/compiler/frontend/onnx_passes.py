"""Read an ONNX model and rewrite it into the form that the importer fuses well.

Each pass returns a model that computes the same function, and leaves its argument as it is. A model in which
it finds nothing to do it returns as it is, for a copy of the largest takes more than a gigabyte.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper, numpy_helper

INPUT_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
}


class ModelError(ValueError):
    """An ONNX model that cannot be served; the message names the file, the node and what to change."""


def load_onnx(path: Path) -> onnx.ModelProto:
    """Return the checked model of a file, its external data included.

    Raises ModelError if the file is missing, truncated or invalid, or its shapes are dynamic.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist; check `models.<name>.onnx` in the config")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(str(path), full_check=True)
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{path} is not a valid ONNX model (truncated?): {one_line(error)}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: its external data cannot be read: {error}") from error
    if not model.graph.node:
        raise ModelError(f"{path} has no nodes (truncated?)")
    check_static(model, str(path))
    return model


def check_static(model: onnx.ModelProto, name: str) -> None:
    """Raise ModelError unless each input is float32, int32 or int64 and every shape is a positive number."""
    inputs = runtime_inputs(model)
    if not inputs:
        raise ModelError(f"{name} has no input; models with at least one are supported")
    for value in inputs:
        kind = value.type.tensor_type.elem_type
        if kind not in INPUT_TYPES:
            raise ModelError(
                f"{name}: input {value.name} is {onnx.TensorProto.DataType.Name(kind)}; export the model "
                "with inputs of float32, int32 or int64"
            )
    for value in (*inputs, *model.graph.output):
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.dim_value <= 0:
                raise ModelError(
                    f"{name}: dimension {axis} of {value.name} is "
                    f"{dimension.dim_param or 'unknown'}; export the model with fixed shapes (batch 1)"
                )


def one_line(error: Exception) -> str:
    """Return an error's whole text on one line; the checkers name the node in a later line."""
    return " ".join(str(error).split()) or type(error).__name__


def runtime_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the graph inputs that are not initialisers."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """Apply all passes in order and check the result."""
    for apply in PASSES:
        model = apply(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def fold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Scale the weights of each Conv that only a BatchNormalization reads; the shift becomes its bias."""
    if not _has(model, "BatchNormalization"):
        return model
    model = _copy(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    readers = _count_readers(model)
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
        scale = gamma / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
        weight = numpy_helper.to_array(weights[conv.input[1]])
        bias = numpy_helper.to_array(weights[conv.input[2]]) if len(conv.input) > 2 else np.zeros_like(mean)
        folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        # New names, for another Conv may share the weight.
        prefix = f"{conv.output[0]}.folded"
        names = [f"{prefix}.weight", f"{prefix}.bias"]
        model.graph.initializer.extend(
            _tensor(name, value)
            for name, value in zip(names, (folded, beta + (bias - mean) * scale), strict=True)
        )
        conv.input[:] = [conv.input[0], *names]
        conv.output[0] = node.output[0]
    return _with_nodes(model, kept)


def sum_to_add(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace Sum by a chain of Add, which fuses into the layer before it."""
    if not _has(model, "Sum"):
        return model
    model = _copy(model)
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
    return _with_nodes(model, kept)


def drop_identities(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove Identity and Dropout, which do nothing in inference."""
    if not _has(model, "Identity", "Dropout"):
        return model
    model = _copy(model)
    outputs = {value.name for value in model.graph.output}
    alias: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        node.input[:] = [alias.get(name, name) for name in node.input]
        if node.op_type in ("Identity", "Dropout") and node.output[0] not in outputs:
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    return _with_nodes(model, kept)


def drop_unused_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove trailing optional outputs that nobody reads, such as MaxPool's Indices."""
    if all(len(node.output) == 1 for node in model.graph.node):
        return model
    model = _copy(model)
    readers = _count_readers(model)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
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
    if not _has(model, "LeakyRelu", "PRelu"):
        return model
    model = _copy(model)
    shapes = _shapes(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        slope = _only_slope(node, constants)
        shape = shapes.get(node.input[0], ()) if slope is not None else ()
        if len(shape) < 2 or shape[1] < 2:
            continue
        name = f"{node.output[0]}.slopes"
        slopes = np.full((shape[1], *[1] * (len(shape) - 2)), slope)
        model.graph.initializer.append(_tensor(name, slopes))
        node.CopyFrom(helper.make_node("PRelu", [node.input[0], name], list(node.output), name=node.name))
    return _with_nodes(model, model.graph.node)


PASSES: tuple[Callable[[onnx.ModelProto], onnx.ModelProto], ...] = (
    drop_unused_outputs,
    drop_identities,
    fold_batch_norm,
    sum_to_add,
    slopes_per_channel,
)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _has(model: onnx.ModelProto, *operators: str) -> bool:
    return any(node.op_type in operators for node in model.graph.node)


def _tensor(name: str, values: NDArray[np.float32]) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def _count_readers(model: onnx.ModelProto) -> dict[str, int]:
    readers: dict[str, int] = {value.name: 1 for value in model.graph.output}
    for name in _reads(model.graph.node):
        readers[name] = readers.get(name, 0) + 1
    return readers


def _only_slope(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> float | None:
    """Return the factor of a LeakyRelu, or of a PRelu that has one; None for any other node."""
    if node.op_type == "LeakyRelu":
        return _attribute(node, "alpha", 0.01)
    if node.op_type != "PRelu" or node.input[1] not in constants:
        return None
    slopes = numpy_helper.to_array(constants[node.input[1]])
    return float(slopes.reshape(())) if slopes.size == 1 else None


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    values = [attribute.f for attribute in node.attribute if attribute.name == name]
    return float(values[0]) if values else default


def _with_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
    nodes = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = set(_reads(nodes)) | {value.name for value in model.graph.output}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    return model


def _reads(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Yield every name that nodes read, in the bodies of If and Loop too."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _reads(attribute.g.node)
