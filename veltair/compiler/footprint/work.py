"""How much a piece of TIR computes: scalar arithmetic operations. Pure."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import tvm
from tvm import tirx

_ARITHMETIC = (
    *(tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod),
    *(tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max),
)


def count_operations(statement: Any) -> int:
    """Return how many scalar operations a statement without blocks executes, all its loops run.

    Counted are sums, products, quotients, minima, maxima and calls (of exp, say: one each) in what it stores
    or binds as floats, a vector's lanes each; of two branches the larger. Indices, conditions and foreign
    code count as nothing.
    """
    if isinstance(statement, tirx.For):
        return int(statement.extent) * count_operations(statement.body)
    if isinstance(statement, tirx.SeqStmt):
        return sum(map(count_operations, statement))
    if isinstance(statement, tirx.IfThenElse):
        other = statement.else_case
        return max(count_operations(statement.then_case), 0 if other is None else count_operations(other))
    if isinstance(statement, tirx.BufferStore):
        return _in_expression(statement.value)
    if isinstance(statement, tirx.Bind) and str(statement.value.ty.dtype).startswith("float"):
        return _in_expression(statement.value)
    return count_operations(statement.body) if isinstance(statement, tirx.AttrStmt) else 0


def allocations(statement: Any) -> Iterator[Any]:
    """Yield the buffers that are made by a statement without blocks."""
    if isinstance(statement, tirx.AllocBuffer):
        yield statement.buffer
    elif isinstance(statement, tirx.SeqStmt):
        for child in statement:
            yield from allocations(child)
    elif isinstance(statement, tirx.IfThenElse):
        for child in (statement.then_case, statement.else_case):
            yield from allocations(child)
    elif isinstance(statement, tirx.For | tirx.AttrStmt):
        yield from allocations(statement.body)


def _in_expression(node: Any) -> int:
    if branches := _branches(node):
        return max(map(_in_expression, branches))
    # A call that gives an address computes nothing, and has no dtype.
    counts = isinstance(node, (*_ARITHMETIC, tvm.ir.Call)) and hasattr(node.ty, "dtype")
    own = _lanes(str(node.ty.dtype)) if counts else 0
    return own + sum(map(_in_expression, _operands(node)))


def _branches(node: Any) -> Sequence[Any]:
    if isinstance(node, tirx.Select):
        return node.true_value, node.false_value
    is_call = isinstance(node, tvm.ir.Call)
    return node.args[1:] if is_call and getattr(node.op, "name", "").endswith("if_then_else") else ()


def _operands(node: Any) -> Sequence[Any]:
    if isinstance(node, _ARITHMETIC):
        return node.a, node.b
    if isinstance(node, tirx.Cast | tirx.Broadcast):
        return (node.value,)
    if isinstance(node, tirx.Let):
        return node.value, node.body
    return node.args if isinstance(node, tvm.ir.Call) else ()


@cache
def _lanes(dtype: str) -> int:
    return int(tvm.DataType(dtype).lanes)
