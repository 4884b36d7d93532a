from collections.abc import Sequence
from typing import Any

import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.footprint.bounds import UNKNOWN, compile_bounds

X, Y = tvm.tirx.Var("x", "int64"), tvm.tirx.Var("y", "int64")
SIGNED = st.tuples(st.integers(-20, 20), st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1]))


EXPRESSIONS = {
    "x + y": (X + Y, lambda x, y: x + y),
    "x - y": (X - Y, lambda x, y: x - y),
    "3 x - 2 y": (X * 3 - Y * 2, lambda x, y: 3 * x - 2 * y),
    "x * y": (X * Y, lambda x, y: x * y),
    "x // 4": (tvm.tirx.floordiv(X, 4), lambda x, y: x // 4),
    "x % 4": (tvm.tirx.floormod(X, 4), lambda x, y: x % 4),
    "min": (tvm.tirx.min(X, Y), min),
    "max": (tvm.tirx.max(X, Y), max),
    "(4 x + y) // 4 % 3": (
        tvm.tirx.floormod(tvm.tirx.floordiv(X * 4 + Y, 4), 3),
        lambda x, y: (4 * x + y) // 4 % 3,
    ),
}


def number_of(variable: Any) -> int:
    return 0 if variable.same_as(X) else 1


@pytest.mark.parametrize("name", EXPRESSIONS)
@given(SIGNED, SIGNED)
def test_bounds_hold_for_every_value(name: str, x: tuple[int, int], y: tuple[int, int]) -> None:
    expression, evaluate = EXPRESSIONS[name]
    low, high = compile_bounds(expression, number_of)([x, y])
    values = [evaluate(a, b) for a in range(x[0], x[1] + 1) for b in range(y[0], y[1] + 1)]
    assert low <= min(values)
    assert max(values) <= high


@pytest.mark.parametrize("name", ["x + y", "x - y", "3 x - 2 y", "x * y", "x // 4", "min", "max"])
@given(SIGNED, SIGNED)
def test_bounds_of_one_step_are_reached(name: str, x: tuple[int, int], y: tuple[int, int]) -> None:
    expression, evaluate = EXPRESSIONS[name]
    values = [evaluate(a, b) for a in range(x[0], x[1] + 1) for b in range(y[0], y[1] + 1)]
    assert compile_bounds(expression, number_of)([x, y]) == (min(values), max(values))


@pytest.mark.parametrize(
    "expression",
    [tvm.tirx.floordiv(X, Y), tvm.tirx.floormod(X, Y), tvm.tirx.Select(X > 0, X, Y)],
    ids=["quotient", "remainder", "choice"],
)
def test_what_is_not_understood_is_unknown(expression: Any) -> None:
    bounds: Sequence[Any] = [(0, 3), (1, 2)]
    assert compile_bounds(expression, number_of)(bounds) == UNKNOWN
