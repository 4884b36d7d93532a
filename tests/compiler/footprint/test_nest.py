from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import tvm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tvm import s_tir

from tests.support.compiler.nests import (
    blocked,
    blur_in_tiles,
    in_two_phases,
    matmul,
    run_accesses,
    with_work_space,
)
from veltair.compiler.footprint.nest import Loop, read_nest
from veltair.compiler.footprint.tiling import analyse, nest_traffic_bytes, read_tiling
from veltair.compiler.footprint.traffic import CACHE_BYTES

NUMBER = 4  # bytes


def traffic(function: Any, *caches: int) -> tuple[int, ...]:
    """Return the traffic in numbers of 4 bytes, of caches of so many numbers."""
    return tuple(
        amount // NUMBER for amount in nest_traffic_bytes(read_nest(function), [NUMBER * n for n in caches])
    )


def test_a_cache_that_holds_everything_is_filled_once() -> None:
    # A[8, 4], B[4, 8] and C[8, 8].
    assert traffic(matmul(8, 8, 4), 128) == (32 + 32 + 64,)


def test_a_cache_that_holds_a_row_of_each_is_filled_with_the_weights_for_every_row() -> None:
    # Loops i, j, k. An iteration of i touches 4 of A, all 32 of B and 8 of C: 44 numbers. In 44 they fit, and
    # what neighbours share stays: everything once. In 43 they do not, so each of 8 iterations fetches 44.
    assert traffic(matmul(8, 8, 4), 44, 43) == (128, 8 * 44)


def test_a_cache_that_holds_only_a_product_s_operands_loses_the_row_too() -> None:
    # An iteration of j touches 4 of A, 4 of B and 1 of C: 9 numbers. In 8 they do not fit, but those of k (3)
    # do: each of 64 iterations fetches 9.
    assert traffic(matmul(8, 8, 4), 9, 8) == (8 * 44, 64 * 9)


def test_no_cache_fetches_at_every_step() -> None:
    assert traffic(matmul(8, 8, 4), 0) == (8 * 8 * 4 * 3,)


def test_tiles_save_traffic_where_the_whole_does_not_fit() -> None:
    # Tiles of 4 x 4: 16 of A, 16 of B, 16 of C. Two tiles side by side share A, and touch 80 with B and C. A
    # cache of 80 keeps both, and with them B; one of 48 keeps a tile, and each pair fetches its 80; one of
    # 47 keeps an iteration of i_inner, 4 of A, 16 of B, 4 of C: 48 for each tile.
    function = blocked(matmul(8, 8, 4), 4, 4)
    assert traffic(function, 80, 48, 47) == (128, 2 * 80, 4 * 48)


def test_a_loop_into_which_axes_were_fused_is_one_for_each() -> None:
    nest = read_nest(blocked(matmul(12, 8, 4), 4, 2))
    (outer,) = nest.body
    assert isinstance(outer, Loop) and isinstance(outer.body[0], Loop)
    assert (outer.extent, outer.body[0].extent) == (3, 4)
    assert (outer.iterations, outer.parts, outer.parallel, outer.body[0].parallel) == (12, 2, True, False)
    assert read_tiling(blocked(matmul(12, 8, 4), 4, 2)).parallelism == 12


def test_a_temporary_of_a_tile_is_fetched_once_if_it_fits() -> None:
    # Each of 4 tiles touches 6 inputs (with its neighbours 16), 6 padded numbers in place and 4 outputs.
    assert traffic(blur_in_tiles(16, 4), 16) == (16 + 6 + 16,)


def test_packing_of_weights_is_not_counted() -> None:
    schedule = s_tir.Schedule(tvm.IRModule({"main": matmul(8, 8, 4)}))
    block = schedule.get_sblock("C")
    packed = schedule.cache_read(block, 1, "global")
    before = traffic(schedule.mod["main"], 1000)
    schedule.annotate(packed, "meta_schedule.layout_rewrite_preproc", 1)
    assert (before, traffic(schedule.mod["main"], 1000)) == ((160,), (128,))


FACTORS = st.sampled_from([(2, 1), (2, 2), (4, 2), (6, 3), (6, 2), (6, 6), (5, 5)])
NESTS = st.one_of(
    st.builds(
        lambda i, j, k: blocked(matmul(i[0], j[0], k), i[1], j[1]), FACTORS, FACTORS, st.integers(1, 5)
    ),
    st.builds(matmul, st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
)


@settings(max_examples=30)
@given(NESTS, st.integers(0, 150))
# Two axes in one loop: three tiles of columns pass by for each of two rows.
@example(blocked(matmul(2, 6, 1), 1, 2), 5)
def test_a_least_recently_used_cache_of_twice_the_size_fetches_no_more(function: Any, numbers: int) -> None:
    # Twice, for the model keeps what two neighbouring iterations share: their bytes are there together.
    assert misses(run_accesses(function), 2 * numbers + 3) <= traffic(function, numbers)[0]


@settings(max_examples=30)
@given(NESTS, st.integers(0, 150))
def test_it_fetches_no_less_than_a_third_of_what_a_cache_of_half_the_size_would_have_to(
    function: Any, numbers: int
) -> None:
    assert traffic(function, numbers)[0] <= 3 * misses(run_accesses(function), numbers // 2)


@settings(max_examples=30)
@given(NESTS, st.lists(st.integers(0, 150), min_size=2, max_size=5))
def test_a_larger_cache_never_fetches_more(function: Any, sizes: list[int]) -> None:
    amounts = traffic(function, *sorted(sizes))
    assert list(amounts) == sorted(amounts, reverse=True)


@settings(max_examples=20)
@given(NESTS)
def test_the_least_traffic_is_what_the_addresses_take(function: Any) -> None:
    assert traffic(function, 10**6)[0] == len(set(run_accesses(function)))


def test_one_analysis_gives_the_tiling_and_the_traffic_into_each_cache() -> None:
    function = blocked(matmul(8, 8, 4), 4, 4)
    assert analyse(function) == (read_tiling(function), (512,) * len(CACHE_BYTES))


def misses(accesses: Iterator[Any], size: int) -> int:
    """Return how often a least-recently-used cache of some numbers must fetch one."""
    held: OrderedDict[Any, None] = OrderedDict()
    count = 0
    for access in accesses:
        if access in held:
            held.move_to_end(access)
            continue
        count += 1
        held[access] = None
        if len(held) > size:
            held.popitem(last=False)
    return count


def test_a_block_with_loops_inside_fetches_what_it_says_once_for_each_iteration() -> None:
    # 8 rows of x and of v, 16 numbers each: 256. Then 4 tiles of 320 numbers, 896 together. All touch
    # x (128), v (128), u (512) and y (256): 1024.
    apart, tiles_fit, all_fits = 256 + 4 * 320, 256 + 896, 1024
    assert traffic(in_two_phases(), 250, 320, 1024) == (apart, tiles_fit, all_fits)


def test_work_space_of_a_block_is_fetched_once_if_it_fits() -> None:
    # A row of 8 of x, of y and of the work space in each of 4 iterations; all: 32 + 32 + 8 in place.
    assert traffic(with_work_space(8, True), 23, 24) == (96, 72)


@pytest.mark.parametrize("function", [in_two_phases(), with_work_space(8, True), with_work_space(8, False)])
def test_loops_inside_a_block_are_no_loops_of_the_nest(function: Any) -> None:
    nest = read_nest(function)
    assert all(len(leaf.path) == 1 for leaf in nest.leaves)
    assert {loop.extent for loop in nest.loops.values()} <= {8, 4}


def test_the_work_of_a_leaf_is_that_of_all_its_iterations() -> None:
    assert [leaf.work for leaf in read_nest(in_two_phases()).leaves] == [128, 8192]
    # Of 3 x 5 x 7 iterations, each one product and one sum.
    assert [leaf.work for leaf in read_nest(matmul(3, 5, 7)).leaves] == [210]
