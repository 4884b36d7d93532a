"""Whether a kernel could be led out of its buffers by the values that it is given. Pure.

Most indices follow from loops alone. One that is read from a buffer, as a row that an input names, may be any
number: it must be bounded where it is used, by a minimum and a maximum, or whoever sends it reads and writes
what is not theirs.
"""

from collections.abc import Iterator
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm.sym import Analyzer

# They say what is already said elsewhere, or where that came from.
_NOT_COMPUTED = frozenset(("span", "ty", "annotations", "attrs", "reads", "writes", "buffer", "source"))
# What passes the address of a buffer on: nobody sees what becomes of that.
_ADDRESSES = ("address_of", "call_extern", "call_packed", "call_cpacked", "access_ptr", "call_pure_extern")


def unbounded_buffer(function: Any) -> str:
    """Return the name of a buffer in which the values of others lead anywhere; the empty text if none does.

    `function` is a function of TIR without a schedule. A bound that cannot be proved counts as none.
    """
    known, analyzer = set[str](), Analyzer()
    nodes = list(_inside(function.body))
    for node in nodes:
        if isinstance(node, tirx.For):
            _bind(analyzer, known, node.loop_var, tvm.ir.Range.from_min_extent(node.min, node.extent))
        elif isinstance(node, s_tir.SBlock):
            for one in node.iter_vars:
                _bind(analyzer, known, one.var, one.dom)
    for node in nodes:
        if any(word in str(getattr(getattr(node, "op", None), "name", "")) for word in _ADDRESSES):
            return str(node.op.name)
        if isinstance(node, TensorLoad | tirx.BufferStore):
            buffer = node.source if isinstance(node, TensorLoad) else node.buffer
            for index, extent in zip(node.indices, buffer.shape, strict=True):
                if _follows_from_values(index, known) and not _is_within(analyzer, index, extent):
                    return str(buffer.name)
    return ""


def _bind(analyzer: Any, known: set[str], variable: Any, values: Any) -> None:
    """Take note of the values that a loop gives a variable, unless they follow from others' values."""
    if all(isinstance(one, tirx.IntImm) for one in (values.min, values.extent)):
        analyzer.bind(variable, values)
        known.add(_identity(variable))


def _follows_from_values(index: Any, known: set[str]) -> bool:
    return any(
        isinstance(part, TensorLoad) or (isinstance(part, tirx.Var) and _identity(part) not in known)
        for part in _inside(index)
    )


def _is_within(analyzer: Any, index: Any, extent: Any) -> bool:
    bound = analyzer.const_int_bound(index)
    return bool(int(bound.min_value) >= 0 and int(bound.max_value) < int(extent))


def _identity(node: Any) -> str:
    return str(node.__chandle__())


def _inside(node: Any) -> Iterator[Any]:
    """Yield a piece of TIR and all that it is made of, but for what is said of it beside."""
    left = [node]
    while left:
        one = left.pop()
        names = _fields(type(one))
        if names:
            yield one
            left += [getattr(one, name) for name in names if name not in _NOT_COMPUTED]
        elif isinstance(one, list | tuple) or type(one).__name__ == "Array":
            left += list(one)


def _fields(kind: type[Any]) -> list[str]:
    """Return the names of what a node of TIR has, its bases' too; nothing for what is none."""
    info = getattr(kind, "__tvm_ffi_type_info__", None)
    names: list[str] = []
    while info is not None:
        names += [field.name for field in info.fields]
        info = getattr(info, "parent_type_info", None)
    return names
