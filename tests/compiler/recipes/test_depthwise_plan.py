from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compiler.convolution_sizes import convolutions, dense, depthwise
from veltair.compiler.recipes.depthwise_plan import DepthwisePlan, plans
from veltair.compiler.recipes.sizes import Convolution
from veltair.compiler.registers import AVX2, AVX512, Registers

BOTH = st.sampled_from([AVX2, AVX512])


def shares(plan: DepthwisePlan, sizes: Convolution) -> int:
    """Return into how many parts a plan cuts the layer, that may run side by side."""
    lines = sizes.batch * sizes.out_height
    return ceil(lines / plan.lines) * ceil(sizes.channels / plan.channels)


@pytest.mark.parametrize(
    "sizes", [dense(56, 64, 64), depthwise(56, 6), depthwise(56, 3), depthwise(56, 64, kernel=9)]
)
def test_there_is_no_plan_for_dense_convolutions_odd_channels_or_vast_kernels(sizes: Convolution) -> None:
    assert plans(sizes, AVX2) == plans(sizes, AVX512) == []


@given(sizes=convolutions(), registers=BOTH)
def test_every_depthwise_convolution_whose_channels_fill_registers_has_plans(
    sizes: Convolution, registers: Registers
) -> None:
    wanted = sizes.is_depthwise and sizes.channels % 4 == 0 and sizes.kernel[0] * sizes.kernel[1] <= 49
    assert bool(plans(sizes, registers)) == wanted


@given(sizes=convolutions(), registers=BOTH)
def test_every_plan_is_of_whole_registers_lines_and_pixels_that_there_are(
    sizes: Convolution, registers: Registers
) -> None:
    for plan in plans(sizes, registers):
        assert plan.channels % plan.lanes == sizes.channels % plan.lanes == 0
        assert plan.channels <= sizes.channels
        assert plan.lines <= sizes.batch * sizes.out_height
        assert plan.pixels <= sizes.out_width


def test_the_widest_registers_that_channels_fill_are_taken() -> None:
    lanes = {
        (channels, registers.lanes): {plan.lanes for plan in plans(depthwise(14, channels), registers)}
        for channels in (144, 24, 20)
        for registers in (AVX2, AVX512)
    }
    assert lanes == {
        (144, 8): {8}, (144, 16): {16}, (24, 8): {8}, (24, 16): {8}, (20, 8): {4}, (20, 16): {4}
    }  # fmt: skip


@pytest.mark.parametrize("registers", [AVX2, AVX512])
@pytest.mark.parametrize("sizes", [depthwise(112, 32), depthwise(56, 144, stride=2), depthwise(7, 960)])
def test_there_are_plans_of_many_small_shares_and_of_few_large_ones(
    sizes: Convolution, registers: Registers
) -> None:
    found = sorted(plans(sizes, registers), key=lambda plan: shares(plan, sizes))
    few, many = found[0], found[-1]
    assert shares(many, sizes) >= 4 * shares(few, sizes)
    assert many.lines * many.channels < few.lines * few.channels


@pytest.mark.parametrize("sizes", [depthwise(112, 32), depthwise(7, 960)])
def test_both_orders_are_tried(sizes: Convolution) -> None:
    assert {plan.order for plan in plans(sizes, AVX2)} == {"channels", "pixels"}
