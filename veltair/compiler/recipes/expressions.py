"""Expressions and blocks of a layer's function: read, compared, and written anew for vectors of channels."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import Call, TensorLoad
from tvm.sym import Analyzer

# From a buffer and indices to the value there.
Load = Callable[[Any, Sequence[Any]], Any]


def leaves(node: Any) -> Iterator[Any]:
    """Yield the blocks without blocks inside, in order."""
    if isinstance(node, tirx.For):
        yield from leaves(node.body)
    elif isinstance(node, tirx.SeqStmt):
        for child in node:
            yield from leaves(child)
    elif isinstance(node, s_tir.SBlockRealize):
        yield from list(leaves(node.block.body)) or [node.block]


def is_float32(blocks: Sequence[Any]) -> bool:
    """Tell whether blocks read and write nothing but float32."""
    buffers = [region.source for block in blocks for region in (*block.reads, *block.writes)]
    return all(str(buffer.ty.dtype) == "float32" for buffer in buffers)


def equal(indices: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Tell whether indices are surely the same."""
    analyzer = Analyzer()
    return len(indices) == len(wanted) and all(
        analyzer.can_prove_equal(a, b) for a, b in zip(indices, wanted, strict=True)
    )


def product_of(block: Any) -> tuple[Any, Any] | None:
    """Return the two factors that a block sums the products of, as loads; None if it does something else."""
    store = block.body
    value = store.value if isinstance(store, tirx.BufferStore) else None
    if not (isinstance(value, tirx.Add) and isinstance(value.b, tirx.Mul)):
        return None
    sums, *factors = (value.a, value.b.a, value.b.b)
    if not all(isinstance(load, TensorLoad) for load in (sums, *factors)):
        return None
    is_sum = sums.source.same_as(store.buffer) and equal(sums.indices, store.indices)
    return (factors[0], factors[1]) if is_sum else None


def is_single(node: Any, axes: Sequence[Any], known: Collection[Any], parameters: Sequence[Any]) -> bool:
    """Tell whether an expression reads single elements only, and can be computed for a vector of channels.

    `axes` are the variables of its block, the last one of channels; `known` are the buffers that are computed
    element by element before it.
    """
    if isinstance(node, TensorLoad):
        return _is_element(node, axes, known, parameters)
    if isinstance(node, tirx.FloatImm | tirx.IntImm):
        return True
    if isinstance(node, Call) and str(node.op.name) not in _CALLS:
        return False
    operands = operands_of(node)
    return bool(operands) and all(is_single(one, axes, known, parameters) for one in operands)


def loads_of(node: Any) -> Iterator[Any]:
    """Yield what an expression reads."""
    if isinstance(node, TensorLoad):
        yield node
    for operand in operands_of(node):
        yield from loads_of(operand)


def evaluate(node: Any, axes: Mapping[Any, Any], load: Load) -> Any:
    """Return an expression with its axes replaced; what is read as a vector makes it a vector."""
    if isinstance(node, TensorLoad):
        return load(node.source, [axes.get(at, at) for at in node.indices])
    operands = [evaluate(one, axes, load) for one in operands_of(node)]
    if not operands:
        return node
    make = _CALLS[str(node.op.name)] if isinstance(node, Call) else type(node)
    return make(*_alike(operands))


def _is_element(load: Any, axes: Sequence[Any], known: Collection[Any], parameters: Sequence[Any]) -> bool:
    indices = list(load.indices)
    if load.source in known:
        return len(indices) == len(axes) and all(a.same_as(b) for a, b in zip(indices, axes, strict=True))
    of_axes = [axis for at in indices for axis in axes if at.same_as(axis)]
    others = [at for at in indices if not any(at.same_as(axis) for axis in axes)]
    channels = any(at.same_as(axes[-1]) for at in indices[:-1])
    return (
        load.source in parameters
        and all(isinstance(at, tirx.IntImm) for at in others)
        and len(of_axes) == len(set(of_axes))
        and not channels  # a vector of channels is read as it lies
    )


def operands_of(node: Any) -> list[Any]:
    """Return what an expression is made of; nothing for one that is not known here."""
    if isinstance(node, Call):
        return list(node.args)
    if isinstance(node, tirx.Select):
        return [node.condition, node.true_value, node.false_value]
    return [node.a, node.b] if type(node) in _BINARY else []


def _alike(values: Sequence[Any]) -> list[Any]:
    """Return values as vectors of equally many lanes, if one of them is a vector."""
    lanes = max(_lanes(value) for value in values)
    return [value if _lanes(value) == lanes else tirx.Broadcast(value, lanes) for value in values]


def _lanes(value: Any) -> int:
    return int(tvm.DataType(str(value.ty.dtype)).lanes)


_BINARY = (
    tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min, tirx.LT, tirx.LE, tirx.GT, tirx.GE
)  # fmt: skip
_CALLS: dict[str, Callable[..., Any]] = {
    f"tirx.{function.__name__}": function for function in (tirx.exp, tirx.tanh, tirx.erf, tirx.sigmoid)
}
