from typing import Any

import numpy as np
import pytest

from tests.support.compiler.convolution_layers import Case, answered, function_of
from tests.support.compiler.recipe_kernels import worst_error
from veltair.compiler.footprint.tiling import analyse
from veltair.compiler.recipes.direct_plan import DirectPlan, Scheme
from veltair.compiler.recipes.recipe import RecipeError, recipe_of
from veltair.compiler.recipes.recipes import generated
from veltair.compiler.search.prepacked import split_prepacked

VALID = (0, 0, 0, 0)
ODD = Case((7, 6), 12, 20, ending="residual")
UNPADDED = Case((7, 6), 12, 20, pads=VALID, ending="residual")
SINGLE = Case((7, 6), 12, 20, kernel=(1, 1), pads=VALID, ending="residual")
SCHEMES: tuple[Scheme, ...] = ("plain", "copied")


def kernel_of(case: Case, plan: DirectPlan) -> Any:
    return generated(function_of(case), recipe_of(plan))["main"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "case",
    [
        Case((3, 3), 4, 4, pads=VALID),
        Case((1, 9), 4, 4, kernel=(1, 3), pads=VALID),
        Case((1, 9), 4, 4, kernel=(1, 1), pads=VALID, stride=(1, 2)),
        Case((5, 9), 4, 4, kernel=(5, 1), pads=VALID, stride=(1, 3)),
        Case((3, 9), 4, 4, kernel=(2, 3), pads=VALID, dilation=(2, 2)),
    ],
    ids=str,
)
def test_one_line_of_outputs_is_read_by_its_kernel_stride_and_dilation(case: Case, scheme: Scheme) -> None:
    # It once was taken for a kernel of one pixel, whose pixels lie one after the other.
    assert worst_error(answered(case), [recipe_of(DirectPlan(scheme, 1, 4, 2, 1, 4))]) <= 1e-5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "case",
    [
        Case((7, 5), 8, 8, kernel=(1, 1), pads=VALID, batch=2, ending="residual"),
        Case((7, 5), 8, 8, kernel=(1, 1), pads=VALID, stride=(2, 1), batch=2, ending="residual"),
    ],
    ids=str,
)
def test_tiles_of_a_kernel_of_one_pixel_may_go_over_lines_and_images(case: Case, scheme: Scheme) -> None:
    assert worst_error(answered(case), [recipe_of(DirectPlan(scheme, 3, 8, 4, 1, 8))]) <= 1e-5


@pytest.mark.parametrize("case", [ODD, UNPADDED, SINGLE], ids=["padded", "unpadded", "single"])
@pytest.mark.parametrize(
    "plan",
    [
        # Tiles longer than a line, of one pixel, of more columns than there are; blocks of one tile.
        DirectPlan("copied", 1, 20, 32, 1, 4),
        DirectPlan("copied", 1, 20, 1, 5, 4),
        DirectPlan("copied", 2, 24, 2, 6, 4),
        DirectPlan("copied", 3, 24, 4, 2, 4),
        DirectPlan("copied", 1, 8, 4, 1, 4),
    ],
    ids=str,
)
def test_plans_that_are_legal_but_odd_are_right(case: Case, plan: DirectPlan) -> None:
    assert worst_error(answered(case), [recipe_of(plan)]) <= 1e-5


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_narrow_and_wide_registers_are_right_for_wide_channels(lanes: int) -> None:
    plans = [DirectPlan("copied", 2, 2 * lanes, 4, 2, lanes), DirectPlan("copied", 1, lanes, 5, 1, lanes)]
    layer = answered(Case((5, 9), 48, 64, ending="bias", batch=2))
    assert worst_error(layer, list(map(recipe_of, plans))) <= 1e-5


@pytest.mark.parametrize(
    ("case", "plan", "message"),
    [
        (ODD, DirectPlan("copied", 4, 16, 4, 1, 8), "direct: lanes of 8 do not compute"),
        (Case((7, 6), 12, 5), DirectPlan("copied", 4, 8, 4, 1, 4), "direct: lanes of 4 do not compute"),
        (Case((7, 6), 8, 8, groups=8), DirectPlan("copied", 4, 8, 4, 1, 8), "direct: lanes of 8 do not"),
        (Case((7, 6), 8, 8, groups=2), DirectPlan("copied", 4, 8, 4, 1, 8), "direct: "),
        (ODD, DirectPlan("plain", 4, 20, 4, 1, 4), r"direct\.scheme is 'plain', but .* has a border"),
        (SINGLE, DirectPlan("plain", 12, 20, 4, 1, 4), r"direct\.block is 12, but the layer has 11"),
        (ODD, DirectPlan("copied", 2**40, 20, 4, 1, 4), r"direct\.block is \d+, but the layer has 14"),
        (ODD, DirectPlan("copied", 4, 32, 4, 2, 4), r"direct\.columns is 32, but the layer has 20"),
    ],
)
def test_a_plan_that_does_not_fit_the_layer_is_refused(case: Case, plan: DirectPlan, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        kernel_of(case, plan)


def test_weights_are_packed_as_they_are() -> None:
    split = split_prepacked(kernel_of(Case((56, 56), 64, 64), DirectPlan("copied", 14, 32, 6, 2, 8)), "k")
    assert [int(np.prod(shape)) for shape in split.packed_shapes] == [9 * 64 * 64]


def test_a_share_of_copied_rows_holds_these_its_weights_and_its_outputs() -> None:
    # 56 lines of 10 tiles of 6 pixels, in blocks of 14, by 2 groups of 32 columns: 40 x 2 shares. The middle
    # one has tiles of two lines: it reads 4 copied rows of 58 pixels that lie 64 + 16 numbers apart.
    tiling, _ = analyse(kernel_of(Case((56, 56), 64, 64), DirectPlan("copied", 14, 32, 6, 2, 8)))
    assert tiling.parallelism == 80
    held = 4 * (4 * 58 * 80 + 9 * 64 * 32 + 2 * 56 * 32)
    assert tiling.blocking_bytes == pytest.approx(held, rel=0.02)
    touched = 4 * (58 * 58 * 80 + 9 * 64 * 64 + 56 * 56 * 64)
    assert tiling.compulsory_bytes == pytest.approx(touched, rel=0.01)


def test_a_share_of_a_kernel_of_one_pixel_holds_lines_of_inputs_its_weights_and_its_outputs() -> None:
    # 3136 pixels in 523 tiles of 6, in blocks of 14, by 4 groups of 64 columns: 38 x 4 shares. Its 84 pixels
    # are of two or three lines.
    tiling, _ = analyse(
        kernel_of(Case((56, 56), 64, 256, kernel=(1, 1), pads=VALID), DirectPlan("plain", 14, 64, 6, 2, 8))
    )
    assert tiling.parallelism == 152
    two, three = (4 * (lines * 56 * 64 + 64 * 64 + lines * 56 * 64) for lines in (2, 3))
    assert two <= tiling.blocking_bytes <= three
    assert tiling.compulsory_bytes == pytest.approx(4 * (56 * 56 * (64 + 256) + 64 * 256), rel=0.01)
