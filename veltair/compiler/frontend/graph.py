"""What passes over an ONNX graph share: copies, names, constants, shapes, attributes."""

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

STANDARD = ("", "ai.onnx")
# The newest opset whose operators are known to be right or refused; newer ones are converted to it.
NEWEST_OPSET = 23
SMALL = 64  # values of a constant that is looked up by what it holds


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def has(model: onnx.ModelProto, *operators: str) -> bool:
    """Tell whether a node of the graph itself, not of a body, is one of some operators of the standard."""
    return any(node.op_type in operators and node.domain in STANDARD for node in model.graph.node)


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that a model is written in; 1 where it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=1)


def node_name(node: onnx.NodeProto) -> str:
    """Return a node's name; if it has none, its output's."""
    return node.name or next(iter(node.output), "?")


def tensor(name: str, values: NDArray[Any]) -> onnx.TensorProto:
    """Return values as an initialiser."""
    return numpy_helper.from_array(np.ascontiguousarray(values).reshape(np.shape(values)), name)


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the initialisers by name."""
    return {one.name: one for one in model.graph.initializer}


def values(name: str, known: Mapping[str, onnx.TensorProto]) -> NDArray[Any] | None:
    """Return the values of a constant; None if it is none."""
    return numpy_helper.to_array(known[name]) if name in known else None


def runtime_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the graph inputs that are not initialisers."""
    known = {one.name for one in model.graph.initializer}
    known.update(one.values.name for one in model.graph.sparse_initializer)
    return [value for value in model.graph.input if value.name not in known]


def dimensions(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """Return the shape of a value; None where it has none or a dimension is open."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    if any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in dims):
        return None
    return tuple(int(dim.dim_value) for dim in dims)


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without the values of its large weights, of which only shapes and types are wanted.

    They are inputs in it. A gigabyte of weights takes seconds to be handed to ONNX's checker.
    """
    made = onnx.ModelProto(ir_version=model.ir_version)
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    graph, source = made.graph, model.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    graph.sparse_initializer.extend(source.sparse_initializer)
    known = {value.name for value in source.input}
    graph.input.extend(source.input)
    for one in source.initializer:
        if prod(one.dims) <= SMALL or one.name in known:
            graph.initializer.append(one)
        else:
            graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, one.dims))
    return made


def inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """Return the graph with the shapes and types that ONNX infers. Raises what ONNX raises."""
    return onnx.shape_inference.infer_shapes(light(model), data_prop=True).graph


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes that ONNX infers, of all values that have one without open dimensions."""
    graph = inferred(model)
    found = {one.name: tuple(one.dims) for one in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if (shape := dimensions(value)) is not None:
            found[value.name] = shape
    return found


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types that ONNX infers, as it numbers them."""
    graph = inferred(model)
    found = {one.name: one.data_type for one in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as plain values; texts as str."""
    found = {one.name: helper.get_attribute_value(one) for one in node.attribute if one.name}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Give a node an attribute, in place of the one of that name."""
    drop_attributes(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def drop_attributes(node: onnx.NodeProto, *names: str) -> None:
    """Take attributes from a node."""
    kept = [one for one in node.attribute if one.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def with_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
    """Give a model these nodes, in place; constants that nobody reads any more go."""
    nodes = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = set(reads(nodes)) | {value.name for value in model.graph.output}
    kept = [one for one in model.graph.initializer if one.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def reads(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Yield every name that nodes read, in the bodies of If and Loop too."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from reads(body.node)
                yield from (value.name for value in body.output)


def count_readers(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many read each value; to be an output counts as one."""
    readers: dict[str, int] = {value.name: 1 for value in model.graph.output}
    for name in reads(model.graph.node):
        readers[name] = readers.get(name, 0) + 1
    return readers


class Names:
    """New names for values and nodes that a model has not yet."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Take note of all names that are taken."""
        graph = model.graph
        self._taken = {one.name for one in graph.initializer} | {one.name for one in graph.input}
        self._taken.update(name for node in graph.node for name in (*node.output, node.name))

    def fresh(self, wanted: str) -> str:
        """Return a name that begins as wanted, and take it."""
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}.{number}", number + 1
        self._taken.add(name)
        return name


class Rewriter:
    """A copy of a model whose nodes are replaced one by one: what to emit, with fresh names and constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Copy the model; no node of it is kept yet."""
        self.model = copied(model)
        self.names = Names(self.model)
        self.constants = constants(self.model)
        self._kept: list[onnx.NodeProto] = []
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def keep(self, node: onnx.NodeProto) -> None:
        """Take a node over."""
        self._kept.append(node)

    def emit(
        self, operator: str, inputs: Iterable[str], output: str | None = None, near: str = "", **given: Any
    ) -> str:
        """Append a node of one output and return the output's name; `near` begins a fresh one."""
        made = output or self.names.fresh(f"{near or operator}.{operator}")
        name = self.names.fresh(f"{made}_node")
        self._kept.append(helper.make_node(operator, list(inputs), [made], name=name, **given))
        return made

    def emit_many(
        self, operator: str, inputs: Iterable[str], count: int, near: str, **given: Any
    ) -> list[str]:
        """Append a node of several outputs and return their names."""
        made = [self.names.fresh(f"{near}.{operator}{number}") for number in range(count)]
        name = self.names.fresh(f"{made[0]}_node")
        self._kept.append(helper.make_node(operator, list(inputs), made, name=name, **given))
        return made

    def constant(self, array: NDArray[Any], near: str) -> str:
        """Add an initialiser and return its name; small ones that are equal are one."""
        content = (
            str(array.dtype),
            np.shape(array),
            np.asarray(array).tobytes() if array.size <= SMALL else b"",
        )
        if array.size <= SMALL and content in self._small:
            return self._small[content]
        name = self.names.fresh(f"{near}.constant")
        made = tensor(name, array)
        self.model.graph.initializer.append(made)
        self.constants[name] = made
        if array.size <= SMALL:
            self._small[content] = name
        return name

    def values(self, name: str) -> NDArray[Any] | None:
        """Return the values of a constant; None if it is none."""
        return values(name, self.constants)

    def result(self) -> onnx.ModelProto:
        """Return the model with what was kept and emitted."""
        return with_nodes(self.model, self._kept)
