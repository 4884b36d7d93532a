"""Kernels of our own as candidates: the recipes that are worth a try for a layer, and the kernel of each."""

from typing import Any, TypeVar

from tvm.ir import IRModule
from tvm.target.codegen import target_has_features

from veltair.compiler.recipes import (
    depthwise_kernel,
    depthwise_plan,
    direct_kernel,
    direct_plan,
    product_kernel,
    product_plan,
    softmax_kernel,
    softmax_plan,
    winograd_kernel,
    winograd_plan,
)
from veltair.compiler.recipes.convolution import read_layer
from veltair.compiler.recipes.depthwise_plan import DepthwisePlan
from veltair.compiler.recipes.direct_plan import DirectPlan
from veltair.compiler.recipes.plan import Plan, parse
from veltair.compiler.recipes.product import read_product
from veltair.compiler.recipes.product_plan import ProductPlan
from veltair.compiler.recipes.recipe import RecipeError, recipe_of
from veltair.compiler.recipes.softmax import read_softmax
from veltair.compiler.recipes.softmax_plan import SoftmaxPlan
from veltair.compiler.registers import AVX2, AVX512

Read = TypeVar("Read")


def recipes(function: Any, target: Any) -> list[dict[str, Any]]:
    """Return the recipes that are worth measuring for a layer on a target, always in the same order."""
    registers = AVX512 if target_has_features("avx512f", target) else AVX2
    if (layer := read_layer(function)) is not None:
        return [
            *map(recipe_of, winograd_plan.plans(layer.convolution, registers)),
            *map(recipe_of, direct_plan.plans(layer.convolution, registers)),
            *map(recipe_of, depthwise_plan.plans(layer.convolution, registers)),
        ]
    if (product := read_product(function)) is not None:
        can_wait = len(product.reduced) == 1
        return [recipe_of(plan) for plan in product_plan.plans(product.sizes, registers, can_wait)]
    if (softmax := read_softmax(function)) is not None:
        return [recipe_of(plan) for plan in softmax_plan.plans(softmax.rows, softmax.length, registers)]
    return []


def generated(function: Any, trace: Any) -> IRModule:
    """Return the module of a recipe for a layer: "main", with the layer's parameters; it packs its weights.

    Raises RecipeError if this version of the program cannot build it for the layer.
    """
    plan = parse(trace)
    if isinstance(plan, ProductPlan):
        return product_kernel.make_kernel(_known(read_product(function), plan), plan)
    if isinstance(plan, SoftmaxPlan):
        return softmax_kernel.make_kernel(_known(read_softmax(function), plan), plan)
    layer = _known(read_layer(function), plan)
    if isinstance(plan, DirectPlan):
        return direct_kernel.make_kernel(layer, plan)
    if isinstance(plan, DepthwisePlan):
        return depthwise_kernel.make_kernel(layer, plan)
    return winograd_kernel.make_kernel(layer, plan)


def _known(read: Read | None, plan: Plan) -> Read:
    if read is None:
        raise RecipeError(f"{plan.kind}: the layer is none that this kind of recipe computes")
    return read
