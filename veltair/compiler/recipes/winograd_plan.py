"""How a 3 x 3 convolution is cut into tiles, blocks and columns, and which plans are worth a try. Pure."""

from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import ClassVar, Literal, get_args

from veltair.compiler.recipes.recipe import (
    RecipeError,
    check_counts,
    check_lanes,
    check_multiple,
    check_sums,
    check_within,
)
from veltair.compiler.recipes.sizes import Convolution
from veltair.compiler.recipes.transforms import KERNEL, TILES, inputs_of
from veltair.compiler.registers import Registers

# "fused": each parallel share transforms its tiles, multiplies and transforms back, so that all stays in its
# L2. "phases": first all tiles are transformed, then each share multiplies a block of tiles by some columns.
Scheme = Literal["fused", "phases"]
FLOAT_BYTES = 4
LEAST_LANES = 4
# Vectors of a row of sums that are kept in registers: one needs too many rows, four leave too few.
VECTORS = 2
ALL = 2**16  # panels: all that there are
# A share whose tiles and sums leave the largest L2 there is has lost what it is for; so have tiles that all
# are transformed first and leave a part of an L3.
SHARE_BYTES, TRANSFORMED_BYTES = 2**21, 2**23
# Tile, scheme, wanted blocks of tiles, and wanted panels of columns. Tiles of 2 save fewer products but need
# less than half the weights of tiles of 4, so that some of them are worth having where memory is contended.
_WAYS: tuple[tuple[int, Scheme, tuple[int, ...], tuple[int, ...]], ...] = (
    (4, "fused", (8, 16, 32, 64), (4, ALL)),
    (4, "phases", (16, 64), (1, 2, 4)),
    (2, "fused", (16, 48), (ALL,)),
    (2, "phases", (48,), (1, 4)),
)


@dataclass(frozen=True, slots=True)
class WinogradPlan:
    """A way to compute a convolution: F(tile x tile, 3 x 3).

    A block of `block` tiles is multiplied by `columns` output channels at once. Sums of `rows` tiles by
    `vectors` registers of `lanes` channels stay in registers. `scheme` is who transforms the tiles.
    """

    kind: ClassVar[str] = "winograd"

    tile: int
    scheme: Scheme
    block: int
    columns: int
    rows: int
    vectors: int
    lanes: int

    def __post_init__(self) -> None:
        check_counts(self, {"scheme": get_args(Scheme)})
        if self.tile not in TILES:
            raise RecipeError(f"winograd.tile is {self.tile}; give one of {TILES}")
        check_lanes(self)
        check_multiple(self, "block", self.rows, "rows")
        check_multiple(self, "columns", self.panel, "panel")
        check_sums(self, self.rows * self.vectors)

    def check_fits(self, convolution: Convolution) -> None:
        """Raise RecipeError unless it computes a convolution."""
        if not is_candidate(convolution):
            raise RecipeError(f"winograd: it computes other convolutions than {convolution}")
        check_within(self, "block", self.rows, prod(tiles_of(convolution, self.tile)))
        check_within(self, "columns", self.panel, convolution.out_channels)

    @property
    def panel(self) -> int:
        """Output channels whose sums are in registers at once."""
        return self.vectors * self.lanes

    @property
    def products(self) -> int:
        """Products of a tile for a pair of channels."""
        return inputs_of(self.tile) ** 2

    def work_space_bytes(self, convolution: Convolution) -> int:
        """Return what a share keeps of transformed tiles and sums."""
        return FLOAT_BYTES * self.products * self.block * (convolution.channels + self.columns)

    def transformed_bytes(self, convolution: Convolution) -> int:
        """Return what all transformed tiles take."""
        return FLOAT_BYTES * self.products * prod(tiles_of(convolution, self.tile)) * convolution.channels


def tiles_of(convolution: Convolution, tile: int) -> tuple[int, int, int]:
    """Return images, rows and columns of tiles of so many outputs in each direction."""
    return convolution.batch, ceil(convolution.out_height / tile), ceil(convolution.out_width / tile)


def is_candidate(convolution: Convolution) -> bool:
    """Tell whether a convolution is 3 x 3, of stride and dilation 1, of channels that fill registers."""
    is_plain = convolution.is_plain(KERNEL) and not convolution.is_depthwise
    return is_plain and convolution.fills(LEAST_LANES)


def plans(convolution: Convolution, registers: Registers) -> list[WinogradPlan]:
    """Return ways to compute a convolution, each once: both tiles and schemes, several blocks and columns.

    Blocks and columns are as near to the wanted ones as full registers allow. There are none for another
    convolution than 3 x 3 of stride and dilation 1, or of channels that fill no registers.
    """
    if not is_candidate(convolution):
        return []
    found = (
        _plan(convolution, registers, tile, scheme, block, panels)
        for tile, scheme, blocks, columns in _WAYS
        for block, panels in product(blocks, columns)
    )
    return [plan for plan in dict.fromkeys(found) if plan is not None]


def _plan(
    convolution: Convolution, registers: Registers, tile: int, scheme: Scheme, block: int, panels: int
) -> WinogradPlan | None:
    """Return the plan nearest to a block and to panels of columns; None if it needs too much work space."""
    tiles = prod(tiles_of(convolution, tile))
    width = registers.lanes * min(VECTORS, ceil(convolution.out_channels / registers.lanes))
    columns = width * min(panels, ceil(convolution.out_channels / width))
    vectors = width // registers.lanes
    found = [
        WinogradPlan(
            tile,
            scheme,
            rows * max(1, round(min(block, tiles) / rows)),
            columns,
            rows,
            vectors,
            registers.lanes,
        )
        for rows in range(1, registers.count)
        if registers.efficiency(rows, vectors) > 0
    ]
    best = max(found, key=lambda plan: _worth(plan, tiles, registers))
    fits = best.work_space_bytes(convolution) <= SHARE_BYTES
    held = scheme == "fused" or best.transformed_bytes(convolution) <= TRANSFORMED_BYTES
    return best if fits and held else None


def _worth(plan: WinogradPlan, tiles: int, registers: Registers) -> tuple[float, int]:
    """Return the share of a core's peak that a plan may reach; of equals, more sums save more loads."""
    computed = ceil(tiles / plan.block) * plan.block
    return round(registers.efficiency(plan.rows, plan.vectors) * tiles / computed, 3), plan.rows
