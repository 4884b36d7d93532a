"""How a softmax is cut into shares, and which plans are worth a try. Pure."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from veltair.compiler.recipes.recipe import RecipeError, check_counts, check_lanes, check_within
from veltair.compiler.recipes.sum_shapes import LEAST_LANES, widest_lanes
from veltair.compiler.registers import Registers

# Shares into which rows are cut.
_SHARES = (16, 64, 256, 1024)


@dataclass(frozen=True, slots=True)
class SoftmaxPlan:
    """A way to compute a softmax: shares of `block` rows, in registers of `lanes`."""

    kind: ClassVar[str] = "softmax"

    block: int
    lanes: int

    def __post_init__(self) -> None:
        check_counts(self, {})
        check_lanes(self)

    def check_fits(self, rows: int, length: int) -> None:
        """Raise RecipeError unless it computes a softmax of rows of a length."""
        if length % self.lanes:
            raise RecipeError(f"softmax: lanes of {self.lanes} do not divide rows of {length}")
        check_within(self, "block", 1, rows)


def plans(rows: int, length: int, registers: Registers) -> list[SoftmaxPlan]:
    """Return ways to compute a softmax, each once; none where rows do not fill registers."""
    if length % LEAST_LANES:
        return []
    lanes = widest_lanes(length, registers)
    return [SoftmaxPlan(block, lanes) for block in dict.fromkeys(ceil(rows / shares) for shares in _SHARES)]
