from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from veltair.compiler.recipes.transforms import (
    KERNEL,
    TILES,
    inputs_of,
    transform_input,
    transform_output,
    transform_weight,
)

Square = list[list[Any]]


def in_first_row(values: list[float]) -> Square:
    """Return a square with values in its first row and zeros below."""
    return [values, *([0.0] * len(values) for _ in values[1:])]


def squares(values: NDArray[np.float64]) -> Square:
    """Return an array of (channels, rows, columns) as rows and columns of arrays of channels."""
    return [[values[:, row, column] for column in range(values.shape[2])] for row in range(values.shape[1])]


def winograd(tile: int, data: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the outputs of a tile: of each channel the products, summed over channels, transformed back."""
    given, kernel = transform_input(tile, squares(data)), transform_weight(tile, squares(weights))
    pairs = [zip(*lines, strict=True) for lines in zip(given, kernel, strict=True)]
    return np.array(transform_output(tile, [[(d * g).sum() for d, g in line] for line in pairs]))


def directly(tile: int, data: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the outputs of a tile as they are defined."""
    places = range(tile)
    return np.array(
        [
            [(data[:, row : row + KERNEL, column : column + KERNEL] * weights).sum() for column in places]
            for row in places
        ]
    )


def test_a_line_of_f_2_3_is_that_of_the_paper() -> None:
    # Lavin and Gray, section 4.1: m1 = (d0 - d2) g0, m2 = (d1 + d2) (g0 + g1 + g2) / 2,
    # m3 = (d2 - d1) (g0 - g1 + g2) / 2, m4 = (d1 - d3) g2; outputs m1 + m2 + m3 and m2 - m3 - m4.
    # A square whose first row alone is not zero transforms as a line in its first row.
    assert transform_input(2, in_first_row([1.0, 2.0, 3.0, 4.0]))[0] == [-2.0, 5.0, 1.0, -2.0]
    assert transform_weight(2, in_first_row([1.0, 2.0, 4.0]))[0] == [1.0, 3.5, 1.5, 4.0]
    assert transform_output(2, in_first_row([1.0, 2.0, 3.0, 4.0]))[0] == [6.0, -5.0]


def test_a_line_of_f_2_3_computes_two_outputs_of_four_inputs() -> None:
    # 1, 2, 3 and 4 by 1, 2 and 4: 1 + 4 + 12 = 17 and 2 + 6 + 16 = 24, in the row whose inputs meet the
    # kernel's first row.
    data, weights = np.zeros((1, 4, 4)), np.zeros((1, 3, 3))
    data[0, 0], weights[0, 0] = [1, 2, 3, 4], [1, 2, 4]
    assert winograd(2, data, weights).tolist() == [[17.0, 24.0], [0.0, 0.0]]


def test_rows_and_columns_are_told_apart() -> None:
    # One weight right of the first: outputs are the inputs right of them.
    data, weights = np.arange(36.0).reshape(1, 6, 6), np.zeros((1, 3, 3))
    weights[0, 0, 1] = 1.0
    assert winograd(4, data, weights) == pytest.approx(data[0, :4, 1:5], abs=1e-12)


@pytest.mark.parametrize(("tile", "inputs"), [(2, 4), (4, 6)])
def test_a_tile_reads_two_inputs_more_than_it_has_outputs(tile: int, inputs: int) -> None:
    assert inputs_of(tile) == inputs
    assert len(transform_input(tile, np.zeros((inputs, inputs)).tolist())) == inputs
    assert len(transform_weight(tile, np.zeros((3, 3)).tolist())) == inputs
    assert len(transform_output(tile, np.zeros((inputs, inputs)).tolist())) == tile


@given(seed=st.integers(0, 2**32 - 1), channels=st.integers(1, 40), tile=st.sampled_from(TILES))
def test_products_summed_over_channels_transform_back_to_the_convolution(
    seed: int, channels: int, tile: int
) -> None:
    random = np.random.default_rng(seed)
    data = random.uniform(-1, 1, (channels, inputs_of(tile), inputs_of(tile)))
    weights = random.uniform(-1, 1, (channels, KERNEL, KERNEL))
    assert winograd(tile, data, weights) == pytest.approx(directly(tile, data, weights), abs=1e-10)
