from collections.abc import Callable
from typing import Any

import pytest
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812 -- TVM's own name

from veltair.compiler.footprint.work import allocations, count_operations


def statement(write: Callable[[Any, Any], None]) -> Any:
    """Return the body of a function of x[64] and y[64], as something writes it."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x, y = (T.arg(name, T.buffer((64,), "float32")) for name in "xy")
        with T.sblock("root"), T.serial(0, 1) as loop, T.sblock("body"):
            T.axis.spatial(1, loop)
            write(x, y)
    return builder.get().body.block.body.body.block.body


def store(y: Any, value: Any, index: Any = 0) -> None:
    T.buffer_store(y, value, [index])


LANES = T.ramp(0, 1, 16)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (lambda x: x[0], 0),
        (lambda x: x[0] * x[1] + x[2], 2),
        (lambda x: T.max(x[0], T.float32(0)), 1),
        (lambda x: x[LANES] + x[LANES] * x[LANES], 32),
        (lambda x: x[LANES] + T.Broadcast(x[0] * x[1], 16), 17),
        (lambda x: T.exp(x[0] - x[1]), 2),
        (lambda x: T.if_then_else(x[0] + x[1] > x[2], x[0] + x[1] + x[2], x[3] * x[4]), 2),
        (lambda x: T.Select(x[0] > x[1], x[0], x[3] * x[4]), 1),
        (lambda x: x[T.int32(1) + T.int32(2) * T.int32(3)], 0),
    ],
)
def test_a_store_counts_the_arithmetic_of_its_value_a_lane_each(value: Any, count: int) -> None:
    def write(x: Any, y: Any) -> None:
        found = value(x)
        store(y, found, LANES if "x16" in str(found.ty.dtype) else 0)

    assert count_operations(statement(write)) == count


def test_loops_repeat_what_is_in_them() -> None:
    def write(x: Any, y: Any) -> None:
        with T.serial(0, 3) as i:
            store(y, x[i] + x[i], i)
            with T.vectorized(0, 5) as j:
                store(y, x[j] * x[i] + x[j], j)

    assert count_operations(statement(write)) == 3 * (1 + 5 * 2)


def test_of_two_branches_the_larger_counts() -> None:
    def write(x: Any, y: Any) -> None:
        with T.serial(0, 4) as i, T.If(i < 2):
            with T.Then():
                store(y, x[i] + x[i], i)
            with T.Else():
                store(y, x[i] + x[i] + x[i], i)

    assert count_operations(statement(write)) == 4 * 2


def test_floats_that_are_bound_count_and_indices_do_not() -> None:
    def write(x: Any, y: Any) -> None:
        with T.serial(0, 4) as i:
            place = T.bind(i * 8 + 1)
            total = T.bind(x[place] + x[i])
            store(y, total * total, i)

    assert count_operations(statement(write)) == 4 * 2


def test_calls_of_foreign_code_count_as_nothing() -> None:
    def write(x: Any, y: Any) -> None:
        store(y, x[0])
        T.evaluate(T.call_extern("int32", "micro", T.address_of(x[0])))

    assert count_operations(statement(write)) == 0


def test_buffers_that_are_made_anywhere_inside_are_found() -> None:
    def write(x: Any, y: Any) -> None:
        first = T.alloc_buffer((8,), "float32")
        with T.serial(0, 4) as i, T.If(i < 2), T.Then():
            second = T.alloc_buffer((16,), "float32")
            store(second, x[i], i)
            store(first, second[i], i)
        store(y, first[0])

    assert [int(buffer.ty.shape[0]) for buffer in allocations(statement(write))] == [8, 16]
