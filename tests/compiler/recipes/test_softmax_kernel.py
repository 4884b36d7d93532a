"""Kernels of softmax answer as ONNX Runtime does, also to masks and large numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.support.compiler.nests import matmul
from tests.support.compiler.product_layers import answered, function_of, small_model
from tests.support.compiler.recipe_kernels import CPUS, SETS, Array, outputs_of
from tests.support.onnx_builders import node
from veltair.compiler.footprint.tiling import analyse
from veltair.compiler.recipes.recipe import RecipeError, recipe_of
from veltair.compiler.recipes.recipes import generated, recipes
from veltair.compiler.recipes.softmax_plan import SoftmaxPlan
from veltair.compiler.search.target import cpu_target
from veltair.compiler.select.shipped import AVX2

FEW = settings(max_examples=12, derandomize=True, phases=(Phase.explicit, Phase.generate))
MANY = settings(FEW, max_examples=200)
TOLERANCE = 1e-6  # of numbers between 0 and 1
LEAST = float(np.finfo(np.float32).min)
# What masks add to scores, and what scores may be.
NUMBERS = st.floats(-20, 20, width=32) | st.sampled_from([0.0, 1e4, -1e4, 3e38, LEAST, -np.inf])
SHAPES = st.tuples(
    *(st.integers(1, 3), st.integers(1, 30)), st.sampled_from([4 * count for count in range(1, 21)])
) | st.tuples(st.integers(1, 30), st.sampled_from([4, 8, 16, 80]))


def samples() -> st.SearchStrategy[Array]:
    """Draw scores: few numbers stand out of the others."""
    return SHAPES.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=NUMBERS))


def model_of(*shape: int) -> Any:
    return small_model([node("Softmax", ["x"], ["y"], axis=-1)], {"x": shape}, shape)


def check(sample: Array, plans: list[SoftmaxPlan] | None = None, name: str = AVX2) -> None:
    """Claim that plans, or all that are tried, answer as ONNX Runtime does, with NaN in the same places."""
    layer, target = answered(model_of(*sample.shape), sample), cpu_target(64, CPUS[name])
    chosen = list(map(recipe_of, plans)) if plans else recipes(layer.function, target)
    assert chosen
    for output in outputs_of(layer, chosen, target):
        np.testing.assert_allclose(output, layer.answer, rtol=1e-5, atol=TOLERANCE)


def normal(*shape: int, scale: float = 1.0) -> Array:
    return (scale * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("name", SETS)
@given(sample=samples())
@example(sample=normal(1, 4))
@example(sample=normal(3, 30, 80, scale=1e4))
@FEW
def test_the_recipes_of_any_softmax_are_right(name: str, sample: Array) -> None:
    check(sample, name=name)


@pytest.mark.long
@pytest.mark.parametrize("name", SETS)
def test_the_recipes_of_many_softmax_are_right(name: str) -> None:
    @given(sample=samples())
    @MANY
    def check_one(sample: Array) -> None:
        check(sample, name=name)

    check_one()


@pytest.mark.parametrize("shape", [(13, 24), (2, 13, 24), (2, 1, 3, 24), (1, 2, 2, 3, 24)], ids=str)
@pytest.mark.parametrize(
    "plan",
    [
        SoftmaxPlan(1, 4),
        SoftmaxPlan(5, 8),  # the last share reaches past the last row; others go over several axes
        SoftmaxPlan(6, 8),
    ],
    ids=str,
)
def test_shares_of_any_rows_and_axes_are_right(shape: tuple[int, ...], plan: SoftmaxPlan) -> None:
    check(normal(*shape), [plan])


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 5, 6, 7])
def test_rows_of_any_count_of_vectors_are_right(vectors: int, lanes: int) -> None:
    check(normal(3, vectors * lanes), [SoftmaxPlan(2, lanes)])


@pytest.mark.parametrize("mask", [-1e4, LEAST, -np.inf])
def test_masked_places_are_zero_and_the_others_as_if_these_were_not_there(mask: float) -> None:
    sample = normal(6, 24)
    sample[:, 10:] = mask
    layer = answered(model_of(6, 24), sample)
    (output,) = outputs_of(layer, [recipe_of(SoftmaxPlan(6, 8))], cpu_target(64, CPUS[AVX2]))
    powers = np.exp(sample[:, :10].astype(np.float64))
    np.testing.assert_allclose(output[:, :10], powers / powers.sum(1, keepdims=True), rtol=1e-5)
    assert not output[:, 10:].any()


@pytest.mark.parametrize("value", [1e4, -1e4, 3e38, LEAST])
def test_equal_numbers_share_evenly_however_large(value: float) -> None:
    sample = np.full((2, 16), value, np.float32)
    check(sample, [SoftmaxPlan(1, 8)])
    assert np.allclose(answered(model_of(2, 16), sample).answer, 1 / 16)


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
@pytest.mark.parametrize("places", [slice(0, 16), slice(7, 8)], ids=["all", "one"])
def test_what_is_no_number_stays_in_its_row(value: float, places: slice) -> None:
    sample = normal(3, 16)
    sample[1, places] = value
    check(sample, [SoftmaxPlan(2, 8)])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (SoftmaxPlan(4, 16), "softmax: lanes of 16 do not divide rows of 24"),
        (SoftmaxPlan(27, 8), r"softmax\.block is 27, but the layer has 26"),
    ],
)
def test_a_plan_that_does_not_fit_the_layer_is_refused(plan: SoftmaxPlan, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        generated(function_of(model_of(2, 13, 24)), recipe_of(plan))


def test_a_recipe_for_a_layer_that_is_no_softmax_is_refused() -> None:
    with pytest.raises(RecipeError, match="softmax: the layer is none that this kind of recipe computes"):
        generated(matmul(8, 8, 8), recipe_of(SoftmaxPlan(1, 8)))


@pytest.mark.parametrize("length", [6, 7, 1])
def test_rows_that_fill_no_registers_have_no_recipes(length: int) -> None:
    assert recipes(function_of(model_of(4, length)), cpu_target(64, CPUS[AVX2])) == []


@pytest.mark.parametrize("shape", [(384, 64), (4, 96, 64), (1, 2, 2, 96, 64)], ids=str)
def test_a_share_holds_the_rows_that_it_reads_and_those_that_it_writes(shape: tuple[int, ...]) -> None:
    tiling, traffic = analyse(generated(function_of(model_of(*shape)), recipe_of(SoftmaxPlan(24, 8)))["main"])
    assert tiling.parallelism == 384 / 24
    assert tiling.blocking_bytes == 4 * 2 * 24 * 64
    assert tiling.compulsory_bytes == 4 * 2 * 384 * 64
    # Beside these, a row's maxima and sums of vectors.
    assert traffic[-1] == pytest.approx(4 * 2 * 384 * 64, rel=0.01)


def test_the_last_share_of_rows_counts_as_one() -> None:
    tiling, _ = analyse(generated(function_of(model_of(100, 64)), recipe_of(SoftmaxPlan(24, 8)))["main"])
    assert tiling.parallelism == 5
