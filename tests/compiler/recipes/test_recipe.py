from typing import Any

import pytest

from veltair.compiler.recipes.recipe import RecipeError, is_recipe, recipe_of
from veltair.compiler.recipes.winograd_plan import WinogradPlan


@pytest.mark.parametrize("trace", [{"winograd": {"tile": 4}}, {}])
def test_a_mapping_is_a_recipe(trace: Any) -> None:
    assert is_recipe(trace)


@pytest.mark.parametrize("trace", [[], [["GetSBlock", []], []], None, "winograd"])
def test_what_is_no_mapping_is_no_recipe(trace: Any) -> None:
    assert not is_recipe(trace)


def test_a_recipe_names_its_kind_and_all_that_its_plan_says() -> None:
    assert recipe_of(WinogradPlan(4, "fused", 12, 32, 6, 2, 8)) == {
        "winograd": {
            "tile": 4,
            "scheme": "fused",
            "block": 12,
            "columns": 32,
            "rows": 6,
            "vectors": 2,
            "lanes": 8,
        }
    }


def test_a_recipe_error_is_a_value_error() -> None:
    # What replays traces refuses those that TVM refuses with the same errors.
    assert issubclass(RecipeError, ValueError)
