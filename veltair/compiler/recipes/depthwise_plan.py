"""How a depthwise convolution is cut into tiles and shares, and which plans are worth a try. Pure."""

from dataclasses import dataclass
from itertools import product
from math import ceil
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
from veltair.compiler.recipes.sum_shapes import LEAST_LANES, widest_lanes
from veltair.compiler.registers import Registers

# What runs innermost. "channels": pixels are read as they lie, and weights anew for each tile. "pixels": the
# weights of a register of channels stay in registers for all pixels of a share.
Order = Literal["channels", "pixels"]
# More places of a kernel are more instructions than are worth their cache.
MOST_PLACES = 49
ALL = 2**16
_PIXELS = (8, 4)
# Wanted lines of a share, and into how many groups channels are cut.
_SHARES = ((1, 1), (4, 1), (14, 4), (ALL, 16))


@dataclass(frozen=True, slots=True)
class DepthwisePlan:
    """A way to compute a depthwise convolution: no copy of the data, no sums in memory.

    A share computes `lines` lines of outputs for `channels` channels; a tile is `pixels` pixels of a line by
    a register of `lanes` channels. `order` is what runs innermost.
    """

    kind: ClassVar[str] = "depthwise"

    order: Order
    lines: int
    channels: int
    pixels: int
    lanes: int

    def __post_init__(self) -> None:
        check_counts(self, {"order": get_args(Order)})
        check_lanes(self)
        check_multiple(self, "channels", self.lanes, "lanes")
        check_sums(self, self.pixels)

    def check_fits(self, convolution: Convolution) -> None:
        """Raise RecipeError unless it computes a convolution."""
        if not convolution.is_depthwise or convolution.channels < self.lanes:
            raise RecipeError(f"depthwise: lanes of {self.lanes} do not compute {convolution}")
        check_within(self, "lines", 1, convolution.batch * convolution.out_height)
        check_within(self, "channels", self.lanes, convolution.channels)


def plans(convolution: Convolution, registers: Registers) -> list[DepthwisePlan]:
    """Return ways to compute a depthwise convolution, each once; none where channels fill no registers."""
    places = convolution.kernel[0] * convolution.kernel[1]
    if not convolution.is_depthwise or not convolution.fills(LEAST_LANES) or places > MOST_PLACES:
        return []
    lanes = widest_lanes(convolution.channels, registers)
    found = [
        _plan(convolution, order, lanes, pixels, *share)
        for order, pixels, share in product(get_args(Order), _PIXELS, _SHARES)
    ]
    return list(dict.fromkeys(found))


def _plan(
    convolution: Convolution, order: Order, lanes: int, pixels: int, lines: int, groups: int
) -> DepthwisePlan:
    vectors = convolution.channels // lanes
    all_lines = convolution.batch * convolution.out_height
    share = ceil(all_lines / ceil(all_lines / min(lines, all_lines)))
    length = convolution.out_width
    # Tiles of equal length, but for the last one of a line.
    even = ceil(length / ceil(length / min(pixels, length)))
    return DepthwisePlan(order, share, ceil(vectors / min(groups, vectors)) * lanes, even, lanes)
