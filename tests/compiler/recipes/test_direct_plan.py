from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compiler.convolution_sizes import convolutions, dense, depthwise
from veltair.compiler.recipes.direct_plan import DirectPlan, lines_of, plans
from veltair.compiler.recipes.sizes import Convolution
from veltair.compiler.registers import AVX2, AVX512, Registers

BOTH = st.sampled_from([AVX2, AVX512])


def tiles(plan: DirectPlan, sizes: Convolution) -> int:
    """Return how many tiles of pixels there are."""
    lines, pixels = lines_of(sizes, plan.scheme)
    return lines * ceil(pixels / plan.rows)


def shares(plan: DirectPlan, sizes: Convolution) -> int:
    """Return into how many parts a plan cuts the layer, that may run side by side."""
    return ceil(tiles(plan, sizes) / plan.block) * ceil(sizes.out_channels / plan.columns)


@pytest.mark.parametrize(
    ("sizes", "scheme", "lines"),
    [
        (dense(14, 64, 64), "copied", (14, 14)),
        (dense(14, 64, 64, batch=2), "plain", (28, 14)),
        (dense(14, 64, 64, kernel=1), "plain", (1, 196)),
        (dense(14, 64, 64, kernel=1, batch=2), "plain", (1, 392)),
        # Every second pixel does not lie beside the one before, unless it was copied there.
        (dense(14, 64, 64, kernel=1, stride=2), "plain", (7, 7)),
        (dense(14, 64, 64, kernel=1, stride=2), "copied", (1, 49)),
        (Convolution(1, 6, 6, 4, 8, 8, 4, 1, 1), "plain", (8, 8)),
        (Convolution(1, 6, 6, 4, 8, 8, 4, 1, 1), "copied", (1, 64)),
    ],
)
def test_pixels_that_lie_one_after_the_other_are_one_line(
    sizes: Convolution, scheme: str, lines: tuple[int, int]
) -> None:
    assert lines_of(sizes, scheme) == lines  # type: ignore[arg-type]  # parametrised words are str


@pytest.mark.parametrize("sizes", [depthwise(56, 64), dense(56, 64, 10), dense(56, 3, 1)])
def test_there_is_no_plan_for_depthwise_convolutions_or_columns_that_fill_no_registers(
    sizes: Convolution,
) -> None:
    assert plans(sizes, AVX2) == plans(sizes, AVX512) == []


@given(sizes=convolutions(), registers=BOTH)
def test_every_dense_convolution_whose_columns_fill_registers_has_plans(
    sizes: Convolution, registers: Registers
) -> None:
    wanted = not sizes.is_depthwise and sizes.out_channels % 4 == 0
    assert bool(plans(sizes, registers)) == wanted


@given(sizes=convolutions(), registers=BOTH)
def test_every_plan_is_of_whole_registers_and_of_tiles_that_there_are(
    sizes: Convolution, registers: Registers
) -> None:
    for plan in plans(sizes, registers):
        assert plan.columns % plan.panel == 0
        assert plan.columns < sizes.out_channels + plan.panel
        assert sizes.out_channels % plan.lanes == 0
        assert plan.block <= tiles(plan, sizes)
        assert plan.rows <= lines_of(sizes, plan.scheme)[1]


@given(sizes=convolutions(), registers=BOTH)
def test_data_with_a_border_are_copied_first(sizes: Convolution, registers: Registers) -> None:
    schemes = {plan.scheme for plan in plans(sizes, registers)}
    assert "plain" not in schemes or not sizes.is_padded


@pytest.mark.parametrize("registers", [AVX2, AVX512])
@pytest.mark.parametrize(
    "sizes",
    [dense(56, 64, 64), dense(56, 64, 256, kernel=1), dense(14, 256, 256, stride=2), dense(224, 3, 64, 7, 2)],
)
def test_there_are_plans_of_many_small_shares_and_of_few_large_ones(
    sizes: Convolution, registers: Registers
) -> None:
    found = sorted(plans(sizes, registers), key=lambda plan: shares(plan, sizes))
    few, many = found[0], found[-1]
    assert shares(many, sizes) >= 4 * shares(few, sizes)
    assert many.block * many.rows * many.columns < few.block * few.rows * few.columns
