"""Loop nests whose tilings can be worked by hand, and running them number by number."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import tvm
from tvm import s_tir, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812 -- TVM's own name

Access = tuple[str, tuple[int, ...]]
# Of the product in two phases.
SHAPES = {"x": (8, 16), "u": (16, 32), "y": (8, 32)}


def matmul(rows: int, columns: int, depth: int) -> Any:
    """Return C[rows, columns] = A[rows, depth] B[depth, columns]."""
    a, b = te.placeholder((rows, depth), name="A"), te.placeholder((depth, columns), name="B")
    k = te.reduce_axis((0, depth), name="k")
    c = te.compute((rows, columns), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c])


def blocked(function: Any, row_tile: int, column_tile: int) -> Any:
    """Return a matmul in tiles, one for each iteration of a fused parallel loop."""
    schedule = s_tir.Schedule(tvm.IRModule({"main": function}))
    i, j, k = schedule.get_loops(schedule.get_sblock("C"))
    i_outer, i_inner = schedule.split(i, [None, row_tile])
    j_outer, j_inner = schedule.split(j, [None, column_tile])
    schedule.reorder(i_outer, j_outer, i_inner, j_inner, k)
    schedule.parallel(schedule.fuse(i_outer, j_outer))
    return schedule.mod["main"]


def blur(size: int) -> Any:
    """Return O[i] = P[i] + P[i + 1] + P[i + 2], where P is the input with a zero at each end."""
    x = te.placeholder((size,), name="x")
    padded = te.compute(
        (size + 2,),
        lambda i: te.if_then_else(te.all(i >= 1, i < size + 1), x[i - 1], tirx.const(0.0, "float32")),
        name="padded",
    )
    out = te.compute((size,), lambda i: padded[i] + padded[i + 1] + padded[i + 2], name="out")
    return te.create_prim_func([x, out])


def blur_in_tiles(size: int, tile: int) -> Any:
    """Return a blur whose padding is done in the tile that reads it."""
    schedule = s_tir.Schedule(tvm.IRModule({"main": blur(size)}))
    (i,) = schedule.get_loops(schedule.get_sblock("out"))
    outer, _ = schedule.split(i, [None, tile])
    schedule.parallel(outer)
    schedule.compute_at(schedule.get_sblock("padded"), outer)
    return schedule.mod["main"]


def in_two_phases() -> Any:
    """Return y[8, 32] = (2 x)[8, 16] u[16, 32]: one loop doubles 8 rows, one makes 4 tiles of 8 columns.

    Each phase is a block with loops inside. The second one computes in vectors of 8.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x, u, y = (T.arg(name, T.buffer(shape, "float32")) for name, shape in SHAPES.items())
        with T.sblock("root"):
            v = T.sblock_alloc_buffer((8, 16), "float32")
            with T.parallel(0, 8) as row, T.sblock("double"):
                r = T.axis.spatial(8, row)
                T.reads(x[r, 0:16])
                T.writes(v[r, 0:16])
                with T.serial(0, 16) as c:
                    T.buffer_store(v, x[r, c] + x[r, c], [r, c])
            with T.parallel(0, 4) as tile, T.sblock("product"):
                t = T.axis.spatial(4, tile)
                T.reads(v[0:8, 0:16], u[0:16, t * 8 : t * 8 + 8])
                T.writes(y[0:8, t * 8 : t * 8 + 8])
                with T.grid(8, 16) as (r, k):
                    lanes = T.ramp(t * 8, 1, 8)
                    T.buffer_store(y, y[r, lanes] + T.Broadcast(v[r, k], 8) * u[k, lanes], [r, lanes])
    return builder.get()


def with_work_space(size: int, declared: bool) -> Any:
    """Return y[4, size] = 2 x + 1, a parallel iteration a row, which keeps 2 x in a buffer of its own.

    The buffer belongs to the block if `declared`, else it is made by a statement inside.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x, y = (T.arg(name, T.buffer((4, size), "float32")) for name in "xy")
        with T.sblock("root"), T.parallel(0, 4) as row, T.sblock("share"):
            r = T.axis.spatial(4, row)
            T.reads(x[r, 0:size])
            T.writes(y[r, 0:size])
            v = (T.sblock_alloc_buffer if declared else T.alloc_buffer)((size,), "float32")
            with T.serial(0, size) as i:
                T.buffer_store(v, x[r, i] * T.float32(2), [i])
            with T.serial(0, size) as i:
                T.buffer_store(y, v[i] + T.float32(1), [r, i])
    return builder.get()


def run_accesses(function: Any) -> Iterator[Access]:
    """Yield each number that a function's loops touch, in order: what a step reads, then what it writes."""
    yield from _run(function.body, {}, one_iteration=False)


def touched_bytes(function: Any, one_iteration: bool) -> int:
    """Return how many bytes of a function's arguments its loops touch, by running them."""
    touched = set(_run(function.body, {}, one_iteration))
    return 4 * sum(buffer in {parameter.name for parameter in function.params} for buffer, _ in touched)


def _run(node: Any, values: dict[Any, int], one_iteration: bool) -> Iterator[Access]:
    run = partial(_run, one_iteration=one_iteration)
    if isinstance(node, tirx.For):
        extent = int(node.extent)
        middle = one_iteration and node.kind == tirx.ForKind.PARALLEL
        for value in [extent // 2] if middle else range(extent):
            yield from run(node.body, {**values, node.loop_var: value})
    elif isinstance(node, tirx.SeqStmt):
        for child in node:
            yield from run(child, values)
    elif isinstance(node, s_tir.SBlockRealize):
        if not _value(node.predicate, values):
            return
        axes = zip(node.block.iter_vars, node.iter_values, strict=True)
        inner = {**values, **{axis.var: _value(value, values) for axis, value in axes}}
        yield from run(node.block.body, inner)
    elif isinstance(node, tirx.BufferStore):
        yield from _loads(node.value, values)
        yield node.buffer.name, _place(node.indices, values)
    else:
        raise TypeError(f"cannot run {type(node)}")


def _loads(node: Any, values: dict[Any, int]) -> Iterator[Access]:
    if hasattr(node, "indices"):
        yield node.source.name, _place(node.indices, values)
    elif getattr(getattr(node, "op", None), "name", "").endswith("if_then_else"):
        condition, chosen, other = node.args
        yield from _loads(chosen if _value(condition, values) else other, values)
    else:
        for child in (getattr(node, name, None) for name in ("a", "b")):
            if child is not None:
                yield from _loads(child, values)


def _place(indices: Iterable[Any], values: dict[Any, int]) -> tuple[int, ...]:
    return tuple(_value(index, values) for index in indices)


def _value(node: Any, values: dict[Any, int]) -> int:
    if node in values:
        return values[node]
    if isinstance(node, tirx.IntImm):
        return int(node)
    a, b = _value(node.a, values), _value(node.b, values)
    operators = {
        "Add": a + b,
        "Sub": a - b,
        "Mul": a * b,
        "And": a and b,
        "LT": a < b,
        "LE": a <= b,
        "GE": a >= b,
        "GT": a > b,
    }
    if b:
        operators |= {"FloorDiv": a // b, "FloorMod": a % b}
    return int(operators[type(node).__name__])
