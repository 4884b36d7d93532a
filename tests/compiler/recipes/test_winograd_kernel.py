from typing import Any

import numpy as np
import pytest

from tests.support.compiler.convolution_layers import Case, answered, function_of
from tests.support.compiler.recipe_kernels import worst_error
from veltair.compiler.footprint.tiling import analyse
from veltair.compiler.recipes.recipe import RecipeError, recipe_of
from veltair.compiler.recipes.recipes import generated
from veltair.compiler.recipes.winograd_plan import WinogradPlan
from veltair.compiler.search.prepacked import split_prepacked

EARLY = Case((56, 56), 64, 64)
LATE = Case((14, 14), 256, 256)
ODD = Case((7, 6), 12, 20, ending="residual")
# Rows of transformed tiles lie further apart than their channels, which counts where several are read.
SKEWED = 0.15


def kernel_of(case: Case, plan: WinogradPlan) -> Any:
    return generated(function_of(case), recipe_of(plan))["main"]


@pytest.mark.parametrize(
    "plan",
    [
        # 2 x 2 tiles of 4 x 4 outputs: blocks of 1, of more than all, of a part of them.
        WinogradPlan(4, "fused", 1, 20, 1, 5, 4),
        WinogradPlan(4, "fused", 6, 32, 6, 2, 8),
        WinogradPlan(4, "phases", 3, 8, 3, 2, 4),
        # Columns past the last one, one panel for all, and panels that are cut.
        WinogradPlan(2, "fused", 5, 32, 5, 1, 16),
        WinogradPlan(2, "phases", 8, 24, 4, 3, 8),
        WinogradPlan(4, "phases", 2, 4, 1, 1, 4),
        # More rows than tiles, and as many sums as any CPU has registers.
        WinogradPlan(2, "phases", 32, 16, 32, 1, 16),
        WinogradPlan(2, "fused", 16, 32, 8, 4, 8),
    ],
    ids=str,
)
def test_plans_that_are_legal_but_odd_are_right(plan: WinogradPlan) -> None:
    assert worst_error(answered(ODD), [recipe_of(plan)]) <= 1e-5


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_narrow_and_wide_registers_are_right_for_wide_channels(lanes: int) -> None:
    plans = [
        WinogradPlan(2, "fused", 4, 2 * lanes, 4, 2, lanes),
        WinogradPlan(4, "phases", 4, lanes, 2, 1, lanes),
    ]
    layer = answered(Case((5, 9), 48, 64, ending="bias", batch=2))
    assert worst_error(layer, list(map(recipe_of, plans))) <= 1e-5


@pytest.mark.parametrize(
    "case",
    [
        Case((7, 6), 3, 20),
        Case((7, 6), 12, 5),
        Case((7, 6), 12, 20, kernel=(1, 1), pads=(0, 0, 0, 0)),
        Case((7, 6), 12, 20, stride=(2, 2)),
        Case((7, 6), 12, 20, dilation=(2, 2)),
        Case((7, 6), 20, 20, groups=20),
        Case((7, 6), 20, 20, groups=4),
    ],
    ids=str,
)
def test_a_plan_for_another_convolution_is_refused(case: Case) -> None:
    with pytest.raises(RecipeError, match="winograd: "):
        kernel_of(case, WinogradPlan(4, "fused", 4, 8, 4, 2, 4))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (WinogradPlan(4, "fused", 12, 32, 6, 2, 8), r"winograd\.block is 12, but the layer has 4"),
        (WinogradPlan(4, "fused", 6, 48, 6, 2, 8), r"winograd\.columns is 48, but the layer has 20"),
        (WinogradPlan(4, "phases", 6 * 2**60, 32, 6, 2, 8), r"winograd\.block is \d+, but the layer has 4"),
    ],
)
def test_blocks_and_columns_of_nothing_are_refused(plan: WinogradPlan, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        kernel_of(ODD, plan)


def test_weights_are_packed_as_so_many_products() -> None:
    # 36 products of 9: four times the bytes.
    split = split_prepacked(kernel_of(EARLY, WinogradPlan(4, "fused", 12, 64, 6, 2, 8)), "k")
    assert [int(np.prod(shape)) for shape in split.packed_shapes] == [36 * 64 * 64]


def test_a_fused_share_holds_its_inputs_weights_outputs_and_work_space() -> None:
    # 196 tiles in blocks of 12: 17 shares, each of all columns. The middle one has tiles of two rows of
    # them: inputs of 10 lines and outputs of 8, of 56 x 64 numbers; all weights; transformed tiles; sums.
    tiling, _ = analyse(kernel_of(EARLY, WinogradPlan(4, "fused", 12, 64, 6, 2, 8)))
    outside = 10 * 56 * 64 + 8 * 56 * 64 + 36 * 64 * 64
    work_space = 36 * 12 * 64 + 36 * 12 * 64
    assert tiling.parallelism == 17
    assert tiling.blocking_bytes == pytest.approx(4 * (outside + work_space), rel=SKEWED)
    # Work space is overwritten in place: from memory come inputs, weights and outputs.
    assert tiling.compulsory_bytes == pytest.approx(4 * (56 * 56 * 64 * 2 + 36 * 64 * 64), rel=0.01)


def test_a_share_of_phases_holds_its_rows_of_transformed_tiles_only() -> None:
    # 196 tiles in blocks of 18 by 4 groups of 16 columns: 11 x 4 shares. Outputs of tiles of two rows.
    tiling, _ = analyse(kernel_of(EARLY, WinogradPlan(4, "phases", 18, 16, 6, 2, 8)))
    outside = 36 * 18 * 64 + 36 * 64 * 16 + 8 * 56 * 16
    assert tiling.parallelism == 44
    assert tiling.blocking_bytes == pytest.approx(4 * (outside + 36 * 18 * 16), rel=SKEWED)
    # All 198 rows of transformed tiles, weights and outputs; inputs are the first phase's.
    touched = 36 * 198 * 64 + 36 * 64 * 64 + 56 * 56 * 64
    assert tiling.compulsory_bytes == pytest.approx(4 * touched, rel=SKEWED)


@pytest.mark.parametrize(
    ("tile", "products", "blocks", "rows"), [(4, 36, 3, 6), (2, 16, 9, 6)], ids=["4 x 4", "2 x 2"]
)
def test_late_layers_are_cut_by_blocks_where_fused_and_by_columns_too_in_phases(
    tile: int, products: int, blocks: int, rows: int
) -> None:
    # 16 tiles of 4 x 4, or 49 of 2 x 2, in blocks of 6; 256 columns in groups of 32.
    fused, _ = analyse(kernel_of(LATE, WinogradPlan(tile, "fused", 6, 256, rows, 2, 8)))
    phases, _ = analyse(kernel_of(LATE, WinogradPlan(tile, "phases", 6, 32, rows, 2, 8)))
    assert (fused.parallelism, phases.parallelism) == (blocks, blocks * 8)
    weights, sums = 4 * products * 256 * 32, 4 * products * 6 * 32
    tiles = 4 * products * 6 * 256
    # Inputs or outputs of one image are 0.2 MB at most.
    assert 8 * weights + tiles + 8 * sums < fused.blocking_bytes < 8 * weights + tiles + 8 * sums + 5e5
    assert weights + tiles + sums < phases.blocking_bytes < weights + tiles + sums + 1e5


def test_transformed_tiles_are_written_and_read_few_times() -> None:
    # A large cache fetches all about once; none fetches all transformed tiles for each of them.
    _, traffic = analyse(kernel_of(EARLY, WinogradPlan(4, "phases", 18, 16, 6, 2, 8)))
    once = 4 * (56 * 56 * 64 * 2 + 36 * 198 * 64 + 36 * 64 * 64)
    assert max(traffic[-3:]) <= 2 * once
    assert max(traffic) <= 8 * once
