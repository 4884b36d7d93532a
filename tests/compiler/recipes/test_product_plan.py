import json
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compiler.product_cases import matrices
from veltair.compiler.recipes.plan import parse
from veltair.compiler.recipes.product_plan import PANEL_BYTES, ProductPlan, plans
from veltair.compiler.recipes.recipe import RecipeError, recipe_of
from veltair.compiler.recipes.sizes import Matrices
from veltair.compiler.registers import AVX2, AVX512, Registers

BOTH = st.sampled_from([AVX2, AVX512])
# 20 columns: 5 vectors of 4, or 1 panel and a quarter of 16.
SMALL = Matrices(2, 10, 20, 12)
# The first product of BERT-Large's multi-layer perceptron, and the second.
WIDEN, NARROW = Matrices(1, 384, 4096, 1024), Matrices(1, 384, 1024, 4096)


def shares(plan: ProductPlan, sizes: Matrices) -> int:
    """Return into how many parts a plan cuts the product, that may run side by side."""
    return sizes.pairs * ceil(sizes.rows / plan.block) * ceil(sizes.columns / plan.columns)


@pytest.mark.parametrize(
    "plan",
    [
        ProductPlan(10, 20, 5, 1, 4, 12),
        ProductPlan(12, 32, 4, 4, 4, 12),  # the last tile and the last panel reach past the end
        ProductPlan(11, 20, 11, 1, 4, 12),  # a tile of more rows than there are
        ProductPlan(1, 4, 1, 1, 4, 1),
        ProductPlan(5, 20, 5, 5, 4, 6),
    ],
    ids=str,
)
def test_a_plan_fits_whose_parts_all_begin_before_the_end(plan: ProductPlan) -> None:
    plan.check_fits(SMALL, can_wait=True)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (ProductPlan(10, 24, 5, 1, 8, 12), "product: lanes of 8 do not divide 20 columns"),
        (ProductPlan(10, 32, 5, 1, 16, 12), "product: lanes of 16 do not divide 20 columns"),
        (ProductPlan(10, 20, 5, 1, 4, 5), r"product\.depth 5 does not divide a depth of one axis, 12"),
        (ProductPlan(10, 20, 5, 1, 4, 24), r"product\.depth 24 does not divide a depth of one axis, 12"),
        (ProductPlan(15, 20, 5, 1, 4, 12), r"product\.block is 15, but the layer has 10"),
        (ProductPlan(2**40, 20, 1, 1, 4, 12), r"product\.block is \d+, but the layer has 10"),
        (ProductPlan(10, 24, 5, 1, 4, 12), r"product\.columns is 24, but the layer has 20"),
        (ProductPlan(10, 48, 5, 4, 4, 12), r"product\.columns is 48, but the layer has 20"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan: ProductPlan, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan.check_fits(SMALL, can_wait=True)


def test_sums_over_two_axes_do_not_wait() -> None:
    ProductPlan(10, 20, 5, 1, 4, 12).check_fits(SMALL, can_wait=False)
    with pytest.raises(RecipeError, match=r"product\.depth 6 does not divide a depth of one axis, 12"):
        ProductPlan(10, 20, 5, 1, 4, 6).check_fits(SMALL, can_wait=False)


@given(sizes=matrices(), registers=BOTH, can_wait=st.booleans())
def test_every_product_of_some_rows_whose_columns_fill_registers_has_plans(
    sizes: Matrices, registers: Registers, can_wait: bool
) -> None:
    wanted = sizes.rows >= 4 and sizes.columns % 4 == 0
    assert bool(plans(sizes, registers, can_wait)) == wanted


@given(sizes=matrices(), registers=BOTH, can_wait=st.booleans())
def test_each_plan_that_is_tried_is_tried_once_fits_and_comes_back_from_json(
    sizes: Matrices, registers: Registers, can_wait: bool
) -> None:
    found = plans(sizes, registers, can_wait)
    texts = [json.dumps(recipe_of(plan)) for plan in found]
    assert len(set(texts)) == len(texts)
    assert [parse(json.loads(text)) for text in texts] == found
    for plan in found:
        plan.check_fits(sizes, can_wait)


@given(sizes=matrices(), registers=BOTH)
def test_plans_that_are_tried_use_registers_and_rows_that_there_are(
    sizes: Matrices, registers: Registers
) -> None:
    for plan in plans(sizes, registers, can_wait=True):
        assert plan.lanes <= registers.lanes
        assert plan.rows <= sizes.rows
        assert registers.efficiency(plan.rows, plan.vectors) > 0


@given(sizes=matrices(), registers=BOTH)
def test_a_panel_of_weights_stays_in_the_l2_or_its_depth_has_no_large_parts(
    sizes: Matrices, registers: Registers
) -> None:
    for plan in plans(sizes, registers, can_wait=True):
        most = PANEL_BYTES // (4 * plan.panel)
        large = [part for part in range(most // 4, most + 1) if sizes.depth % part == 0]
        assert plan.depth == (sizes.depth if sizes.depth <= most or not large else large[-1])


def test_sums_do_not_wait_where_they_must_not() -> None:
    assert {plan.depth for plan in plans(NARROW, AVX512, can_wait=False)} == {4096}


@pytest.mark.parametrize(
    ("depth", "part"), [(2053, 2053), (5 * 499, 5 * 499), (2 * 1031, 1031), (8 * 521, 2 * 521)]
)
def test_a_depth_that_has_no_large_part_is_summed_at_once(depth: int, part: int) -> None:
    # 2048 steps of a panel of 16 columns are PANEL_BYTES; parts of a prime depth are single steps.
    sizes = Matrices(1, 384, 16, depth)
    assert {plan.depth for plan in plans(sizes, AVX512, can_wait=True)} == {part}


@pytest.mark.parametrize(
    ("sizes", "waits"),
    [
        # A panel of 32 columns is 128 bytes a step, of 64 columns 256: 1024 and 512 of them are PANEL_BYTES.
        (WIDEN, {2: 1024, 4: 512}),
        (NARROW, {2: 1024, 4: 512}),
    ],
    ids=["1024 deep", "4096 deep"],
)
def test_the_plans_of_large_products_are_those_worked_by_hand(sizes: Matrices, waits: dict[int, int]) -> None:
    # 24 sums take 12 cycles of multiply-adds a step, and 5 or 7 for what they load, 6 + 4 or 12 + 2 values:
    # both keep a core busy. 384 rows are 64 tiles of 6 rows, or 32 of 12.
    found = plans(sizes, AVX512, can_wait=True)
    assert {(plan.rows, plan.vectors): plan.depth for plan in found} == {
        (12, 2): waits[2],
        (6, 4): waits[4],
    }
    assert {plan.lanes for plan in found} == {16}


def test_blocks_of_rows_and_panels_are_even_parts_of_what_there_is() -> None:
    # Of 32 tiles of 12 rows and 128 panels of 32 columns. There would be 3 blocks of 128 rows, 10.7 tiles:
    # these have 11 tiles then.
    cuts = [(plan.block, plan.columns) for plan in plans(WIDEN, AVX512, can_wait=True) if plan.rows == 12]
    assert cuts == [(24, 4096), (48, 128), (96, 128), (384, 32), (384, 64), (132, 4096)]


@pytest.mark.parametrize("registers", [AVX2, AVX512])
@pytest.mark.parametrize("sizes", [WIDEN, NARROW, Matrices(16, 384, 384, 64), Matrices(16, 384, 64, 384)])
def test_there_are_plans_of_many_small_shares_and_of_few_large_ones(
    sizes: Matrices, registers: Registers
) -> None:
    found = sorted(plans(sizes, registers, can_wait=True), key=lambda plan: shares(plan, sizes))
    few, many = found[0], found[-1]
    assert shares(many, sizes) >= 4 * shares(few, sizes)
    assert many.block * many.columns < few.block * few.columns
