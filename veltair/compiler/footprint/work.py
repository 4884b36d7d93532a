"""How much a piece of TIR computes: scalar arithmetic operations. Pure."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import tvm
from tvm import tirx

# Types are compared as they are: isinstance of TVM's classes takes most of an analysis.
_ARITHMETIC = frozenset(
    (
        *(tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod),
        *(tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max),
    )
)
_WRAPPED = frozenset((tirx.Cast, tirx.Broadcast))
# They hold nothing that is computed as floats.
_LEAVES = frozenset((tirx.Var, tirx.IntImm, tirx.FloatImm, tirx.Ramp, tvm.ir.expr.TensorLoad))


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
    kind = type(node)
    if kind in _LEAVES:
        return 0
    if kind in _ARITHMETIC:
        return _lanes(str(node.ty.dtype)) + _in_expression(node.a) + _in_expression(node.b)
    if kind in _WRAPPED:
        return _in_expression(node.value)
    if kind is tirx.Select:
        return max(_in_expression(node.true_value), _in_expression(node.false_value))
    if kind is tirx.Let:
        return _in_expression(node.value) + _in_expression(node.body)
    return _in_call(node) if kind is tvm.ir.Call else 0


def _in_call(call: Any) -> int:
    if getattr(call.op, "name", "").endswith("if_then_else"):
        return max(map(_in_expression, call.args[1:]))
    # A call that gives an address computes nothing, and has no dtype.
    own = _lanes(str(call.ty.dtype)) if hasattr(call.ty, "dtype") else 0
    return own + sum(map(_in_expression, call.args))


@cache
def _lanes(dtype: str) -> int:
    return int(tvm.DataType(dtype).lanes)
