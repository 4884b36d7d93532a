"""What a recipe is: a trace that names a kernel of this room and its plan, where TVM's traces are lists."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from veltair.compiler.registers import AVX512

# Floats of a register of SSE, AVX2 and AVX-512.
LANES = (4, 8, 16)


class RecipeError(ValueError):
    """A recipe that this version of the program cannot build; the message says why."""


def is_recipe(trace: Any) -> bool:
    """Tell whether a candidate's trace is a recipe: a mapping of one kind to its plan. TVM's are lists."""
    return isinstance(trace, Mapping)


def recipe_of(plan: Any) -> dict[str, Any]:
    """Return the recipe of a plan: plain JSON."""
    return {plan.kind: asdict(plan)}


def check_counts(plan: Any, words: Mapping[str, tuple[str, ...]]) -> None:
    """Raise RecipeError unless the fields of a plan are numbers of 1 or more, and `words` one of theirs."""
    for field in fields(plan):
        value = getattr(plan, field.name)
        if field.name in words:
            if value not in words[field.name]:
                raise RecipeError(f"{plan.kind}.{field.name} is {value!r}; give one of {words[field.name]}")
        elif type(value) is not int or value < 1:
            raise RecipeError(f"{plan.kind}.{field.name} is {value!r}; give a whole number of 1 or more")


def check_lanes(plan: Any) -> None:
    """Raise RecipeError unless a plan's lanes are those of a register, or of a half or a quarter of one."""
    if plan.lanes not in LANES:
        raise RecipeError(f"{plan.kind}.lanes is {plan.lanes}; give 4, 8 or 16")


def check_multiple(plan: Any, name: str, step: int, of: str) -> None:
    """Raise RecipeError unless a field of a plan is a multiple of a step, which is that `of` something."""
    value = getattr(plan, name)
    if value % step:
        raise RecipeError(f"{plan.kind}.{name} is {value}; give a multiple of its {of}, {step}")


def check_sums(plan: Any, count: int) -> None:
    """Raise RecipeError if a plan keeps more sums in registers than any CPU has: each is code of its own."""
    if count > AVX512.count:
        raise RecipeError(f"{plan.kind}: {count} sums in registers; give {AVX512.count} or fewer")


def check_within(plan: Any, name: str, step: int, count: int) -> None:
    """Raise RecipeError if a field of a plan takes another step although `count` is reached before."""
    value = getattr(plan, name)
    if value >= count + step:
        raise RecipeError(
            f"{plan.kind}.{name} is {value}, but the layer has {count}; in steps of {step} these take less"
        )
