from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.registers import AVX2, AVX512
from veltair.compiler.search.register_tiles import (
    RegisterTile,
    efficiency,
    plans,
    register_tiles,
    split_parallel,
    split_reduction,
)

EXTENTS = st.sampled_from([1, 2, 3, 7, 8, 12, 14, 28, 49])
COLUMNS = st.sampled_from([8, 16, 24, 48, 64, 160])


def test_a_tile_of_whole_vectors_is_as_efficient_as_its_registers() -> None:
    assert efficiency(RegisterTile((2, 3), 16), AVX2) == AVX2.efficiency(6, 2)
    assert efficiency(RegisterTile((7,), 16), AVX2) == AVX2.efficiency(7, 2)


def test_sums_that_tvm_would_put_on_the_heap_are_refused() -> None:
    # 14 x 32 floats are 1792 bytes; 32 registers of AVX-512 would hold them.
    assert efficiency(RegisterTile((14,), 32), AVX512) == 0.0


def test_columns_that_are_no_whole_vectors_fill_a_part_of_each() -> None:
    assert {tile.columns for tile in register_tiles((25, 25), 324, AVX2)} == {4, 2}
    assert efficiency(RegisterTile((10,), 4), AVX2) == pytest.approx(
        efficiency(RegisterTile((10,), 8), AVX2) / 2
    )
    assert register_tiles((13, 13), 125, AVX2) == []


@given(rows=st.tuples(EXTENTS, EXTENTS), columns=COLUMNS)
def test_tiles_divide_their_loops_and_the_first_is_the_most_efficient(
    rows: tuple[int, int], columns: int
) -> None:
    tiles = register_tiles(rows, columns, AVX2)
    values = [efficiency(tile, AVX2) for tile in tiles]
    assert values == sorted(values, reverse=True)
    for tile in tiles:
        assert columns % tile.columns == 0
        assert all(extent % size == 0 for extent, size in zip(rows, tile.rows, strict=True))


def test_parallel_shares_are_cut_from_rows_and_columns_alike() -> None:
    assert split_parallel((14, 28), 4, 16) == ((2, 2), 4)
    assert split_parallel((1, 7), 2, 64) == ((1, 7), 2)


@given(counts=st.tuples(EXTENTS, EXTENTS), groups=EXTENTS, goal=st.sampled_from([16, 64, 256]))
def test_parallel_shares_divide_the_tiles_and_are_no_more_than_wanted(
    counts: tuple[int, int], groups: int, goal: int
) -> None:
    rows, columns = split_parallel(counts, groups, goal)
    assert groups % columns == 0
    assert all(count % share == 0 for count, share in zip(counts, rows, strict=True))
    assert prod(rows) * columns <= goal


@given(
    rows=st.tuples(EXTENTS, EXTENTS),
    columns=COLUMNS,
    reduction=EXTENTS,
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_the_factors_of_a_plan_multiply_to_the_loops(
    rows: tuple[int, int], columns: int, reduction: int, flags: tuple[bool, bool]
) -> None:
    padded, dense = flags
    for plan in plans(rows, columns, reduction, AVX2, padded=padded, dense=dense):
        assert tuple(map(prod, plan.rows)) == rows
        assert prod(plan.columns) == columns
        assert prod(plan.reduction) == reduction
        assert padded or not plan.pad_inside
        assert dense or not (plan.packed or plan.blocked)


def test_a_reduction_is_cut_into_the_largest_blocks_that_divide_it() -> None:
    assert split_reduction(256, 64, 4) == (4, 16, 4)
    assert split_reduction(147, 64, 4) == (3, 49, 1)
    assert split_reduction(3, 64, 4) == (1, 1, 3)
