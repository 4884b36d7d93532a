"""Statements that kernels are made of, in kernels that do nothing else."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm import te, tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import build
from tvm.tirx.script.builder import ir as T  # noqa: N812 - as TVM's own scripts call it

from veltair.compiler.recipes.statements import (
    LINE_FLOATS,
    Sums,
    Where,
    arguments_of,
    channels_at,
    prefetch,
    widest,
    zeros,
)
from veltair.compiler.search.target import cpu_target

LANES = 8


def module_of(body: Callable[..., None], *shapes: tuple[int, ...]) -> IRModule:
    """Return a module whose "main" has buffers of some shapes, the last of which it writes."""
    function: Any = SimpleNamespace(
        params=[SimpleNamespace(ty=SimpleNamespace(shape=shape, dtype="float32")) for shape in shapes]
    )
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        buffers = arguments_of(function)
        with T.sblock("root"), T.serial(1) as step, T.sblock("whole"):
            T.reads(*(buffer[tuple(slice(0, extent) for extent in buffer.shape)] for buffer in buffers[:-1]))
            T.writes(buffers[-1][tuple(slice(0, extent) for extent in buffers[-1].shape)])
            T.bind(step)
            body(*buffers)
    return IRModule({"main": builder.get().with_attr("global_symbol", "main")})


def answer(body: Callable[..., None], shape: tuple[int, ...], *given_arrays: NDArray[Any]) -> NDArray[Any]:
    """Return what a kernel writes, which is 7 where it writes nothing."""
    library = build(module_of(body, *(array.shape for array in given_arrays), shape), target=cpu_target(2))
    output = tvm.runtime.tensor(np.full(shape, 7, np.float32))
    library["main"](*map(tvm.runtime.tensor, given_arrays), output)
    found: NDArray[Any] = output.numpy()
    return found


def ramp(*shape: int) -> NDArray[Any]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_statements_run_where_all_conditions_hold() -> None:
    def body(data: Any, output: Any) -> None:
        with T.serial(6) as at, Where(at >= 2, at < 4):
            T.buffer_store(output, data[at], [at])

    assert answer(body, (6,), ramp(6)).tolist() == [7, 7, 2, 3, 7, 7]


def test_without_conditions_statements_run_always() -> None:
    def body(data: Any, output: Any) -> None:
        with T.serial(3) as at, Where():
            T.buffer_store(output, data[at], [at])

    assert answer(body, (3,), ramp(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("rows", "vectors"), [(1, 1), (2, 3)])
def test_sums_of_products_are_those_of_every_row_and_column(rows: int, vectors: int) -> None:
    depth, columns = 5, vectors * LANES
    left, right = ramp(rows, depth), ramp(depth, columns)

    def body(a: Any, b: Any, output: Any) -> None:
        sums = Sums(rows, vectors, LANES)
        places = [channels_at(vector * LANES, LANES) for vector in range(vectors)]
        with T.serial(depth) as step:
            sums.add([a[row, step] for row in range(rows)], [b[step, place] for place in places])
        for row in range(rows):
            for place, vector in zip(places, sums.vectors(row), strict=True):
                T.buffer_store(output, vector, [row, place])

    np.testing.assert_allclose(answer(body, (rows, columns), left, right), left @ right)


def test_memory_that_is_fetched_ahead_is_not_changed() -> None:
    count = 3 * LINE_FLOATS

    def body(data: Any, output: Any) -> None:
        prefetch(data[0], count, is_written=False)
        prefetch(output[0], count, is_written=True)
        with T.serial(count) as at:
            T.buffer_store(output, data[at], [at])

    assert answer(body, (count,), ramp(count)).tolist() == ramp(count).tolist()


@pytest.mark.parametrize(("lanes", "dtype"), [(1, "float32"), (8, "float32x8")])
def test_zeros_have_as_many_lanes_as_asked(lanes: int, dtype: str) -> None:
    assert str(zeros(lanes).ty.dtype) == dtype


def test_one_channel_is_a_number_and_several_are_a_ramp() -> None:
    first = tirx.Var("first", "int32")
    assert channels_at(first, 1) is first
    assert isinstance(channels_at(first, 4), tirx.Ramp)


@given(st.integers(1, 512), st.sampled_from([1, 4, 8, 16]))
def test_the_widest_register_fills_the_channels_and_no_wider_one_does(channels: int, lanes: int) -> None:
    found = widest(channels, lanes)
    assert channels % found == 0 and found <= lanes
    wider = [width for width in (lanes, lanes // 2, lanes // 4) if width > found]
    assert all(channels % width for width in wider)


def test_arguments_have_the_shapes_and_types_of_the_function() -> None:
    x = te.placeholder((2, 3), "int32", name="x")
    function = te.create_prim_func([x, te.compute((3,), lambda i: x[0, i] + 1, name="y")])
    with IRBuilder(), T.prim_func(s_tir=True):
        T.func_name("main")
        found = arguments_of(function)
        T.evaluate(0)
    assert [(list(map(int, one.shape)), str(one.dtype)) for one in found] == [
        ([2, 3], "int32"),
        ([3], "int32"),
    ]
