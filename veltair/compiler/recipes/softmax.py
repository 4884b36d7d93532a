"""A layer's function -> its softmax over the last axis, in float32."""

from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.ir.expr import Call, TensorLoad

from veltair.compiler.recipes.expressions import equal, is_float32, leaves, operands_of

# What the four blocks of a softmax compute: an operation and its operands, of which loads are the name of a
# buffer and whether its index has the last axis.
_TERMS = (
    ("Max", ("most", False), ("data", True)),
    ("tirx.exp", ("Sub", ("data", True), ("most", False))),
    ("Add", ("total", False), ("powers", True)),
    ("Div", ("powers", True), ("total", False)),
)


@dataclass(frozen=True, slots=True, eq=False)
class Softmax:
    """A softmax of rows of some length, each of which lies in one piece; the array has two axes or more."""

    function: Any
    rows: int
    length: int


def read_softmax(function: Any) -> Softmax | None:
    """Return the softmax that a layer is; None if it is anything else."""
    blocks, parameters = list(leaves(function.body)), list(function.params)
    if len(blocks) != len(_TERMS) or len(parameters) != 2 or not is_float32(blocks):
        return None
    if not all(isinstance(block.body, tirx.BufferStore) for block in blocks):
        return None
    names = dict(
        zip((block.body.buffer for block in blocks), ("most", "powers", "total", "output"), strict=True)
    )
    names |= {parameters[0]: "data"}
    terms = tuple(_term(block.body.value, names, [axis.var for axis in block.iter_vars]) for block in blocks)
    *outer, length = map(int, parameters[0].ty.shape)
    if terms != _TERMS or names.get(parameters[1]) != "output" or not outer:
        return None
    return Softmax(function, prod(outer), length)


def _term(node: Any, names: dict[Any, str], axes: list[Any]) -> Any:
    if isinstance(node, TensorLoad):
        if equal(node.indices, axes) or equal(node.indices, axes[:-1]):
            return names.get(node.source), len(node.indices) == len(axes)
        return None
    name = str(node.op.name) if isinstance(node, Call) else type(node).__name__
    return name, *(_term(operand, names, axes) for operand in operands_of(node))
