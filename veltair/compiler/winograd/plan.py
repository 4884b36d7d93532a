"""A recipe's text -> the plan of a kernel. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WINOGRAD = "winograd"


class RecipeError(ValueError):
    """A recipe that this version of the program cannot build; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe says."""


def is_recipe(trace: Any) -> bool:
    """Tell whether what stands where a schedule's trace may stand is a recipe: TVM's traces are lists."""
    return isinstance(trace, Mapping) and WINOGRAD in trace


def parse(trace: Any) -> Plan:
    """Return the plan of a recipe. Raises RecipeError."""
    raise RecipeError("this version of the program knows no recipe")
