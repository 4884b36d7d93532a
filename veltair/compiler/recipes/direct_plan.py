"""How a dense convolution is cut into tiles of sums, and which plans are worth a try. Pure."""

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
from veltair.compiler.recipes.sum_shapes import LEAST_LANES, sum_shapes
from veltair.compiler.registers import Registers

# "plain": each share reads the data as they lie. "copied": they are copied first, with their border of zeros,
# into rows that do not all meet in few sets of the L1.
Scheme = Literal["plain", "copied"]
ALL = 2**16  # pixels, or panels: all that there are
# Wanted pixels of a block and panels of columns, for the shapes of tiles that are tried.
_BLOCKS = ((28, ALL), (112, 2), (224, 1), (224, 4), (ALL, 1))
SHAPES = 2
# Of copies that a layer does not need, fewer are tried.
_COPIED_BLOCKS = ((112, 2), (ALL, 1))


@dataclass(frozen=True, slots=True)
class DirectPlan:
    """A way to compute a convolution as it is defined: a product of matrices for each place of the kernel.

    A share computes `block` tiles for `columns` output channels; a tile is `rows` pixels in a row of the
    output by `vectors` registers of `lanes` channels, whose sums stay in registers. `scheme` is what the
    shares read.
    """

    kind: ClassVar[str] = "direct"

    scheme: Scheme
    block: int
    columns: int
    rows: int
    vectors: int
    lanes: int

    def __post_init__(self) -> None:
        check_counts(self, {"scheme": get_args(Scheme)})
        check_lanes(self)
        check_multiple(self, "columns", self.panel, "panel")
        check_sums(self, self.rows * self.vectors)

    def check_fits(self, convolution: Convolution) -> None:
        """Raise RecipeError unless it computes a convolution."""
        if convolution.is_depthwise or convolution.out_channels % self.lanes:
            raise RecipeError(f"direct: lanes of {self.lanes} do not compute {convolution}")
        if self.scheme == "plain" and convolution.is_padded:
            raise RecipeError(f"direct.scheme is 'plain', but {convolution} has a border; give 'copied'")
        lines, pixels = lines_of(convolution, self.scheme)
        check_within(self, "block", 1, lines * ceil(pixels / min(self.rows, pixels)))
        check_within(self, "columns", self.panel, convolution.out_channels)

    @property
    def panel(self) -> int:
        """Output channels whose sums are in registers at once."""
        return self.vectors * self.lanes


def is_one_line(convolution: Convolution, scheme: Scheme) -> bool:
    """Tell whether the pixels that are read lie one after the other, whatever their line.

    So they do for a kernel of one pixel that reads each pixel of the data, or copies of those that it reads.
    """
    in_order = convolution.is_plain(1) and not convolution.is_padded
    return convolution.kernel == (1, 1) and (in_order or scheme == "copied")


def lines_of(convolution: Convolution, scheme: Scheme) -> tuple[int, int]:
    """Return lines of pixels, and pixels of each: all are one line where they lie one after the other."""
    lines, pixels = convolution.batch * convolution.out_height, convolution.out_width
    return (1, lines * pixels) if is_one_line(convolution, scheme) else (lines, pixels)


def plans(convolution: Convolution, registers: Registers) -> list[DirectPlan]:
    """Return ways to compute a convolution, each once: shapes of tiles, blocks and columns.

    There are none where its output channels fill no registers.
    """
    if convolution.is_depthwise or convolution.out_channels % LEAST_LANES:
        return []
    tried: list[tuple[Scheme, int, tuple[tuple[int, int], ...]]] = [("copied", SHAPES, _BLOCKS)]
    if not convolution.is_padded:
        tried = [("plain", SHAPES, _BLOCKS), ("copied", 1, _COPIED_BLOCKS)]
    found = [
        _plan(convolution, scheme, shape, wanted)
        for scheme, count, blocks in tried
        for shape, wanted in product(
            sum_shapes(lines_of(convolution, scheme)[1], convolution.out_channels, registers)[:count], blocks
        )
    ]
    return list(dict.fromkeys(found))


def _plan(
    convolution: Convolution, scheme: Scheme, shape: tuple[int, int, int], wanted: tuple[int, int]
) -> DirectPlan:
    rows, vectors, lanes = shape
    pixels, panels = wanted
    lines, length = lines_of(convolution, scheme)
    tiles = lines * ceil(length / rows)
    count = ceil(convolution.out_channels / (vectors * lanes))
    blocks = ceil(tiles / min(tiles, max(1, round(pixels / rows))))
    # Shares of equal size, but for the last one.
    columns = ceil(count / ceil(count / min(panels, count))) * vectors * lanes
    return DirectPlan(scheme, ceil(tiles / blocks), columns, rows, vectors, lanes)
