"""Put the branch that is taken in place of each If whose condition is constant.

ONNX Runtime does so too, but its process dies of some models whose branches hold others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from veltair.compiler.frontend.graph import Names, attributes, copied, has, node_name
from veltair.compiler.frontend.model_error import ModelError, one_line

# What a condition is computed by: operators on a few constants, without bodies, always with the same result.
MOST_STEPS = 100
NEVER = {"If", "Loop", "Scan", "Shape", "Size"}


def take_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each If of a constant condition as the nodes of its branch, nested ones too.

    It is the model itself where there is none. Raises ModelError for a condition that cannot be computed.
    """
    if not has(model, "If"):
        return model
    found = copied(model)
    while (place := _next_constant(found)) is not None:
        index, taken = place
        _inline(found, index, taken)
    return found


def _next_constant(model: onnx.ModelProto) -> tuple[int, bool] | None:
    """Return the place of the first If whose condition is constant, and the condition."""
    known = {one.name for one in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output if name}
    for index, node in enumerate(model.graph.node):
        if node.op_type != "If":
            continue
        steps = _steps(node.input[0], makers, known)
        if steps is not None:
            return index, _value(model, node, steps)
    return None


def _steps(
    name: str, makers: Mapping[str, onnx.NodeProto], known: set[str]
) -> Sequence[onnx.NodeProto] | None:
    """Return the nodes that compute a value from constants, in their order; None if it is not constant."""
    steps: dict[str, onnx.NodeProto] = {}
    open_ones = [name]
    while open_ones:
        one = open_ones.pop()
        if not one or one in known:
            continue
        node = makers.get(one)
        if node is None or node.op_type in NEVER or len(steps) > MOST_STEPS:
            return None
        steps.pop(one, None)  # what reads it needs it earlier
        steps[one] = node
        open_ones.extend(node.input)
    return list({id(node): node for node in reversed(steps.values())}.values())


def _value(model: onnx.ModelProto, node: onnx.NodeProto, steps: Sequence[onnx.NodeProto]) -> bool:
    constants = {one.name: one for one in model.graph.initializer}
    wanted = {given for step in steps for given in step.input} | {node.input[0]}
    output = helper.make_tensor_value_info(node.input[0], onnx.TensorProto.BOOL, None)
    held = [constants[name] for name in wanted if name in constants]
    graph = helper.make_graph(steps, "condition", [], [output], initializer=held)
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        (value,) = ReferenceEvaluator(alone).run(None, {})
        return bool(np.asarray(value).item())
    except Exception as error:  # of many kinds; a condition of several values is one of them
        raise ModelError(
            f"the condition of node {node_name(node)} (If) cannot be computed: {one_line(error)}; export the "
            "model without it"
        ) from error


def _inline(model: onnx.ModelProto, index: int, taken: bool) -> None:
    node = model.graph.node[index]
    branch: onnx.GraphProto = attributes(node)["then_branch" if taken else "else_branch"]
    names = Names(model)
    renamed: dict[str, str] = {}
    for one in branch.initializer:
        renamed[one.name] = names.fresh(one.name)
    for inner in branch.node:
        renamed |= {name: names.fresh(name) for name in inner.output if name}
    made = [_renamed(inner, renamed, names) for inner in branch.node]
    for one in branch.initializer:
        constant = model.graph.initializer.add()
        constant.CopyFrom(one)
        constant.name = renamed[one.name]
    for inside, outside in zip(branch.output, node.output, strict=True):
        if outside:
            source = renamed.get(inside.name, inside.name)
            name = names.fresh(f"{outside}_taken")
            made.append(helper.make_node("Identity", [source], [outside], name=name))
    before, after = list(model.graph.node[:index]), list(model.graph.node[index + 1 :])
    nodes = [onnx.NodeProto.FromString(one.SerializeToString()) for one in (*before, *made, *after)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _renamed(node: onnx.NodeProto, renamed: Mapping[str, str], names: Names) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if copy.name:
        copy.name = names.fresh(copy.name)
    _rename(copy, renamed)
    return copy


def _rename(node: Any, renamed: Mapping[str, str]) -> None:
    """Rename what a node reads and makes, and what its bodies read of it."""
    for values in (node.input, node.output):
        values[:] = [renamed.get(name, name) for name in values]
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            own = {one.name for one in (*body.input, *body.initializer)}
            own |= {name for inner in body.node for name in inner.output}
            outer = {name: new for name, new in renamed.items() if name not in own}
            for inner in body.node:
                _rename(inner, outer)
            for output in body.output:
                output.name = outer.get(output.name, output.name)
