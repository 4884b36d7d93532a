from math import ceil, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compiler.convolution_sizes import convolutions, dense, depthwise
from veltair.compiler.recipes.sizes import Convolution
from veltair.compiler.recipes.winograd_plan import (
    SHARE_BYTES,
    TRANSFORMED_BYTES,
    WinogradPlan,
    plans,
    tiles_of,
)
from veltair.compiler.registers import AVX2, AVX512, Registers

BOTH = st.sampled_from([AVX2, AVX512])
PLAN = WinogradPlan(4, "fused", 12, 32, 6, 2, 8)


def shares(plan: WinogradPlan, sizes: Convolution) -> int:
    """Return into how many parts a plan cuts the products, that may run side by side."""
    blocks = ceil(prod(tiles_of(sizes, plan.tile)) / plan.block)
    return blocks * (ceil(sizes.out_channels / plan.columns) if plan.scheme == "phases" else 1)


def test_an_image_is_covered_by_tiles_of_which_the_last_may_reach_past_it() -> None:
    assert tiles_of(dense(56, 64, 64), 4) == (1, 14, 14)
    assert tiles_of(dense(13, 64, 64, batch=2), 4) == (2, 4, 4)
    assert tiles_of(dense(13, 64, 64), 2) == (1, 7, 7)
    assert tiles_of(Convolution(1, 5, 1, 4, 5, 1, 4, 1, 1, (3, 3)), 4) == (1, 2, 1)


def test_a_tile_of_4_has_36_products_and_one_of_2_has_16() -> None:
    assert PLAN.products == 36
    assert WinogradPlan(2, "fused", 12, 32, 6, 2, 8).products == 16


def test_a_share_keeps_transformed_tiles_and_sums() -> None:
    # 36 products of 12 tiles, of 64 channels and of 32 columns, of 4 bytes.
    assert PLAN.work_space_bytes(dense(56, 64, 64)) == 36 * 12 * (64 + 32) * 4


def test_phases_keep_all_transformed_tiles() -> None:
    # 36 products of 14 x 14 tiles of 64 channels, of 4 bytes: 1.8 MB.
    assert PLAN.transformed_bytes(dense(56, 64, 64)) == 36 * 196 * 64 * 4


@pytest.mark.parametrize(
    "sizes",
    [
        dense(56, 64, 64, kernel=1),
        dense(56, 64, 64, kernel=5),
        dense(56, 64, 64, stride=2),
        depthwise(56, 64),
        Convolution(1, 56, 56, 64, 52, 52, 64, kernel=(3, 3), dilation=(2, 2)),
        Convolution(1, 56, 56, 64, 54, 56, 64, kernel=(3, 1)),
        dense(56, 3, 64),
        dense(56, 64, 10),
    ],
)
def test_there_is_no_plan_for_another_convolution(sizes: Convolution) -> None:
    assert plans(sizes, AVX2) == plans(sizes, AVX512) == []


@given(sizes=convolutions(), registers=BOTH)
def test_every_plan_is_of_whole_registers_and_keeps_in_the_caches(
    sizes: Convolution, registers: Registers
) -> None:
    for plan in plans(sizes, registers):
        assert plan.block % plan.rows == 0
        assert plan.columns % plan.panel == 0
        # No group of columns begins past the last one.
        assert plan.columns < sizes.out_channels + plan.panel
        assert plan.work_space_bytes(sizes) <= SHARE_BYTES
        assert plan.scheme == "fused" or plan.transformed_bytes(sizes) <= TRANSFORMED_BYTES


@pytest.mark.parametrize("registers", [AVX2, AVX512])
@pytest.mark.parametrize(
    "sizes", [dense(56, 64, 64), dense(28, 128, 128), dense(14, 256, 256), dense(7, 512, 512)]
)
def test_both_schemes_are_tried_for_the_layers_of_resnet(sizes: Convolution, registers: Registers) -> None:
    found = plans(sizes, registers)
    assert {plan.scheme for plan in found} == {"fused", "phases"}
    assert {plan.tile for plan in found} == {2, 4}


@pytest.mark.parametrize("registers", [AVX2, AVX512])
@pytest.mark.parametrize("sizes", [dense(56, 64, 64), dense(28, 128, 128), dense(14, 256, 256)])
def test_there_are_plans_of_many_small_shares_and_of_few_large_ones(
    sizes: Convolution, registers: Registers
) -> None:
    found = plans(sizes, registers)
    counts = [shares(plan, sizes) for plan in found]
    kept = [plan.work_space_bytes(sizes) for plan in found if plan.scheme == "fused"]
    assert max(counts) >= 4 * min(counts)
    assert max(kept) >= 2 * min(kept)


def test_work_space_that_no_cache_holds_is_not_tried() -> None:
    # 36 products of 8 tiles of 4096 channels and their sums alone are 4.8 MB and more.
    found = plans(dense(56, 4096, 4096), AVX2)
    assert all(plan.work_space_bytes(dense(56, 4096, 4096)) <= SHARE_BYTES for plan in found)
    assert not any(plan.tile == 4 and plan.block >= 8 for plan in found)
