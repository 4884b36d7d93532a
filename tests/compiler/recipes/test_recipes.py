"""Which recipes a layer has, and that their kernels answer as ONNX Runtime does."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import Phase, example, given, settings

from tests.support.compiler.convolution_cases import Sort, cases
from tests.support.compiler.convolution_layers import ENDINGS, Case, answered, answered_model, function_of
from tests.support.compiler.nests import matmul
from tests.support.compiler.recipe_kernels import (
    CPUS,
    SETS,
    TOLERANCE,
    Answered,
    kinds_of,
    some_of,
    worst_error,
)
from tests.support.onnx_builders import make_onnx, node
from veltair.compiler.recipes.recipe import RecipeError
from veltair.compiler.recipes.recipes import generated, recipes
from veltair.compiler.search.target import cpu_target
from veltair.compiler.select.shipped import AVX2, AVX512

# To compile a kernel takes a quarter of a second, and the smallest failing case of many is not worth minutes.
FEW = settings(max_examples=12, derandomize=True, phases=(Phase.explicit, Phase.generate))
MANY = settings(FEW, max_examples=120)

DENSE = Case()
DEPTHWISE = Case(groups=8)


def expected_kinds(case: Case) -> set[str]:
    """Return the kinds of kernels that a layer must have recipes of."""
    if case.groups > 1:
        is_depthwise = case.groups == case.channels == case.out_channels
        return {"depthwise"} if is_depthwise and case.channels % 4 == 0 else set()
    found = {"direct"} if case.out_channels % 4 == 0 else set()
    is_plain = case.kernel == (3, 3) and case.stride == case.dilation == (1, 1)
    return found | ({"winograd"} if is_plain and found and case.channels % 4 == 0 else set())


def check_case(case: Case, name: str) -> None:
    """Claim that a layer has the recipes that it must have, and that some of them answer right."""
    layer, target = answered(case), cpu_target(64, CPUS[name])
    found = recipes(layer.function, target)
    assert kinds_of(found) == expected_kinds(case)
    chosen = some_of(found, case.seed)
    assert worst_error(layer, chosen, target) <= TOLERANCE, chosen


@pytest.mark.parametrize("name", SETS)
@given(case=cases("any"))
@example(case=Case((7, 5), 3, 16, (5, 5), (2, 0, 1, 2), (2, 1), ending="residual", batch=2))
@FEW
def test_any_convolution_has_the_recipes_that_it_must_have_and_they_are_right(name: str, case: Case) -> None:
    check_case(case, name)


@pytest.mark.parametrize("name", SETS)
@given(case=cases("plain"))
@example(case=Case((1, 1), 4, 4, ending="swish"))
@FEW
def test_kernels_of_winograd_are_right(name: str, case: Case) -> None:
    check_case(case, name)


@pytest.mark.parametrize("name", SETS)
@given(case=cases("depthwise"))
@example(case=Case((9, 1), 24, 24, (3, 2), (0, 1, 2, 0), (1, 2), (2, 1), groups=24, ending="prelu"))
@FEW
def test_kernels_of_depthwise_convolutions_are_right(name: str, case: Case) -> None:
    check_case(case, name)


@pytest.mark.long
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("sort", ["any", "plain", "depthwise"])
def test_kernels_of_many_convolutions_are_right(sort: Sort, name: str) -> None:
    @given(case=cases(sort))
    @MANY
    def check(case: Case) -> None:
        check_case(case, name)

    check()


def followed_by(*nodes: onnx.NodeProto, groups: int = 1, **inputs: tuple[int, ...]) -> Answered:
    """Return a 3 x 3 convolution "c" of (2, 8, 5, 6) "x", followed by nodes that may read other inputs."""
    constants = {
        "w": np.random.default_rng(0).standard_normal((8, 8 // groups, 3, 3)).astype(np.float32),
        "one": np.ones((), np.float32),
        "half": np.full((), 0.5, np.float32),
    }
    convolution = node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], group=groups)
    read = {name for one in (convolution, *nodes) for name in one.input}
    kept = {name: value for name, value in constants.items() if name in read}
    return answered_model(
        make_onnx([convolution, *nodes], {"x": (2, 8, 5, 6), **inputs}, {"y": (2, 8, 5, 6)}, kept)
    )


FOLLOWING: dict[str, tuple[list[onnx.NodeProto], dict[str, tuple[int, ...]]]] = {
    "its own input": ([node("Add", ["c", "x"], ["y"])], {}),
    "a gate of channels": ([node("Mul", ["c", "g"], ["y"])], {"g": (2, 8, 1, 1)}),
    "a gate of channels of one image": ([node("Mul", ["c", "g"], ["y"])], {"g": (1, 8, 1, 1)}),
    "a mask of pixels": ([node("Mul", ["c", "g"], ["y"])], {"g": (2, 1, 5, 6)}),
    "a mask of columns": ([node("Mul", ["c", "g"], ["y"])], {"g": (1, 1, 1, 6)}),
    "two residuals": (
        [node("Add", ["c", "r"], ["s"]), node("Sub", ["s", "q"], ["y"])],
        {"r": (2, 8, 5, 6), "q": (2, 8, 5, 6)},
    ),
    "leaky relu": ([node("LeakyRelu", ["c"], ["y"], alpha=0.1)], {}),
    "hyperbolic tangent": ([node("Tanh", ["c"], ["y"])], {}),
    "elu": ([node("Elu", ["c"], ["y"])], {}),
    "softplus": ([node("Softplus", ["c"], ["y"])], {}),
    "gelu": (
        [
            node("Erf", ["c"], ["e"]),
            node("Add", ["e", "one"], ["a"]),
            node("Mul", ["a", "c"], ["m"]),
            node("Mul", ["m", "half"], ["y"]),
        ],
        {},
    ),
}


@pytest.mark.parametrize("groups", [1, 8], ids=["dense", "depthwise"])
@pytest.mark.parametrize("name", FOLLOWING)
def test_whatever_follows_a_convolution_is_computed_after_it(name: str, groups: int) -> None:
    nodes, inputs = FOLLOWING[name]
    layer, target = followed_by(*nodes, groups=groups, **inputs), cpu_target(64, CPUS[AVX2])
    found = recipes(layer.function, target)
    chosen = [next(recipe for recipe in found if kind in recipe) for kind in sorted(kinds_of(found))]
    assert chosen or name == "softplus"  # a logarithm is not known
    assert worst_error(layer, chosen, target) <= TOLERANCE


@pytest.mark.parametrize("case", [DENSE, DEPTHWISE], ids=["dense", "depthwise"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_follows_the_convolutions_of_our_networks_is_computed_after_them(
    ending: str, case: Case
) -> None:
    sizes = Case(case.size, ending=ending, groups=case.groups)
    layer, target = answered(sizes), cpu_target(64, CPUS[AVX2])
    found = recipes(layer.function, target)
    chosen = [next(recipe for recipe in found if kind in recipe) for kind in sorted(expected_kinds(sizes))]
    assert worst_error(layer, chosen, target) <= TOLERANCE


@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_convolution_has_no_recipes(groups: int) -> None:
    assert recipes(function_of(Case(groups=groups)), cpu_target(64, CPUS[AVX2])) == []


def test_recipes_come_in_the_same_order_each_time() -> None:
    target = cpu_target(64, CPUS[AVX2])
    assert recipes(function_of(DENSE), target) == recipes(function_of(DENSE), target) != []


def test_a_target_with_avx_512_has_recipes_of_wider_registers() -> None:
    lanes = {
        name: {recipe["direct"]["lanes"] for recipe in found if "direct" in recipe}
        for name, cpu in CPUS.items()
        for found in [recipes(function_of(Case(channels=32, out_channels=32)), cpu_target(64, cpu))]
    }
    assert lanes == {AVX2: {8}, AVX512: {16}}


@pytest.mark.parametrize(
    "function", [matmul(8, 8, 8), function_of(Case(groups=2))], ids=["product", "grouped"]
)
def test_a_recipe_for_a_layer_that_is_none_of_its_kind_is_refused(function: Any) -> None:
    recipe = {"direct": {"scheme": "plain", "block": 4, "columns": 8, "rows": 4, "vectors": 1, "lanes": 8}}
    with pytest.raises(RecipeError, match="direct: "):
        generated(function, recipe)


def test_a_recipe_that_this_version_does_not_know_is_refused() -> None:
    with pytest.raises(RecipeError, match="no recipe that this version knows"):
        generated(function_of(DENSE), {"fft": {"tile": 8}})
