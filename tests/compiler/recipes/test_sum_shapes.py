import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.recipes.sum_shapes import MOST_VECTORS, sum_shapes, widest_lanes
from veltair.compiler.registers import AVX2, AVX512, Registers


@pytest.mark.parametrize(
    ("columns", "registers", "lanes"),
    [(16, AVX512, 16), (24, AVX512, 8), (12, AVX512, 4), (16, AVX2, 8), (12, AVX2, 4)],
)
def test_lanes_are_the_widest_part_of_a_register_that_columns_fill(
    columns: int, registers: Registers, lanes: int
) -> None:
    assert widest_lanes(columns, registers) == lanes


def test_the_busiest_tile_comes_first_and_each_count_of_vectors_once() -> None:
    # By hand, AVX2, 4 rows x 3 vectors: 12 sums take 6 cycles and reach the peak. 2 vectors leave a quarter
    # of the last tile unused; 4 sums of one vector wait for each other half of the time.
    assert sum_shapes(4, 24, AVX2) == [(4, 3, 8), (4, 2, 8), (4, 1, 8)]


def test_tiles_are_of_rows_that_leave_no_rest() -> None:
    # 5 x 2 sums would be as busy, but of 6 rows the second tile would hold one.
    assert sum_shapes(6, 16, AVX2)[0] == (6, 2, 8)


@given(st.integers(1, 300), st.integers(1, 64), st.sampled_from([AVX2, AVX512]))
def test_every_tile_fits_the_registers_and_the_product(
    rows: int, quarters: int, registers: Registers
) -> None:
    columns = 4 * quarters
    shapes = sum_shapes(rows, columns, registers)
    assert [vectors for _, vectors, _ in sorted(shapes, key=lambda shape: shape[1])] == list(
        range(1, min(MOST_VECTORS, columns // widest_lanes(columns, registers)) + 1)
    )
    for tile, vectors, lanes in shapes:
        assert registers.efficiency(tile, vectors) > 0
        assert tile <= rows
        assert columns % lanes == 0
