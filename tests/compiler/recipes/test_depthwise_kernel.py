from typing import Any

import pytest

from tests.support.compiler.convolution_layers import Case, answered, function_of
from tests.support.compiler.recipe_kernels import worst_error
from veltair.compiler.footprint.tiling import analyse
from veltair.compiler.recipes.depthwise_plan import DepthwisePlan
from veltair.compiler.recipes.recipe import RecipeError, recipe_of
from veltair.compiler.recipes.recipes import generated

ODD = Case((7, 6), 24, 24, groups=24, ending="residual", batch=2)


def kernel_of(case: Case, plan: DepthwisePlan) -> Any:
    return generated(function_of(case), recipe_of(plan))["main"]


@pytest.mark.parametrize(
    "plan",
    [
        # Tiles longer than a line, shares of two images, channels that groups cut or lanes do not divide.
        DepthwisePlan("channels", 14, 24, 32, 8),
        DepthwisePlan("pixels", 9, 16, 4, 8),
        DepthwisePlan("channels", 5, 16, 5, 16),
        DepthwisePlan("pixels", 1, 4, 1, 4),
        DepthwisePlan("channels", 2, 32, 4, 16),
    ],
    ids=str,
)
def test_plans_that_are_legal_but_odd_are_right(plan: DepthwisePlan) -> None:
    assert worst_error(answered(ODD), [recipe_of(plan)]) <= 1e-5


@pytest.mark.parametrize(
    "case",
    [
        Case((9, 8), 8, 8, kernel=(3, 3), stride=(2, 2), groups=8, ending="relu6"),
        Case((9, 8), 8, 8, kernel=(5, 3), pads=(4, 2, 4, 2), dilation=(2, 2), groups=8, ending="swish"),
        Case((3, 2), 8, 8, kernel=(7, 7), pads=(3, 3, 3, 3), groups=8),
        Case((1, 1), 8, 8, groups=8),
    ],
    ids=str,
)
def test_strided_dilated_and_large_kernels_are_right(case: Case) -> None:
    plans = [DepthwisePlan("channels", 1, 8, 3, 8), DepthwisePlan("pixels", 1, 8, 2, 4)]
    assert worst_error(answered(case), list(map(recipe_of, plans))) <= 1e-5


@pytest.mark.parametrize(
    ("case", "plan", "message"),
    [
        (Case(), DepthwisePlan("channels", 1, 8, 4, 8), "depthwise: lanes of 8 do not compute"),
        (Case(groups=2), DepthwisePlan("channels", 1, 8, 4, 8), "depthwise: "),
        (
            Case(channels=6, out_channels=6, groups=6),
            DepthwisePlan("channels", 1, 8, 4, 8),
            "lanes of 8 do not",
        ),
        (ODD, DepthwisePlan("channels", 15, 24, 4, 8), r"depthwise\.lines is 15, but the layer has 14"),
        (ODD, DepthwisePlan("pixels", 2**40, 24, 4, 8), r"depthwise\.lines is \d+, but the layer has 14"),
        (ODD, DepthwisePlan("channels", 1, 32, 4, 8), r"depthwise\.channels is 32, but the layer has 24"),
    ],
)
def test_a_plan_that_does_not_fit_the_layer_is_refused(case: Case, plan: DepthwisePlan, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        kernel_of(case, plan)


def test_a_share_holds_the_lines_that_it_reads_and_those_that_it_writes() -> None:
    # 56 lines in shares of 4, by 2 groups of 72 channels: 14 x 2. Each reads 6 lines and writes 4.
    case = Case((56, 56), 144, 144, groups=144)
    tiling, _ = analyse(kernel_of(case, DepthwisePlan("pixels", 4, 72, 8, 8)))
    assert tiling.parallelism == 28
    assert tiling.blocking_bytes == pytest.approx(4 * ((6 + 4) * 56 * 72 + 9 * 72), rel=0.1)
    assert tiling.compulsory_bytes == pytest.approx(4 * (2 * 56 * 56 * 144 + 9 * 144), rel=0.01)
