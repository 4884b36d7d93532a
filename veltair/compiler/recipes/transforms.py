"""The transforms of Winograd's convolution F(m x m, 3 x 3), written with the fewest operations. Pure.

They work on whatever can be added and multiplied by numbers: expressions of TIR, or arrays in tests.
Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, section 4.
"""

from collections.abc import Callable, Sequence
from typing import Any

# Outputs of a tile in each direction. More would save more products, but float32 loses too many digits.
TILES = (2, 4)
KERNEL = 3

# A transform of a line of values.
Line = Callable[[Sequence[Any]], list[Any]]


def inputs_of(tile: int) -> int:
    """Return how many inputs in a direction a tile of so many outputs reads: its products in a direction."""
    return tile + KERNEL - 1


def transform_input(tile: int, values: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return B^T d B of a square of inputs."""
    return _both_ways(_INPUT[tile], values)


def transform_weight(tile: int, values: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return G g G^T of a 3 x 3 kernel."""
    return _both_ways(_WEIGHT[tile], values)


def transform_output(tile: int, values: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return A^T m A of a square of products: the outputs of a tile."""
    return _both_ways(_OUTPUT[tile], values)


def _both_ways(line: Line, values: Sequence[Sequence[Any]]) -> list[list[Any]]:
    columns = [line(column) for column in zip(*values, strict=True)]
    return [line(row) for row in zip(*columns, strict=True)]


def _input_2(d: Sequence[Any]) -> list[Any]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _weight_2(g: Sequence[Any]) -> list[Any]:
    ends = (g[0] + g[2]) * 0.5
    middle = g[1] * 0.5
    return [g[0], ends + middle, ends - middle, g[2]]


def _output_2(m: Sequence[Any]) -> list[Any]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _input_4(d: Sequence[Any]) -> list[Any]:
    even, odd = d[4] - d[2] * 4.0, d[3] - d[1] * 4.0
    even_2, odd_2 = d[4] - d[2], (d[3] - d[1]) * 2.0
    return [
        d[0] * 4.0 - d[2] * 5.0 + d[4],
        even + odd,
        even - odd,
        even_2 + odd_2,
        even_2 - odd_2,
        d[1] * 4.0 - d[3] * 5.0 + d[5],
    ]


def _weight_4(g: Sequence[Any]) -> list[Any]:
    ends, middle = (g[0] + g[2]) * (-1 / 6), g[1] * (1 / 6)
    ends_2, middle_2 = g[0] * (1 / 24) + g[2] * (1 / 6), g[1] * (1 / 12)
    return [g[0] * 0.25, ends - middle, ends + middle, ends_2 + middle_2, ends_2 - middle_2, g[2]]


def _output_4(m: Sequence[Any]) -> list[Any]:
    sum_1, difference_1 = m[1] + m[2], m[1] - m[2]
    sum_2, difference_2 = m[3] + m[4], m[3] - m[4]
    return [
        m[0] + sum_1 + sum_2,
        difference_1 + difference_2 * 2.0,
        sum_1 + sum_2 * 4.0,
        difference_1 + difference_2 * 8.0 + m[5],
    ]


_INPUT: dict[int, Line] = {2: _input_2, 4: _input_4}
_WEIGHT: dict[int, Line] = {2: _weight_2, 4: _weight_4}
_OUTPUT: dict[int, Line] = {2: _output_2, 4: _output_4}
