import json
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.recipes.plan import parse
from veltair.compiler.recipes.recipe import RecipeError, recipe_of
from veltair.compiler.recipes.softmax_plan import SoftmaxPlan, plans
from veltair.compiler.registers import AVX2, AVX512, Registers

BOTH = st.sampled_from([AVX2, AVX512])
ROWS = st.integers(1, 40) | st.integers(1, 10_000)
LENGTHS = st.integers(1, 1100) | st.integers(1, 300).map(lambda count: 4 * count)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (SoftmaxPlan(4, 16), "softmax: lanes of 16 do not divide rows of 24"),
        (SoftmaxPlan(31, 8), r"softmax\.block is 31, but the layer has 30"),
        (SoftmaxPlan(2**40, 8), r"softmax\.block is \d+, but the layer has 30"),
    ],
)
def test_a_plan_that_does_not_fit_the_layer_is_refused(plan: SoftmaxPlan, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan.check_fits(30, 24)


def test_a_plan_of_all_rows_and_one_of_single_rows_fit() -> None:
    SoftmaxPlan(30, 8).check_fits(30, 24)
    SoftmaxPlan(1, 4).check_fits(30, 24)


@given(rows=ROWS, length=LENGTHS, registers=BOTH)
def test_every_softmax_whose_rows_fill_registers_has_plans(
    rows: int, length: int, registers: Registers
) -> None:
    assert bool(plans(rows, length, registers)) == (length % 4 == 0)


@given(rows=ROWS, length=LENGTHS, registers=BOTH)
def test_each_plan_that_is_tried_is_tried_once_fits_and_comes_back_from_json(
    rows: int, length: int, registers: Registers
) -> None:
    found = plans(rows, length, registers)
    texts = [json.dumps(recipe_of(plan)) for plan in found]
    assert len(set(texts)) == len(texts)
    assert [parse(json.loads(text)) for text in texts] == found
    for plan in found:
        plan.check_fits(rows, length)
        assert plan.lanes <= registers.lanes


def test_the_widest_registers_that_rows_fill_are_taken() -> None:
    lanes = {
        (length, registers.lanes): {plan.lanes for plan in plans(64, length, registers)}
        for length in (384, 24, 20)
        for registers in (AVX2, AVX512)
    }
    assert lanes == {
        (384, 8): {8}, (384, 16): {16}, (24, 8): {8}, (24, 16): {8}, (20, 8): {4}, (20, 16): {4}
    }  # fmt: skip


def test_there_are_plans_of_many_small_shares_and_of_few_large_ones() -> None:
    # The attention of BERT-Large: 16 heads of 384 rows.
    blocks = [plan.block for plan in plans(16 * 384, 384, AVX512)]
    assert [ceil(16 * 384 / block) for block in blocks] == [16, 64, 256, 1024]


def test_few_rows_have_a_plan_for_each_count_of_rows_that_makes_a_difference() -> None:
    assert [plan.block for plan in plans(30, 24, AVX2)] == [2, 1]
    assert [plan.block for plan in plans(1, 24, AVX2)] == [1]
