"""Each node of a model as a model of its own, to find the one that is to blame."""

from collections.abc import Iterator

import onnx
from onnx import helper

from veltair.compiler.frontend.graph import constants, shapes, types


def single_nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.ModelProto]]:
    """Yield each node with a model of it alone, the first of those that are equal but for names.

    Nodes with an input or output of unknown shape, or without any input that is no constant, are left out.
    """
    sizes, kinds, known = shapes(model), types(model), constants(model)
    seen: set[bytes] = set()
    for node in model.graph.node:
        given = dict.fromkeys(name for name in node.input if name and name not in known)
        made = [name for name in node.output if name]
        if not given or any(name not in sizes or not kinds.get(name) for name in (*given, *made)):
            continue
        key = _key(node, sizes, kinds, known)
        if key in seen:
            continue
        seen.add(key)
        inputs, outputs = (
            [helper.make_tensor_value_info(name, kinds[name], sizes[name]) for name in names]
            for names in (given, made)
        )
        used = [known[name] for name in dict.fromkeys(node.input) if name in known]
        graph = helper.make_graph([node], "node", inputs, outputs, initializer=used)
        one = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        one.metadata_props.extend(model.metadata_props)
        yield node, one


def describe(node: onnx.NodeProto, model: onnx.ModelProto) -> str:
    """Return what a node computes from what, in a few words: its inputs' shapes and its attributes."""
    sizes, kinds = shapes(model), types(model)
    shown = [_text(sizes[name], kinds.get(name, 0)) for name in node.input if name in sizes]
    listed = [f"{one.name}={_short(one)}" for one in node.attribute if one.type != onnx.AttributeProto.GRAPH]
    return f"inputs {', '.join(shown) or 'of unknown shape'}" + (f"; {', '.join(listed)}" if listed else "")


def _text(shape: tuple[int, ...], kind: int) -> str:
    text = "x".join(map(str, shape)) or "scalar"
    named = kind not in (0, onnx.TensorProto.FLOAT)
    return f"{onnx.TensorProto.DataType.Name(kind).lower()} {text}" if named else text


def _short(attribute: onnx.AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, onnx.TensorProto):
        return "a tensor"
    text = str(list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _key(
    node: onnx.NodeProto,
    sizes: dict[str, tuple[int, ...]],
    kinds: dict[str, int],
    known: dict[str, onnx.TensorProto],
) -> bytes:
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    bare.ClearField("name")
    order = {name: str(number) for number, name in enumerate(dict.fromkeys(node.input))}
    del bare.input[:]
    bare.input.extend(
        f"{order[name]}{sizes.get(name)}{kinds.get(name)}{name in known}" for name in node.input
    )
    del bare.output[:]
    bare.output.extend(str(number) for number, _ in enumerate(node.output))
    # Small constants say what is computed (axes, sizes); weights do not.
    small = [
        known[name].SerializeToString() for name in node.input if name in known and _is_small(known[name])
    ]
    return b"".join((bytes(bare.SerializeToString(deterministic=True)), *small))


def _is_small(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.ByteSize() < 256)
