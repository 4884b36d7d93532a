"""Winograd kernels as candidates: which are worth a try for a layer, and the kernel of each by its recipe."""

from typing import Any

from tvm.ir import IRModule
from tvm.target.codegen import target_has_features

from veltair.compiler.registers import AVX2, AVX512
from veltair.compiler.winograd.kernel import make_kernel
from veltair.compiler.winograd.layer import read_layer
from veltair.compiler.winograd.plan import RecipeError, parse, plans

# Registers are filled with channels, this many at least.
LEAST_LANES = 4


def recipes(function: Any, target: Any) -> list[dict[str, Any]]:
    """Return the traces of a layer's Winograd candidates on a target; none if the layer has none."""
    layer = read_layer(function)
    if layer is None:
        return []
    convolution = layer.convolution
    if convolution.channels % LEAST_LANES or convolution.out_channels % LEAST_LANES:
        return []
    registers = AVX512 if target_has_features("avx512f", target) else AVX2
    return [plan.trace() for plan in plans(convolution, registers)]


def generated(function: Any, trace: Any) -> IRModule:
    """Return the module of a recipe: "main", with the layer's parameters, packs its weights first.

    Raises RecipeError if this version of the program cannot build it for the layer.
    """
    plan = parse(trace)
    layer = read_layer(function)
    if layer is None:
        raise RecipeError("the layer is no dense 3 x 3 convolution of stride 1")
    return make_kernel(layer, plan)
