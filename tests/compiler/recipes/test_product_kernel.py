"""Kernels of products of matrices answer as ONNX Runtime does, and have the footprints worked by hand."""

from math import ceil
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from tests.support.compiler.product_cases import odd_plans, product_cases
from tests.support.compiler.product_layers import (
    ENDINGS,
    FORMS,
    HEADS,
    ProductCase,
    answered,
    function_of,
    model_of,
    small_model,
)
from tests.support.compiler.recipe_kernels import CPUS, SETS, TOLERANCE, some_of, worst_error
from tests.support.onnx_builders import node
from veltair.compiler.footprint.tiling import analyse
from veltair.compiler.recipes.product_plan import ProductPlan
from veltair.compiler.recipes.recipe import RecipeError, recipe_of
from veltair.compiler.recipes.recipes import generated, recipes
from veltair.compiler.search.prepacked import split_prepacked
from veltair.compiler.search.target import cpu_target
from veltair.compiler.select.shipped import AVX2

# To compile a kernel takes a tenth of a second; a smaller failing case is not worth minutes.
FEW = settings(max_examples=8, derandomize=True, phases=(Phase.explicit, Phase.generate))
MANY = settings(FEW, max_examples=150)
# 13 rows are no multiple of tiles; 20 columns are 5 vectors of 4, or a panel of 16 and a rest.
ODD = ProductCase(13, 12, 20, 2, "weights", "residual")


def kernel_of(case: ProductCase, plan: ProductPlan) -> Any:
    return generated(function_of(model_of(case)), recipe_of(plan))["main"]


def answered_case(case: ProductCase) -> Any:
    return answered(model_of(case), seed=case.seed)


def check_case(case: ProductCase, name: str) -> None:
    """Claim that a layer has recipes, and that some of them answer right."""
    layer, target = answered_case(case), cpu_target(64, CPUS[name])
    chosen = some_of(recipes(layer.function, target), case.seed)
    assert chosen
    assert worst_error(layer, chosen, target) <= TOLERANCE, chosen


def check_plans(case: ProductCase, plans: list[ProductPlan]) -> None:
    """Claim that plans answer right."""
    assert worst_error(answered_case(case), list(map(recipe_of, plans))) <= TOLERANCE, plans


def some_odd_plans(case: ProductCase) -> st.SearchStrategy[tuple[ProductCase, list[ProductPlan]]]:
    return st.tuples(st.just(case), st.lists(odd_plans(case), min_size=3, max_size=3, unique=True))


ODD_PLANS = product_cases().flatmap(some_odd_plans)


@pytest.mark.parametrize("name", SETS)
@given(case=product_cases())
@example(case=ProductCase(4, 1, 4))
@example(case=ProductCase(39, 70, 72, 2, "heads", "residual"))
@FEW
def test_the_recipes_of_any_product_are_right(name: str, case: ProductCase) -> None:
    check_case(case, name)


@given(drawn=ODD_PLANS)
@FEW
def test_any_plan_that_fits_is_right(drawn: tuple[ProductCase, list[ProductPlan]]) -> None:
    check_plans(*drawn)


@pytest.mark.long
@pytest.mark.parametrize("name", SETS)
def test_the_recipes_of_many_products_are_right(name: str) -> None:
    @given(case=product_cases())
    @MANY
    def check(case: ProductCase) -> None:
        check_case(case, name)

    check()


@pytest.mark.long
def test_many_plans_that_fit_are_right() -> None:
    @given(drawn=ODD_PLANS)
    @MANY
    def check(drawn: tuple[ProductCase, list[ProductPlan]]) -> None:
        check_plans(*drawn)

    check()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_is_multiplied_and_follows_is_computed(form: str, ending: str) -> None:
    case = ProductCase(9, 10, 24, 2, form, ending)
    layer, target = answered_case(case), cpu_target(64, CPUS[AVX2])
    assert worst_error(layer, recipes(layer.function, target)[:1], target) <= TOLERANCE


@pytest.mark.parametrize("are_constant", [True, False], ids=["constants", "inputs"])
@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 4, 9, 10), (2, 4, 10, 24)), ((2, 4, 9, 10), (2, 1, 10, 24)), ((2, 1, 9, 10), (4, 10, 24))],
)
def test_pairs_of_two_axes_are_right(
    left: tuple[int, ...], right: tuple[int, ...], are_constant: bool
) -> None:
    weights = {"w": np.random.default_rng(0).standard_normal(right)} if are_constant else {}
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    layer = answered(small_model(nodes, {"x": left, "w": right}, (2, 4, 9, 24), weights))
    plans = [ProductPlan(6, 16, 3, 2, 8, 10), ProductPlan(9, 24, 3, 3, 8, 5)]
    assert worst_error(layer, list(map(recipe_of, plans))) <= 1e-5


@pytest.mark.parametrize("form", ["weights", "each", "inputs"])
@pytest.mark.parametrize(
    "plan",
    [
        ProductPlan(
            12, 32, 6, 4, 4, 12
        ),  # the last panel begins before the end of the columns, and ends after
        ProductPlan(14, 20, 14, 1, 4, 12),  # a tile of more rows than there are
        ProductPlan(1, 4, 1, 1, 4, 12),
        ProductPlan(13, 24, 1, 6, 4, 4),  # sums of a panel that reaches past the end wait
        ProductPlan(10, 12, 5, 3, 4, 1),
        ProductPlan(15, 8, 5, 2, 4, 6),
    ],
    ids=str,
)
def test_plans_that_are_legal_but_odd_are_right(form: str, plan: ProductPlan) -> None:
    case = ProductCase(ODD.rows, ODD.depth, ODD.columns, 2, form, "residual")
    assert worst_error(answered_case(case), [recipe_of(plan)]) <= 1e-5


@pytest.mark.parametrize("plan", [ProductPlan(6, 32, 6, 2, 8, 30), ProductPlan(9, 48, 3, 3, 16, 30)], ids=str)
def test_a_sum_over_two_axes_is_right(plan: ProductPlan) -> None:
    case = ProductCase(9, 10, 48, 2, "heads", "residual")
    assert worst_error(answered_case(case), [recipe_of(plan)]) <= 1e-5


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_narrow_and_wide_registers_are_right(lanes: int) -> None:
    plans = [ProductPlan(8, 3 * lanes, 4, 3, lanes, 33), ProductPlan(24, 2 * lanes, 8, 2, lanes, 11)]
    layer = answered_case(ProductCase(25, 33, 80, 1, "weights", "gelu"))
    assert worst_error(layer, list(map(recipe_of, plans))) <= 1e-5


@pytest.mark.parametrize(
    ("case", "plan", "message"),
    [
        (ODD, ProductPlan(12, 24, 6, 1, 8, 12), "product: lanes of 8 do not divide 20 columns"),
        (ODD, ProductPlan(12, 20, 6, 1, 4, 5), r"product\.depth 5 does not divide a depth of one axis, 12"),
        (ODD, ProductPlan(24, 20, 6, 1, 4, 12), r"product\.block is 24, but the layer has 13"),
        (ODD, ProductPlan(12, 24, 6, 1, 4, 12), r"product\.columns is 24, but the layer has 20"),
        (
            ProductCase(13, 12, 20, form="heads"),
            ProductPlan(12, 20, 6, 1, 4, 12),
            r"product\.depth 12 does not divide a depth of one axis, 36",
        ),
    ],
)
def test_a_plan_that_does_not_fit_the_layer_is_refused(
    case: ProductCase, plan: ProductPlan, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        kernel_of(case, plan)


@pytest.mark.parametrize(
    ("one", "shape"),
    [
        (node("Softmax", ["x"], ["y"], axis=-1), (8, 8)),
        (node("MaxPool", ["x"], ["y"], kernel_shape=[1, 1]), (1, 8, 8, 8)),
    ],
    ids=["softmax", "pooling"],
)
def test_a_recipe_for_a_layer_that_is_no_product_is_refused(
    one: onnx.NodeProto, shape: tuple[int, ...]
) -> None:
    function = function_of(small_model([one], {"x": shape}, shape))
    with pytest.raises(RecipeError, match="product: the layer is none that this kind of recipe computes"):
        generated(function, recipe_of(ProductPlan(4, 8, 4, 1, 8, 8)))


@pytest.mark.parametrize(
    ("form", "packed"),
    [("weights", [12 * 32]), ("each", [2 * 12 * 32]), ("inputs", []), ("heads", [36 * 32])],
)
def test_constants_are_packed_in_whole_panels_and_inputs_are_not(form: str, packed: list[int]) -> None:
    # 20 columns in panels of 16: two.
    depth = 36 if form == "heads" else 12
    case = ProductCase(13, 12, 20, 2, form)
    split = split_prepacked(kernel_of(case, ProductPlan(12, 32, 6, 4, 4, depth)), "k")
    assert [int(np.prod(shape)) for shape in split.packed_shapes] == packed


@pytest.mark.parametrize("depth", [128, 32], ids=["at once", "in parts"])
@pytest.mark.parametrize("form", ["weights", "each", "inputs"])
@pytest.mark.parametrize(("rows", "columns"), [(96, 256), (97, 264)], ids=["whole", "cut"])
def test_a_share_holds_its_rows_its_columns_of_weights_and_its_outputs(
    rows: int, columns: int, form: str, depth: int
) -> None:
    # 24 rows and 64 columns a share: of 96 x 256 4 x 4, of 97 x 264 5 x 5; each for 2 pairs.
    plan = ProductPlan(24, 64, 6, 2, 8, depth)
    tiling, _ = analyse(kernel_of(ProductCase(rows, 128, columns, 2, form), plan))
    assert tiling.parallelism == 2 * ceil(rows / 24) * ceil(columns / 64)
    outputs = 24 * 64
    # Sums that wait are as many as outputs.
    waiting = outputs if depth < 128 else 0
    assert tiling.blocking_bytes == 4 * (24 * 128 + 128 * 64 + outputs + waiting)


def test_a_share_of_a_sum_over_two_axes_holds_its_rows_of_all_heads() -> None:
    case = ProductCase(96, 64, 256, 2, "heads")
    tiling, _ = analyse(kernel_of(case, ProductPlan(24, 64, 6, 2, 8, HEADS * 64)))
    assert tiling.parallelism == 2 * 4 * 4
    assert tiling.blocking_bytes == 4 * (HEADS * 64 * (24 + 64) + 24 * 64)


def test_a_residual_counts_as_its_outputs_do_and_a_bias_too() -> None:
    plan = ProductPlan(24, 64, 6, 2, 8, 128)
    held = {
        ending: analyse(kernel_of(ProductCase(96, 128, 256, 2, "weights", ending), plan))[0].blocking_bytes
        for ending in ("none", "bias", "residual")
    }
    assert held["bias"] - held["none"] == 4 * 64
    assert held["residual"] - held["bias"] == 4 * 24 * 64


@pytest.mark.parametrize(
    ("form", "data", "weights"),
    [("weights", 2 * 96, 256), ("each", 96, 2 * 256), ("inputs", 2 * 96, 2 * 256)],
)
def test_what_must_come_from_memory_is_each_operand_once(form: str, data: int, weights: int) -> None:
    for depth in (128, 32):
        kernel = kernel_of(ProductCase(96, 128, 256, 2, form), ProductPlan(24, 64, 6, 2, 8, depth))
        assert analyse(kernel)[0].compulsory_bytes == 4 * (128 * (data + weights) + 2 * 96 * 256)
