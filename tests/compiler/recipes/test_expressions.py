"""Expressions of small functions, written as tensor expressions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from tests.support.nests import matmul
from veltair.compiler.recipes.expressions import (
    equal,
    evaluate,
    is_float32,
    is_single,
    leaves,
    loads_of,
    operands_of,
    product_of,
)

ROW, COLUMN = tirx.Var("i", "int32"), tirx.Var("j", "int32")


def elementwise(compute: Callable[..., Any], dtype: str = "float32") -> Any:
    """Return out[i, j] of a[4, 8] and b[8]."""
    a, b = te.placeholder((4, 8), dtype, name="a"), te.placeholder((8,), dtype, name="b")
    return te.create_prim_func([a, b, te.compute((4, 8), lambda i, j: compute(a, b, i, j), name="out")])


def block_of(function: Any) -> Any:
    (block,) = leaves(function.body)
    return block


def is_vectorisable(compute: Callable[..., Any]) -> bool:
    function = elementwise(compute)
    block = block_of(function)
    axes = [axis.var for axis in block.iter_vars]
    return is_single(block.body.value, axes, set(), list(function.params))


def test_the_leaves_of_a_function_are_its_computations_in_order() -> None:
    a = te.placeholder((4, 8), name="a")
    first = te.compute((4, 8), lambda i, j: a[i, j] + 1.0, name="first")
    second = te.compute((4, 8), lambda i, j: first[i, j] * 2.0, name="second")
    found = leaves(te.create_prim_func([a, second]).body)
    assert [str(block.name_hint) for block in found] == ["first", "second"]


@pytest.mark.parametrize(("dtype", "expected"), [("float32", True), ("int32", False)])
def test_a_function_of_other_numbers_is_told(dtype: str, expected: bool) -> None:
    function = elementwise(lambda a, b, i, j: a[i, j] + b[j], dtype)
    assert is_float32([block_of(function)]) is expected


def test_indices_are_equal_if_they_are_for_every_value() -> None:
    assert equal([ROW + COLUMN, ROW * 2], [COLUMN + ROW, ROW + ROW])
    assert not equal([ROW], [COLUMN])
    assert not equal([ROW], [ROW, COLUMN])


def test_the_factors_of_a_sum_of_products_are_its_loads() -> None:
    function = matmul(4, 8, 6)
    factors = product_of(block_of(function))
    assert factors is not None
    assert [factor.source.same_as(one) for factor, one in zip(factors, function.params, strict=False)] == [
        True
    ] * 2


@pytest.mark.parametrize(
    "value",
    [
        lambda a, b, i, k: te.sum(a[i, k], axis=k),
        lambda a, b, i, k: te.sum(a[i, k] * 2.0, axis=k),
        lambda a, b, i, k: te.max(a[i, k] * b[k], axis=k),
    ],
)
def test_what_sums_no_products_has_no_factors(value: Callable[..., Any]) -> None:
    a, b, k = (
        te.placeholder((4, 8), name="a"),
        te.placeholder((8,), name="b"),
        te.reduce_axis((0, 8), name="k"),
    )
    function = te.create_prim_func([a, b, te.compute((4,), lambda i: value(a, b, i, k), name="out")])
    assert product_of(block_of(function)) is None


@pytest.mark.parametrize(
    "compute",
    [
        lambda a, b, i, j: a[i, j] + b[j],
        lambda a, b, i, j: tirx.max(a[i, j], tirx.FloatImm("float32", 0.0)),
        lambda a, b, i, j: tirx.exp(a[i, j]) / b[j],
        lambda a, b, i, j: tirx.Select(a[i, j] > b[j], a[i, j], b[j]),
        lambda a, b, i, j: a[0, j] - b[0],
    ],
)
def test_operations_on_single_elements_can_be_done_on_vectors(compute: Callable[..., Any]) -> None:
    assert is_vectorisable(compute)


@pytest.mark.parametrize(
    "compute",
    [
        lambda a, b, i, j: a[i, j] + b[7 - j],  # backwards
        lambda a, b, i, j: tirx.sqrt(a[i, j]),  # a function that is not vectorised
        lambda a, b, i, j: a[i, j] + i.astype("float32"),  # which is no element of anything
    ],
)
def test_what_reads_otherwise_cannot(compute: Callable[..., Any]) -> None:
    assert not is_vectorisable(compute)


def test_channels_that_do_not_lie_innermost_cannot_be_read_as_a_vector() -> None:
    a = te.placeholder((8, 4), name="a")
    function = te.create_prim_func([a, te.compute((4, 8), lambda i, j: a[j, i], name="out")])
    block = block_of(function)
    axes = [axis.var for axis in block.iter_vars]
    assert not is_single(block.body.value, axes, set(), list(function.params))


def test_what_an_expression_reads_is_found_in_all_of_its_operands() -> None:
    function = elementwise(lambda a, b, i, j: tirx.Select(a[i, j] > b[j], tirx.exp(a[i, j]), b[j]))
    found = [str(load.source.name) for load in loads_of(block_of(function).body.value)]
    assert sorted(found) == ["a", "a", "b", "b"]


def test_a_node_that_is_not_known_has_no_operands() -> None:
    assert operands_of(tirx.Not(ROW > COLUMN)) == []


def test_an_expression_becomes_one_of_vectors_where_a_vector_is_read() -> None:
    block = block_of(elementwise(lambda a, b, i, j: (a[i, j] + b[0]) * 2.0))
    lanes = tirx.Ramp(0, 1, 8)
    axes = dict(zip((axis.var for axis in block.iter_vars), (tirx.IntImm("int32", 3), lanes), strict=True))
    asked: list[tuple[str, str]] = []

    def load(buffer: Any, index: Any) -> Any:
        asked.append((str(buffer.name), str(index[-1])))
        is_vector = isinstance(index[-1], tirx.Ramp)
        one = tirx.FloatImm("float32", 1.0)
        return tirx.Broadcast(one, 8) if is_vector else one

    value = evaluate(block.body.value, axes, load)
    assert [name for name, _ in asked] == ["a", "b"]
    assert tvm.DataType(str(value.ty.dtype)).lanes == 8


def test_a_constant_stays_as_it_is() -> None:
    constant = tirx.FloatImm("float32", np.pi)
    assert evaluate(constant, {}, lambda buffer, index: None) is constant
