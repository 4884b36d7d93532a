"""A recipe -> the plan of its kernel, whatever its kind. Pure."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from veltair.compiler.recipes.depthwise_plan import DepthwisePlan
from veltair.compiler.recipes.direct_plan import DirectPlan
from veltair.compiler.recipes.product_plan import ProductPlan
from veltair.compiler.recipes.recipe import RecipeError, is_recipe
from veltair.compiler.recipes.softmax_plan import SoftmaxPlan
from veltair.compiler.recipes.winograd_plan import WinogradPlan

Plan = WinogradPlan | DirectPlan | DepthwisePlan | ProductPlan | SoftmaxPlan
# A union of types, for mypy does not take the type of a union.
KINDS: dict[
    str,
    type[WinogradPlan] | type[DirectPlan] | type[DepthwisePlan] | type[ProductPlan] | type[SoftmaxPlan],
] = {
    WinogradPlan.kind: WinogradPlan,
    DirectPlan.kind: DirectPlan,
    DepthwisePlan.kind: DepthwisePlan,
    ProductPlan.kind: ProductPlan,
    SoftmaxPlan.kind: SoftmaxPlan,
}


def parse(trace: Any) -> Plan:
    """Return the plan of a recipe. Raises RecipeError if this version of the program does not know it."""
    if not is_recipe(trace) or len(trace) != 1 or set(trace) - set(KINDS):
        raise RecipeError(f"{trace!r} is no recipe that this version knows: it knows {sorted(KINDS)}")
    ((kind, plan),) = trace.items()
    names = {field.name for field in fields(KINDS[kind])}
    if not isinstance(plan, Mapping) or set(plan) != names:
        raise RecipeError(f"{trace!r} is no recipe that this version knows: a plan has {sorted(names)}")
    return KINDS[kind](**plan)
