"""How a product of matrices is cut into tiles of sums, and which plans are worth a try. Pure."""

from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import ClassVar

from veltair.compiler.recipes.recipe import (
    RecipeError,
    check_counts,
    check_lanes,
    check_multiple,
    check_sums,
    check_within,
)
from veltair.compiler.recipes.sizes import Matrices
from veltair.compiler.recipes.sum_shapes import LEAST_LANES, sum_shapes
from veltair.compiler.registers import Registers

FLOAT_BYTES = 4
# Fewer rows use each weight so seldom that only memory counts.
LEAST_ROWS = 4
ALL = 2**16  # rows, or panels: all that there are
# Wanted rows of a block and panels of columns, for the shapes of tiles that are tried.
_BLOCKS = ((24, ALL), (48, 4), (96, 4), (ALL, 1), (ALL, 2), (128, ALL))
SHAPES = 2
# A panel of weights is read again for each tile of rows, so that it should stay in the L2.
PANEL_BYTES = 2**17
# Sums that wait after fewer steps than this share of a panel cost more than weights from beyond the L2.
SMALLEST_PART = 4


@dataclass(frozen=True, slots=True)
class ProductPlan:
    """A way to multiply matrices.

    A share computes `block` rows by `columns` columns; sums of `rows` by `vectors` registers of `lanes` stay
    in registers over `depth` steps, and wait in memory between them where there are more.
    """

    kind: ClassVar[str] = "product"

    block: int
    columns: int
    rows: int
    vectors: int
    lanes: int
    depth: int

    def __post_init__(self) -> None:
        check_counts(self, {})
        check_lanes(self)
        check_multiple(self, "block", self.rows, "rows")
        check_multiple(self, "columns", self.panel, "panel")
        check_sums(self, self.rows * self.vectors)

    def check_fits(self, sizes: Matrices, can_wait: bool) -> None:
        """Raise RecipeError unless it multiplies matrices of these sizes; `can_wait` as for `plans`."""
        if sizes.columns % self.lanes:
            raise RecipeError(f"product: lanes of {self.lanes} do not divide {sizes.columns} columns")
        if self.depth != sizes.depth and (sizes.depth % self.depth or not can_wait):
            raise RecipeError(
                f"product.depth {self.depth} does not divide a depth of one axis, {sizes.depth}"
            )
        check_within(self, "block", self.rows, sizes.rows)
        check_within(self, "columns", self.panel, sizes.columns)

    @property
    def panel(self) -> int:
        """Columns whose sums are in registers at once."""
        return self.vectors * self.lanes


def plans(sizes: Matrices, registers: Registers, can_wait: bool) -> list[ProductPlan]:
    """Return ways to multiply matrices, each once; none where rows are few or columns fill no registers.

    `can_wait` says that sums may wait in memory, see `ProductPlan`.
    """
    if sizes.columns % LEAST_LANES or sizes.rows < LEAST_ROWS:
        return []
    shapes = sum_shapes(sizes.rows, sizes.columns, registers)[:SHAPES]
    found = [_plan(sizes, shape, wanted, can_wait) for shape, wanted in product(shapes, _BLOCKS)]
    return list(dict.fromkeys(found))


def _plan(
    sizes: Matrices, shape: tuple[int, int, int], wanted: tuple[int, int], can_wait: bool
) -> ProductPlan:
    rows, vectors, lanes = shape
    tiles, panels = ceil(sizes.rows / rows), ceil(sizes.columns / (vectors * lanes))
    block = ceil(tiles / ceil(tiles / min(tiles, max(1, round(wanted[0] / rows)))))
    columns = ceil(panels / ceil(panels / min(wanted[1], panels))) * vectors * lanes
    most = PANEL_BYTES // (FLOAT_BYTES * vectors * lanes)
    depth = _part(sizes.depth, most) if can_wait else sizes.depth
    return ProductPlan(block * rows, columns, rows, vectors, lanes, depth)


def _part(depth: int, most: int) -> int:
    """Return the largest even part of a depth of at most so many steps; all of it if each is small."""
    part = max(part for part in range(1, min(depth, most) + 1) if depth % part == 0)
    return part if part >= min(depth, most // SMALLEST_PART) else depth
