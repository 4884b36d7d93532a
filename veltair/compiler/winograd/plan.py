"""How a 3 x 3 convolution is cut into tiles, blocks and columns, and which plans are worth a try. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import product
from math import ceil, prod
from typing import Any, Literal, get_args

from veltair.compiler.registers import Registers
from veltair.compiler.winograd.transforms import TILES, inputs_of

WINOGRAD = "winograd"
# "fused": each parallel share transforms its tiles, multiplies and transforms back, so that all stays in its
# L2. "phases": first all tiles are transformed, then each share multiplies a block of tiles by some columns.
Scheme = Literal["fused", "phases"]
FLOAT_BYTES = 4
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


class RecipeError(ValueError):
    """A recipe that this version of the program cannot build; the message says why."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """The sizes of a 3 x 3 convolution of stride 1; `top` and `left`: rows and columns of zeros before it."""

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    top: int
    left: int

    def tiles(self, tile: int) -> tuple[int, int, int]:
        """Return images, rows and columns of tiles of so many outputs in each direction."""
        return self.batch, ceil(self.out_height / tile), ceil(self.out_width / tile)


@dataclass(frozen=True, slots=True)
class Plan:
    """A way to compute a convolution: F(tile x tile, 3 x 3).

    A block of `block` tiles is multiplied by `columns` output channels at once. Sums of `rows` tiles by
    `vectors` registers of `lanes` channels stay in registers. `scheme` is who transforms the tiles.
    """

    tile: int
    scheme: Scheme
    block: int
    columns: int
    rows: int
    vectors: int
    lanes: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "scheme" and (type(value) is not int or value < 1):
                raise RecipeError(f"winograd.{field.name} is {value!r}; give a whole number of 1 or more")
        if self.tile not in TILES:
            raise RecipeError(f"winograd.tile is {self.tile}; give one of {TILES}")
        if self.scheme not in get_args(Scheme):
            raise RecipeError(f"winograd.scheme is {self.scheme!r}; give one of {get_args(Scheme)}")
        if self.lanes not in (4, 8, 16):
            raise RecipeError(f"winograd.lanes is {self.lanes}; give 4, 8 or 16")
        if self.block % self.rows:
            raise RecipeError(f"winograd.block {self.block} is not a multiple of rows {self.rows}")
        if self.columns % self.panel:
            raise RecipeError(f"winograd.columns {self.columns} is not a multiple of panels of {self.panel}")

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
        return FLOAT_BYTES * self.products * prod(convolution.tiles(self.tile)) * convolution.channels

    def trace(self) -> dict[str, Any]:
        """Return it as a candidate's trace: plain JSON."""
        return {WINOGRAD: asdict(self)}


def is_recipe(trace: Any) -> bool:
    """Tell whether a candidate's trace is a recipe of this room; TVM's own traces are lists."""
    return isinstance(trace, Mapping) and set(trace) == {WINOGRAD}


def parse(trace: Any) -> Plan:
    """Return the plan of a recipe. Raises RecipeError if this version of the program does not know it."""
    names = {field.name for field in fields(Plan)}
    if not is_recipe(trace) or not isinstance(trace[WINOGRAD], Mapping) or set(trace[WINOGRAD]) != names:
        raise RecipeError(f"{trace!r} is no recipe that this version knows; a plan has {sorted(names)}")
    return Plan(**trace[WINOGRAD])


def plans(convolution: Convolution, registers: Registers) -> list[Plan]:
    """Return ways to compute a convolution, each once: both tiles and schemes, several blocks and columns.

    Blocks and columns are as near to the wanted ones as full registers allow.
    """
    found = (
        _plan(convolution, registers, tile, scheme, block, panels)
        for tile, scheme, blocks, columns in _WAYS
        for block, panels in product(blocks, columns)
    )
    return [plan for plan in dict.fromkeys(found) if plan is not None]


def _plan(
    convolution: Convolution, registers: Registers, tile: int, scheme: Scheme, block: int, panels: int
) -> Plan | None:
    """Return the plan nearest to a block and to panels of columns; None if it needs too much work space."""
    tiles = prod(convolution.tiles(tile))
    width = registers.lanes * min(VECTORS, ceil(convolution.out_channels / registers.lanes))
    columns = width * min(panels, ceil(convolution.out_channels / width))
    vectors = width // registers.lanes
    found = [
        Plan(
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


def _worth(plan: Plan, tiles: int, registers: Registers) -> tuple[float, int]:
    """Return the share of a core's peak that a plan may reach; of equals, more sums save more loads."""
    computed = ceil(tiles / plan.block) * plan.block
    return round(registers.efficiency(plan.rows, plan.vectors) * tiles / computed, 3), plan.rows
