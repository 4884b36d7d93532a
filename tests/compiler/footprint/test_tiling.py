from dataclasses import replace
from math import prod
from typing import Any

import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import s_tir, te, tirx, topi

from tests.support.compiler.nests import (
    blocked,
    blur,
    blur_in_tiles,
    in_two_phases,
    matmul,
    touched_bytes,
    with_work_space,
)
from veltair.compiler.footprint.nest import read_nest
from veltair.compiler.footprint.tiling import (
    count_macs,
    count_outputs,
    looks_up,
    of_lookup,
    read_tiling,
    work_space_bytes,
)
from veltair.compiler.footprint.traffic import Tiling, curve, traffic_bytes
from veltair.compiler.frontend.importer import ImportedModel

MIB = 2**20


def test_a_blocked_matrix_product_has_the_blocking_of_one_tile() -> None:
    # C[8, 8] = A[8, 4] B[4, 8] in tiles of 4 x 4: 2 x 2 = 4 parallel iterations. One of them touches 4 rows
    # of A, 4 columns of B and a tile of C, 4 x 4 numbers each: 3 x 16 x 4 bytes = 192. All of them touch
    # A (32 numbers), B (32) and C (64): 128 x 4 bytes = 512.
    assert read_tiling(blocked(matmul(8, 8, 4), 4, 4)) == Tiling(4, 192, 512)


def test_longer_tiles_touch_more_and_are_fewer() -> None:
    # Tiles of 4 x 8: 2 iterations, each with 16 numbers of A, all 32 of B, 32 of C: 80 x 4 bytes = 320.
    assert read_tiling(blocked(matmul(8, 8, 4), 4, 8)) == Tiling(2, 320, 512)


def test_a_nest_without_a_parallel_loop_is_one_block() -> None:
    assert read_tiling(matmul(8, 8, 4)) == Tiling(1, 512, 512)


def test_a_buffer_that_lives_in_one_iteration_is_not_counted() -> None:
    # Tiles of 4 of 16 outputs, padded in the tile. One iteration in the middle touches 6 inputs and 4
    # outputs: 40 bytes; its 6 padded numbers are its own. All touch 16 inputs and 16 outputs: 128 bytes.
    assert read_tiling(blur_in_tiles(16, 4)) == Tiling(4, 40, 128)


def test_a_buffer_between_two_nests_is_counted() -> None:
    # Padded by a nest of its own, the parallel one reads the padded buffer: 6 numbers of it and 4 outputs
    # in one iteration of 4; 18 and 16 in all. The padding's own 16 inputs are not this nest's. Its 18
    # iterations are more than the 16 of the blur, but these make 2 sums each: the blur's nest counts.
    schedule = s_tir.Schedule(tvm.IRModule({"main": blur(16)}))
    (i,) = schedule.get_loops(schedule.get_sblock("out"))
    outer, _ = schedule.split(i, [4, 4])
    schedule.parallel(outer)
    (i,) = schedule.get_loops(schedule.get_sblock("padded"))
    outer, _ = schedule.split(i, [2, 9])
    schedule.parallel(outer)
    assert read_tiling(schedule.mod["main"]) == Tiling(4, 10 * 4, 34 * 4)


def test_the_parallel_loop_with_most_arithmetic_counts_not_the_longest() -> None:
    # 8 iterations double 16 numbers each: 128 operations. 4 make 8 x 16 products and sums of 8 lanes: 8192.
    # One of these reads v (128 numbers) and 16 x 8 of u, and writes 8 x 8: 320; all: 128 + 512 + 256 = 896.
    assert read_tiling(in_two_phases()) == Tiling(4, 320 * 4, 896 * 4)


@pytest.mark.parametrize("declared", [True, False])
def test_work_space_that_is_no_stack_counts_in_the_blocking_and_is_not_compulsory(declared: bool) -> None:
    # A row of x and one of y in each of 4 iterations. 256 numbers are 1024 bytes: memory. 255 are not.
    assert read_tiling(with_work_space(256, declared)) == Tiling(4, 3 * 1024, 4 * 2 * 1024)
    assert read_tiling(with_work_space(255, declared)) == Tiling(4, 2 * 1020, 4 * 2 * 1020)


def test_a_padded_tile_of_a_parallel_iteration_is_work_space() -> None:
    # Tiles of 256 of 1024 outputs: one touches 258 inputs, 258 padded numbers of its own and 256 outputs.
    assert read_tiling(blur_in_tiles(1024, 256)) == Tiling(4, (258 + 258 + 256) * 4, 2048 * 4)


def test_what_two_stages_of_a_tile_touch_of_a_buffer_is_one_box() -> None:
    # O[i] = T[i] + x[i + 8] with T[i] = x[i], in 2 tiles of 4. The second one makes T from x[4..7] and adds
    # x[12..15]: a box of 12 numbers of x, and 4 outputs.
    x = te.placeholder((16,), name="x")
    copy = te.compute((8,), lambda i: x[i], name="T")
    schedule = s_tir.Schedule(
        tvm.IRModule({"main": te.create_prim_func([x, te.compute((8,), lambda i: copy[i] + x[i + 8], "O")])})
    )
    (i,) = schedule.get_loops(schedule.get_sblock("O"))
    outer, _ = schedule.split(i, [2, 4])
    schedule.parallel(outer)
    schedule.compute_at(schedule.get_sblock("T"), outer)
    assert read_tiling(schedule.mod["main"]) == Tiling(2, 16 * 4, 24 * 4)


def test_padding_is_clipped_to_the_buffer() -> None:
    # One tile of all 16 outputs: it pads 18 numbers but can only touch 16 inputs and 16 outputs.
    assert read_tiling(blur_in_tiles(16, 16)) == Tiling(1, 128, 128)


def test_the_middle_iteration_counts_where_borders_touch_less() -> None:
    # 3 tiles of 2: the middle one reads inputs 1 to 4, a border one only 3 of them. 4 + 2 numbers.
    assert read_tiling(blur_in_tiles(6, 2)).blocking_bytes == 6 * 4


FACTORS = st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (6, 3), (6, 2), (6, 6), (5, 5)])


@settings(max_examples=25)
@given(rows=FACTORS, columns=FACTORS, depth=st.integers(1, 5))
def test_bytes_are_those_of_the_addresses_that_the_loops_really_touch(
    rows: tuple[int, int], columns: tuple[int, int], depth: int
) -> None:
    function = blocked(matmul(rows[0], columns[0], depth), rows[1], columns[1])
    tiling = read_tiling(function)
    assert tiling.blocking_bytes == touched_bytes(function, one_iteration=True)
    assert tiling.compulsory_bytes == touched_bytes(function, one_iteration=False)


@pytest.mark.parametrize(("size", "tile"), [(16, 4), (16, 16), (6, 2), (12, 3), (5, 1)])
def test_bytes_of_a_padded_nest_are_those_that_the_loops_really_touch(size: int, tile: int) -> None:
    function = blur_in_tiles(size, tile)
    tiling = read_tiling(function)
    assert tiling.blocking_bytes == touched_bytes(function, one_iteration=True)
    assert tiling.compulsory_bytes == touched_bytes(function, one_iteration=False)


def test_the_tiny_network_unscheduled_touches_its_arguments_once(tiny_imported: ImportedModel) -> None:
    for function in tiny_imported.functions().values():
        arguments = sum(4 * prod(int(n) for n in parameter.ty.shape) for parameter in function.params)
        tiling = read_tiling(function)
        assert (tiling.parallelism, tiling.compulsory_bytes) == (1, arguments)


def test_data_that_fits_is_fetched_once() -> None:
    assert traffic_bytes(Tiling(64, 3 * MIB, 8 * MIB), cores=8, cache_bytes=8 * MIB) == 8 * MIB


def test_data_that_does_not_fit_is_fetched_once_for_each_block() -> None:
    # 64 blocks of 1 MiB; the 4 at work (4 MiB) fit a cache of 8 MiB, the whole (32 MiB) does not.
    assert traffic_bytes(Tiling(64, MIB, 32 * MIB), cores=4, cache_bytes=8 * MIB) == 64 * MIB


def test_blocks_that_do_not_fit_are_fetched_again_with_the_square_root_of_what_is_missing() -> None:
    # 16 blocks of 2 MiB are at work on 16 cores: 32 MiB in a cache of 8 MiB, so sqrt(4) = 2 times 64 x 2 MiB.
    assert traffic_bytes(Tiling(64, 2 * MIB, 40 * MIB), cores=16, cache_bytes=8 * MIB) == 256 * MIB


def test_no_more_blocks_are_at_work_than_there_are() -> None:
    # 2 blocks of 8 MiB on 64 cores: 16 MiB in 4 MiB, so sqrt(4) = 2 times 2 x 8 MiB.
    assert traffic_bytes(Tiling(2, 8 * MIB, 12 * MIB), cores=64, cache_bytes=4 * MIB) == 32 * MIB


def test_traffic_is_never_below_what_must_come() -> None:
    # Blocks of different nests: 2 x 1 MiB is less than the 12 MiB that all touch.
    assert traffic_bytes(Tiling(2, MIB, 12 * MIB), cores=2, cache_bytes=4 * MIB) == 12 * MIB


# Into caches of 32 KiB, 256 KiB, 512 KiB, 1, 2, 4, 8, 16 and 32 MiB.
KNOWN = Tiling(8, MIB, 40 * MIB, fetched_bytes=tuple(n * MIB for n in (96, 80, 64, 56, 48, 44, 41, 40, 40)))


def test_where_it_is_known_what_a_cache_is_filled_with_it_is_read_off() -> None:
    assert traffic_bytes(KNOWN, cores=1, cache_bytes=MIB) == 56 * MIB
    # A quarter of the way from 512 KiB to 1 MiB.
    assert traffic_bytes(KNOWN, cores=1, cache_bytes=5 * MIB / 8) == 62 * MIB


def test_beyond_the_caches_that_are_known_the_nearest_counts() -> None:
    assert traffic_bytes(KNOWN, cores=1, cache_bytes=1) == 96 * MIB
    assert traffic_bytes(KNOWN, cores=1, cache_bytes=39 * MIB) == 40 * MIB


def test_a_curve_of_fewer_caches_is_read_as_what_lies_between_them() -> None:
    assert curve((96, 80, 64, 56, 48, 44, 41, 40)) == (96, 80, 64, 56, 48, 44, 43, 41, 40)
    assert curve((9, 8, 7, 6, 5, 4, 3, 2, 1)) == (9, 8, 7, 6, 5, 4, 3, 2, 1) and curve(()) == ()


def test_each_iteration_at_work_has_an_equal_part_of_the_cache() -> None:
    # On 16 cores only 8 iterations are at work: 512 KiB for each.
    assert traffic_bytes(KNOWN, cores=4, cache_bytes=4 * MIB) == 56 * MIB
    assert traffic_bytes(KNOWN, cores=16, cache_bytes=4 * MIB) == 64 * MIB


# Iterations of 4 MiB, 3 of which all touch: 1 MiB is an iteration's own, so 11 touch 14 MiB.
SHARING = replace(KNOWN, parallelism=11, blocking_bytes=4 * MIB, compulsory_bytes=14 * MIB)


def test_iterations_at_work_share_a_cache_and_what_they_all_touch() -> None:
    assert SHARING.private_share == 0.25
    # 5 at work touch 3 + 5 MiB: as 1 with half the cache, 4 MiB. Sharing nothing would leave it 1.6.
    assert traffic_bytes(SHARING, cores=5, cache_bytes=8 * MIB) == 44 * MIB
    assert (
        traffic_bytes(replace(SHARING, compulsory_bytes=44 * MIB), cores=4, cache_bytes=8 * MIB) == 48 * MIB
    )


def test_caches_of_several_groups_hold_a_copy_each_of_what_all_touch() -> None:
    # 8 at work on 2 groups of 4 MiB: 4 in each touch 3 + 4 MiB, so one of 4 MiB has 4 / 7 of its cache.
    expected = 48 * MIB + (4 * 4 / 7 - 2) / 2 * (44 - 48) * MIB
    assert traffic_bytes(SHARING, cores=8, cache_bytes=8 * MIB, groups=2) == pytest.approx(expected)
    # One to a group, or fewer than groups: each has a cache of its own.
    assert traffic_bytes(SHARING, cores=8, cache_bytes=8 * MIB, groups=8) == 56 * MIB
    assert traffic_bytes(SHARING, cores=4, cache_bytes=8 * MIB, groups=8) == 48 * MIB


@pytest.mark.parametrize(
    ("tiling", "share"),
    [
        (Tiling(1, 8, 8), 1.0),
        (Tiling(4, 0, 0), 1.0),
        (Tiling(4, 8, 8), 0.0),
        # Its temporaries make an iteration touch more than all leave.
        (Tiling(4, 8, 5), 0.0),
        (Tiling(4, 8, 32), 1.0),
        # Of several nests all together touch more than so many iterations of one.
        (Tiling(4, 8, 99), 1.0),
    ],
)
def test_the_private_share_is_between_none_and_all(tiling: Tiling, share: float) -> None:
    assert tiling.private_share == share


def test_steepness_is_the_exponent_of_what_is_read_off_over_the_least() -> None:
    flat = replace(KNOWN, steepness=0.5)
    assert traffic_bytes(flat, cores=1, cache_bytes=2**15) == pytest.approx((96 * 40) ** 0.5 * MIB)


def test_a_layer_that_touches_nothing_moves_nothing_at_any_steepness() -> None:
    assert traffic_bytes(Tiling(1, 0, 0, steepness=0.5), cores=1, cache_bytes=MIB) == 0


def test_what_a_cache_is_filled_with_is_known_for_all_caches_or_none_and_falls_with_their_size() -> None:
    with pytest.raises(ValueError, match="fetched into 9 caches, or none"):
        Tiling(1, 1, 1, fetched_bytes=(3, 2, 1))
    with pytest.raises(ValueError, match="into a larger cache no more is fetched"):
        Tiling(1, 1, 1, fetched_bytes=(1, 1, 1, 1, 1, 1, 1, 1, 2))


FALLING = st.lists(st.integers(0, 10**9), min_size=9, max_size=9).map(lambda all_: tuple(sorted(all_)[::-1]))
TILINGS = st.builds(
    Tiling,
    st.integers(1, 1000),
    st.integers(0, 10**8),
    st.integers(0, 10**9),
    fetched_bytes=st.just(()) | FALLING,
)
CACHES = st.floats(1, 1e9)


GROUPS = st.integers(1, 64)


@given(TILINGS, st.integers(1, 256), CACHES, CACHES, GROUPS)
def test_a_larger_cache_never_means_more_traffic(
    tiling: Tiling, cores: int, one: float, other: float, groups: int
) -> None:
    small, large = sorted([one, other])
    assert traffic_bytes(tiling, cores, large, groups) <= traffic_bytes(tiling, cores, small, groups)


@given(TILINGS, st.integers(1, 255), CACHES, GROUPS)
def test_another_core_never_means_less_traffic(
    tiling: Tiling, cores: int, cache_bytes: float, groups: int
) -> None:
    few, more = (traffic_bytes(tiling, count, cache_bytes, groups) for count in (cores, cores + 1))
    assert few <= more


@given(TILINGS, st.integers(1, 256), CACHES, GROUPS)
def test_in_more_caches_of_the_same_size_together_never_less_traffic(
    tiling: Tiling, cores: int, cache_bytes: float, groups: int
) -> None:
    few, more = (traffic_bytes(tiling, cores, cache_bytes, count) for count in (groups, groups + 1))
    assert few <= more


def test_no_cache_at_all_is_finite() -> None:
    assert traffic_bytes(Tiling(2, 100, 150), cores=2, cache_bytes=0) == 2 * 100 * 200


def test_a_serial_kernel_that_packs_its_weights_does_not_count_them_twice() -> None:
    schedule = s_tir.Schedule(tvm.IRModule({"main": matmul(8, 8, 4)}))
    packed = schedule.cache_read(schedule.get_sblock("C"), 1, "global")
    schedule.annotate(packed, "meta_schedule.layout_rewrite_preproc", 1)
    # A[8, 4], the packed B[4, 8] and C[8, 8], of 4 bytes each.
    assert read_tiling(schedule.mod["main"]) == Tiling(1, 4 * 128, 4 * 128)


def lookup() -> Any:
    """Return three rows of a table of 100, of four numbers each."""
    table, rows = te.placeholder((100, 4), name="table"), te.placeholder((3,), dtype="int64", name="rows")
    found = te.compute(
        (3, 4), lambda i, j: table[tirx.min(rows[i], tirx.const(99, "int64")), j], name="found"
    )
    return te.create_prim_func([table, rows, found])


def test_a_function_that_indexes_by_what_it_reads_looks_up() -> None:
    assert looks_up(lookup())
    assert not looks_up(matmul(2, 3, 4))


def test_of_a_table_in_which_rows_are_looked_up_no_more_is_touched_than_there_are_results() -> None:
    # 12 numbers of the table and of the result, and 3 of 8 bytes; by its loops it may be all of the table.
    found = of_lookup(lookup(), Tiling(3, 1640, 1672))
    assert found == Tiling(3, 40, 12 * 4 + 12 * 4 + 3 * 8)
    assert of_lookup(lookup(), Tiling(1, 50, 60)) == Tiling(1, 50, 60)


def test_a_matrix_product_has_a_mac_for_each_row_column_and_depth() -> None:
    assert count_macs(matmul(3, 5, 7)) == 3 * 5 * 7


def test_a_convolution_has_a_mac_for_each_output_and_kernel_place() -> None:
    # 6 x 6 outputs of 4 channels, from 3 channels by 3 x 3.
    data, weight = te.placeholder((1, 8, 8, 3), name="x"), te.placeholder((3, 3, 3, 4), name="w")
    out = topi.nn.conv2d_nhwc(data, weight, 1, 0, 1)
    assert count_macs(te.create_prim_func([data, weight, out])) == 6 * 6 * 4 * 3 * 3 * 3


def test_a_depthwise_convolution_has_no_mac_across_channels() -> None:
    data, weight = te.placeholder((1, 4, 8, 8), name="x"), te.placeholder((4, 1, 3, 3), name="w")
    out = topi.nn.depthwise_conv2d_nchw(data, weight, 1, 0, 1)
    assert count_macs(te.create_prim_func([data, weight, out])) == 6 * 6 * 4 * 3 * 3


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_a_pooling_has_no_macs(kind: str) -> None:
    data = te.placeholder((1, 4, 8, 8), name="x")
    out = topi.nn.pool2d(data, (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), kind)
    assert count_macs(te.create_prim_func([data, out])) == 0


def test_an_elementwise_product_has_no_macs() -> None:
    data = te.placeholder((8,), name="x")
    assert count_macs(te.create_prim_func([data, te.compute((8,), lambda i: data[i] * data[i])])) == 0


def test_outputs_are_the_arguments_that_are_written() -> None:
    data = te.placeholder((8,), name="x")
    one = te.compute((8,), lambda i: data[i] + 1.0, name="one")
    two = te.compute((8,), lambda i: one[i] + 1.0, name="two")
    assert count_outputs(te.create_prim_func([data, two])) == 1
    assert count_outputs(te.create_prim_func([data, one, two])) == 2


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_a_tiling_of_no_iterations_or_negative_bytes_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="parallelism is at least 1"):
        Tiling(*numbers)


def test_temporaries_that_one_loop_writes_and_another_reads_are_work_space() -> None:
    # The padded input, 1026 numbers of 4 bytes, is made before it is read; in tiles it lives in an iteration.
    assert work_space_bytes(read_nest(blur(1024))) == 1026 * 4
    assert work_space_bytes(read_nest(blur_in_tiles(1024, 512))) == 0


def test_temporaries_on_the_stack_are_no_work_space() -> None:
    assert work_space_bytes(read_nest(blur(64))) == 0
    assert work_space_bytes(read_nest(matmul(8, 8, 4))) == 0
