"""What follows the sums of a small product of matrices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tvm import te, tirx
from tvm.sym import Analyzer

from veltair.compiler.recipes.ending import Ending, read_ending
from veltair.compiler.recipes.expressions import leaves

ROWS, COLUMNS = 4, 8


def product(*following: Callable[..., Any], shape: tuple[int, ...] = (ROWS, COLUMNS)) -> Any:
    """Return a product of matrices, and what follows it one after the other: of values and a bias."""
    a, b = te.placeholder((ROWS, 6), name="a"), te.placeholder((6, COLUMNS), name="b")
    bias, k = te.placeholder((COLUMNS,), name="bias"), te.reduce_axis((0, 6), name="k")
    value = te.compute((ROWS, COLUMNS), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="sums")
    for number, compute in enumerate(following):
        last = number == len(following) - 1
        value = te.compute(
            shape if last else (ROWS, COLUMNS), partial(compute, value, bias), name=f"step{number}"
        )
    return te.create_prim_func([a, b, bias, value])


def ending_of(function: Any) -> Ending | None:
    main, *following = leaves(function.body)
    return read_ending(function, main, following)


def add_bias(value: Any, bias: Any, i: Any, j: Any) -> Any:
    return value[i, j] + bias[j]


def relu(value: Any, bias: Any, i: Any, j: Any) -> Any:
    return tirx.max(value[i, j], tirx.FloatImm("float32", 0.0))


def test_an_ending_tells_what_it_reads_of_the_parameters_and_where() -> None:
    ending = ending_of(product(add_bias, relu))
    assert ending is not None
    row, column = tirx.Var("row", "int32"), tirx.Var("column", "int32")
    ((number, index),) = ending.reads([row, column])
    assert number == 2 and len(index) == 1 and index[0].same_as(column)


def test_the_value_is_that_of_all_steps_and_each_is_kept_once() -> None:
    ending = ending_of(product(add_bias, relu))
    assert ending is not None
    kept: list[Any] = []

    def keep(value: Any) -> Any:
        kept.append(value)
        return value

    asked: list[tuple[int, int]] = []

    def read(number: int, index: Any) -> Any:
        asked.append((number, int(index[0])))
        return tirx.FloatImm("float32", 3.0)

    at = [tirx.IntImm("int32", 1), tirx.IntImm("int32", 5)]
    value = ending.value(tirx.FloatImm("float32", -7.0), at, read, keep)
    assert asked == [(2, 5)]
    assert len(kept) == 2 and kept[-1] is value
    assert float(Analyzer().simplify(value).value) == 0.0  # max(-7 + 3, 0)


def test_sums_that_nothing_follows_are_the_output_themselves() -> None:
    ending = ending_of(product())
    assert ending is not None and ending.following == () and ending.reads([]) == []
    sums = tirx.FloatImm("float32", 2.0)
    assert ending.value(sums, [], lambda number, index: None, lambda value: value) is sums


@pytest.mark.parametrize(
    ("following", "shape"),
    [
        ((lambda value, bias, j, i: value[i, j],), (COLUMNS, ROWS)),  # turned
        ((lambda value, bias, i, j: value[ROWS - 1 - i, j],), (ROWS, COLUMNS)),  # upside down
        ((lambda value, bias, i: value[i, 0],), (ROWS,)),  # of another shape
        ((lambda value, bias, i, j: tirx.sqrt(value[i, j]),), (ROWS, COLUMNS)),  # not on vectors
    ],
)
def test_what_is_more_than_operations_on_single_elements_is_no_ending(
    following: tuple[Callable[..., Any], ...], shape: tuple[int, ...]
) -> None:
    assert ending_of(product(*following, shape=shape)) is None


def test_a_function_of_two_outputs_has_no_ending() -> None:
    a, k = te.placeholder((ROWS, 6), name="a"), te.reduce_axis((0, 6), name="k")
    b = te.placeholder((6, COLUMNS), name="b")
    sums = te.compute((ROWS, COLUMNS), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="sums")
    doubled = te.compute((ROWS, COLUMNS), lambda i, j: sums[i, j] * 2.0, name="doubled")
    assert ending_of(te.create_prim_func([a, b, sums, doubled])) is None
