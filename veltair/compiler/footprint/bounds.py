"""Index expressions of TIR -> functions that bound them, by interval arithmetic. Pure.

TVM's own bound analysis gives the same bounds, but each call crosses into C++: reading a nest at every depth
takes it tens of milliseconds.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from tvm import tirx

# The least and the largest value, both included; infinite where nothing is known.
Bounds = tuple[float, float]
# From the bounds of the variables, by their numbers, to those of an expression.
Bounder = Callable[[Sequence[Bounds]], Bounds]

UNKNOWN: Bounds = (-inf, inf)


def compile_bounds(expression: Any, number_of: Callable[[Any], int]) -> Bounder:
    """Return a function that bounds an expression; what it does not understand is unknown.

    `number_of` numbers the variables.
    """
    if isinstance(expression, int | tirx.IntImm):
        constant = (int(expression), int(expression))
        return lambda known: constant
    if isinstance(expression, tirx.Var):
        number = number_of(expression)
        return lambda known: known[number]
    if isinstance(expression, tirx.Cast):
        return compile_bounds(expression.value, number_of)
    combine = _COMBINE.get(type(expression))
    if combine is None:
        return lambda known: UNKNOWN
    a, b = (compile_bounds(operand, number_of) for operand in (expression.a, expression.b))
    return lambda known: combine(a(known), b(known))


def _add(a: Bounds, b: Bounds) -> Bounds:
    return a[0] + b[0], a[1] + b[1]


def _subtract(a: Bounds, b: Bounds) -> Bounds:
    return a[0] - b[1], a[1] - b[0]


def _multiply(a: Bounds, b: Bounds) -> Bounds:
    if b[0] == b[1]:
        return (a[0] * b[0], a[1] * b[0]) if b[0] > 0 else (a[1] * b[0], a[0] * b[0]) if b[0] else (0, 0)
    if a[0] == a[1]:
        return _multiply(b, a)
    if UNKNOWN in (a, b):
        return UNKNOWN
    products = [x * y for x in a for y in b]
    return min(products), max(products)


def _divide(a: Bounds, b: Bounds) -> Bounds:
    if b[0] != b[1] or b[0] <= 0:
        return UNKNOWN
    return a[0] // b[0], a[1] // b[0]


def _modulo(a: Bounds, b: Bounds) -> Bounds:
    if b[0] != b[1] or b[0] <= 0:
        return UNKNOWN
    size = b[0]
    if a[0] // size == a[1] // size:
        return a[0] % size, a[1] % size
    return 0, size - 1


def _least(a: Bounds, b: Bounds) -> Bounds:
    return min(a[0], b[0]), min(a[1], b[1])


def _largest(a: Bounds, b: Bounds) -> Bounds:
    return max(a[0], b[0]), max(a[1], b[1])


_COMBINE: dict[type, Callable[[Bounds, Bounds], Bounds]] = {
    tirx.Add: _add,
    tirx.Sub: _subtract,
    tirx.Mul: _multiply,
    tirx.FloorDiv: _divide,
    tirx.FloorMod: _modulo,
    tirx.Min: _least,
    tirx.Max: _largest,
}
