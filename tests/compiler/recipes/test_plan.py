import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compiler.convolution_sizes import convolutions
from veltair.compiler.recipes import depthwise_plan, direct_plan, winograd_plan
from veltair.compiler.recipes.depthwise_plan import DepthwisePlan
from veltair.compiler.recipes.direct_plan import DirectPlan
from veltair.compiler.recipes.plan import KINDS, Plan, parse
from veltair.compiler.recipes.product_plan import ProductPlan
from veltair.compiler.recipes.recipe import RecipeError, recipe_of
from veltair.compiler.recipes.sizes import Convolution
from veltair.compiler.recipes.softmax_plan import SoftmaxPlan
from veltair.compiler.recipes.winograd_plan import WinogradPlan
from veltair.compiler.registers import AVX2, AVX512, Registers

WINOGRAD = WinogradPlan(4, "fused", 12, 32, 6, 2, 8)
DIRECT = DirectPlan("copied", 5, 32, 6, 2, 8)
DEPTHWISE = DepthwisePlan("pixels", 4, 16, 7, 8)
PRODUCT = ProductPlan(12, 32, 6, 2, 8, 64)
PLANS = {plan.kind: plan for plan in (WINOGRAD, DIRECT, DEPTHWISE, PRODUCT, SoftmaxPlan(24, 8))}
WORDS = ("scheme", "order")
COUNTS = [(kind, name) for kind, plan in PLANS.items() for name in recipe_of(plan)[kind] if name not in WORDS]
# What JSON may hold where a whole number of 1 or more is wanted.
NO_COUNTS = [0, -1, True, 4.0, "4", None, [4], {"4": 4}]


def tampered(kind: str, **values: Any) -> dict[str, Any]:
    """Return a recipe of a kind, with some values instead of its own, or more of them."""
    return {kind: {**recipe_of(PLANS[kind])[kind], **values}}


@pytest.mark.parametrize("kind", PLANS)
def test_a_recipe_is_read_as_the_plan_that_it_was_made_of(kind: str) -> None:
    assert parse(recipe_of(PLANS[kind])) == PLANS[kind]


@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
@pytest.mark.parametrize(("kind", "name"), COUNTS)
def test_what_is_no_whole_number_of_one_or_more_is_refused_by_name(kind: str, name: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=rf"^{kind}\.{name} is .*give"):
        parse(tampered(kind, **{name: value}))


@pytest.mark.parametrize("value", ["other", "", "Fused", 1, None, ["fused"]], ids=repr)
@pytest.mark.parametrize(
    ("kind", "name"), [("winograd", "scheme"), ("direct", "scheme"), ("depthwise", "order")]
)
def test_a_word_that_is_none_of_those_known_is_refused_by_name(kind: str, name: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=rf"^{kind}\.{name} is .*give one of"):
        parse(tampered(kind, **{name: value}))


@pytest.mark.parametrize("lanes", [1, 2, 3, 12, 32])
@pytest.mark.parametrize("kind", PLANS)
def test_lanes_that_no_register_has_are_refused(kind: str, lanes: int) -> None:
    with pytest.raises(RecipeError, match=rf"^{kind}\.lanes is {lanes}; give 4, 8 or 16"):
        parse(tampered(kind, lanes=lanes))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (tampered("winograd", tile=3), r"winograd\.tile is 3; give one of \(2, 4\)"),
        (tampered("winograd", tile=6), r"winograd\.tile is 6; give one of \(2, 4\)"),
        (tampered("winograd", block=13), r"winograd\.block is 13; give a multiple of its rows, 6"),
        (tampered("winograd", block=3), r"winograd\.block is 3; give a multiple of its rows, 6"),
        (tampered("winograd", columns=24), r"winograd\.columns is 24; give a multiple of its panel, 16"),
        (tampered("direct", columns=8), r"direct\.columns is 8; give a multiple of its panel, 16"),
        (tampered("depthwise", channels=12), r"depthwise\.channels is 12; give a multiple of its lanes, 8"),
        (tampered("product", block=13), r"product\.block is 13; give a multiple of its rows, 6"),
        (tampered("product", block=3), r"product\.block is 3; give a multiple of its rows, 6"),
        (tampered("product", columns=24), r"product\.columns is 24; give a multiple of its panel, 16"),
        # No CPU has more than 32 registers, and each sum is code of its own.
        (tampered("winograd", block=17, rows=17), "winograd: 34 sums in registers; give 32 or fewer"),
        (tampered("direct", rows=17), "direct: 34 sums in registers; give 32 or fewer"),
        (tampered("direct", vectors=6, columns=48), "direct: 36 sums in registers; give 32 or fewer"),
        (tampered("depthwise", pixels=33), "depthwise: 33 sums in registers; give 32 or fewer"),
        (tampered("product", rows=17, block=17), "product: 34 sums in registers; give 32 or fewer"),
        (tampered("product", vectors=6, columns=48), "product: 36 sums in registers; give 32 or fewer"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(recipe: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(recipe)


@pytest.mark.parametrize("kind", PLANS)
def test_a_plan_that_says_more_is_of_another_version(kind: str) -> None:
    with pytest.raises(RecipeError, match=f"{kind}.*no recipe that this version knows"):
        parse(tampered(kind, prefetch=1))


@pytest.mark.parametrize("kind", PLANS)
def test_a_plan_that_says_less_is_of_another_version(kind: str) -> None:
    for name in recipe_of(PLANS[kind])[kind]:
        recipe = tampered(kind)
        del recipe[kind][name]
        with pytest.raises(RecipeError, match=r"no recipe that this version knows.*a plan has"):
            parse(recipe)


@pytest.mark.parametrize(
    "trace",
    [
        {"fft": {"tile": 4}},
        {},
        {**recipe_of(WINOGRAD), **recipe_of(DIRECT)},
        {**recipe_of(WINOGRAD), "comment": ""},
        {"winograd": None},
        {"winograd": [4, "fused", 12, 32, 6, 2, 8]},
        {"winograd": recipe_of(WINOGRAD)},
        {"winograd": {}},
        {"direct": recipe_of(WINOGRAD)["winograd"]},
        [],
        [["GetSBlock", []], []],
        None,
        "winograd",
        4,
    ],
    ids=str,
)
def test_what_is_no_recipe_of_a_known_kind_is_refused(trace: Any) -> None:
    with pytest.raises(RecipeError, match="no recipe that this version knows"):
        parse(trace)


def enumerated(sizes: Convolution, registers: Registers) -> list[Plan]:
    """Return the plans of all kinds that are tried for a convolution."""
    return [
        plan
        for module in (winograd_plan, direct_plan, depthwise_plan)
        for plan in module.plans(sizes, registers)
    ]


@given(sizes=convolutions(), registers=st.sampled_from([AVX2, AVX512]))
def test_each_plan_that_is_tried_is_tried_once_and_comes_back_from_json(
    sizes: Convolution, registers: Registers
) -> None:
    recipes = [recipe_of(plan) for plan in enumerated(sizes, registers)]
    texts = [json.dumps(recipe, sort_keys=True) for recipe in recipes]
    assert len(set(texts)) == len(texts)
    assert [parse(json.loads(text)) for text in texts] == enumerated(sizes, registers)


@given(sizes=convolutions(), registers=st.sampled_from([AVX2, AVX512]))
def test_plans_that_are_tried_use_registers_that_there_are(sizes: Convolution, registers: Registers) -> None:
    for plan in enumerated(sizes, registers):
        assert plan.lanes <= registers.lanes
        if not isinstance(plan, DepthwisePlan):
            assert registers.efficiency(plan.rows, plan.vectors) > 0


@given(sizes=convolutions(), registers=st.sampled_from([AVX2, AVX512]))
def test_dense_and_depthwise_convolutions_are_of_different_kinds(
    sizes: Convolution, registers: Registers
) -> None:
    kinds = {plan.kind for plan in enumerated(sizes, registers)}
    assert kinds <= ({"depthwise"} if sizes.is_depthwise else set(KINDS) - {"depthwise"})
