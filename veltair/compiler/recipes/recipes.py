"""Kernels of our own as candidates: the recipes that are worth a try for a layer, and the kernel of each."""

from typing import Any

from tvm.ir import IRModule
from tvm.target.codegen import target_has_features

from veltair.compiler.recipes import (
    depthwise_kernel,
    depthwise_plan,
    direct_kernel,
    direct_plan,
    winograd_kernel,
    winograd_plan,
)
from veltair.compiler.recipes.convolution import read_layer
from veltair.compiler.recipes.depthwise_plan import DepthwisePlan
from veltair.compiler.recipes.direct_plan import DirectPlan
from veltair.compiler.recipes.plan import parse
from veltair.compiler.recipes.recipe import RecipeError, recipe_of
from veltair.compiler.registers import AVX2, AVX512


def recipes(function: Any, target: Any) -> list[dict[str, Any]]:
    """Return the recipes that are worth measuring for a layer on a target, always in the same order."""
    layer = read_layer(function)
    if layer is None:
        return []
    registers = AVX512 if target_has_features("avx512f", target) else AVX2
    found = [
        *winograd_plan.plans(layer.convolution, registers),
        *direct_plan.plans(layer.convolution, registers),
        *depthwise_plan.plans(layer.convolution, registers),
    ]
    return [recipe_of(plan) for plan in found]


def generated(function: Any, trace: Any) -> IRModule:
    """Return the module of a recipe for a layer: "main", with the layer's parameters; it packs its weights.

    Raises RecipeError if this version of the program cannot build it for the layer.
    """
    plan = parse(trace)
    layer = read_layer(function)
    if layer is None:
        raise RecipeError(f"{plan.kind}: the layer is no convolution that recipes compute")
    if isinstance(plan, DirectPlan):
        return direct_kernel.make_kernel(layer, plan)
    if isinstance(plan, DepthwisePlan):
        return depthwise_kernel.make_kernel(layer, plan)
    return winograd_kernel.make_kernel(layer, plan)
