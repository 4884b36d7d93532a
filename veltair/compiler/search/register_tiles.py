"""Which tiles of a sum of products fit the registers, and how a layer's loops are cut into them; arithmetic.

Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

from veltair.compiler.registers import Registers

# Accumulators of 1024 bytes and more are put on the heap by TVM's lowering, out of the registers' reach.
ACCUMULATOR_BYTES = 1023
FLOAT_BYTES = 4
PARALLEL_GOALS = (64, 16, 256, 1024)
UNROLLS = (4, 2)
# An L1 cache has 64 sets of lines: rows of 1024 channels all meet in one. Blocks of these lie side by side.
PACKED_CHANNELS = (64, 32)
PACKED_WAYS = ((True, False), (True, True))


@dataclass(frozen=True, slots=True)
class RegisterTile:
    """Sums kept in registers: `rows` of each row loop (outermost first) by `columns` of the vector loop."""

    rows: tuple[int, ...]
    columns: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a layer is tiled: each row loop and the vector loop into (parallel, serial, register) factors.

    `weights_stay`: the serial loop over columns is outside those over rows. `reduction`: the innermost
    reduction loop as (blocks, steps, unrolled steps). `packed`: the input is copied first into blocks of as
    many channels as a block of the reduction has. `blocked`: the loop over these blocks is outside the serial
    ones, and sums wait in memory between them. `pad_inside`: an input that must be computed first (padding)
    is computed by each parallel share for itself, not by all before.
    """

    rows: tuple[tuple[int, int, int], ...]
    columns: tuple[int, int, int]
    weights_stay: bool
    reduction: tuple[int, int, int]
    packed: bool
    blocked: bool
    pad_inside: bool


def efficiency(tile: RegisterTile, registers: Registers) -> float:
    """Return the share of a core's peak that a register tile allows, 0 if it does not fit the registers.

    Counted for one step of the reduction: its multiply-adds against its loads (a vector of each column group,
    a broadcast of each row) and against the latency of a multiply-add, which each sum waits for.
    """
    rows, groups = prod(tile.rows), -(-tile.columns // registers.lanes)
    if rows * tile.columns * FLOAT_BYTES > ACCUMULATOR_BYTES:
        return 0.0
    filled = tile.columns / (groups * registers.lanes)
    return filled * registers.efficiency(rows, groups)


def register_tiles(rows: tuple[int, ...], columns: int, registers: Registers) -> list[RegisterTile]:
    """Return the tiles that divide the loops and fit the registers, the most efficient first."""
    # LLVM splits vectors of other widths into single lanes.
    widths = [width for power in range(4) if columns % (width := registers.lanes << power) == 0]
    if not widths:  # parts of a register: 324 channels are no whole vectors of 8
        widths = [width for width in (registers.lanes // 2, registers.lanes // 4) if columns % width == 0]
    tiles = [
        RegisterTile(sizes, width)
        for sizes in product(*(divisors(extent) for extent in rows))
        for width in widths
    ]
    fitting = [tile for tile in tiles if efficiency(tile, registers) > 0]
    # Of equal tiles: more columns read longer runs of memory, fewer outer rows fewer rows of the input.
    return sorted(fitting, key=lambda tile: (-efficiency(tile, registers), -tile.columns, tile.rows))


def divisors(extent: int) -> list[int]:
    """Return the divisors of a number in ascending order."""
    return [factor for factor in range(1, extent + 1) if extent % factor == 0]


def plans(
    rows: tuple[int, ...], columns: int, reduction: int, registers: Registers, *, padded: bool, dense: bool
) -> Iterator[Plan]:
    """Yield ways to tile a layer, the most promising first.

    `dense`: every column reads the same input, so that packing it pays.
    """
    tiles = register_tiles(rows, columns, registers)[:4]
    for goal, (index, tile) in product(PARALLEL_GOALS, enumerate(tiles)):
        counts = tuple(extent // size for extent, size in zip(rows, tile.rows, strict=True))
        row_shares, column_share = split_parallel(counts, columns // tile.columns, goal)
        shares = tuple(
            (share, count // share, size)
            for share, count, size in zip(row_shares, counts, tile.rows, strict=True)
        )
        column_shares = (column_share, columns // tile.columns // column_share, tile.columns)
        # Alternate what matters less, so that each choice meets each tile.
        step = index + PARALLEL_GOALS.index(goal)
        for packed, blocked in PACKED_WAYS if dense else ():
            size = PACKED_CHANNELS[step % len(PACKED_CHANNELS)]
            steps = split_reduction(reduction, size, UNROLLS[0])
            yield Plan(shares, column_shares, step % 3 < 2, steps, packed, blocked, pad_inside=False)
        is_odd = step % 2 == 1
        steps = split_reduction(reduction, reduction, UNROLLS[step % 3 == 2])
        for stay in (not is_odd,) if dense else (True, False):
            inside = padded and is_odd
            yield Plan(shares, column_shares, stay, steps, packed=False, blocked=False, pad_inside=inside)


def split_reduction(extent: int, block: int, unroll: int) -> tuple[int, int, int]:
    """Return (blocks, steps, unrolled steps) of a reduction: the largest blocks of at most `block`."""
    size = max(factor for factor in divisors(extent) if factor <= block)
    unrolled = max(factor for factor in divisors(size) if factor <= unroll)
    return extent // size, size // unrolled, unrolled


def split_parallel(counts: tuple[int, ...], groups: int, goal: int) -> tuple[tuple[int, ...], int]:
    """Return into how many parallel shares each row loop and the columns are cut, `goal` or fewer in all.

    `counts` and `groups` are the loops' extents in register tiles. Of equal products the one is taken that
    cuts rows and columns alike: it keeps what one share reads small.
    """
    cuts = [(_share_rows(counts, goal // share), share) for share in divisors(groups) if share <= goal]
    return min(cuts, key=lambda cut: (abs(prod(cut[0]) * cut[1] - goal), abs(prod(cut[0]) - cut[1])))


def _share_rows(counts: tuple[int, ...], goal: int) -> tuple[int, ...]:
    """Cut the outer loops first, for their shares lie apart in memory."""
    shares = []
    for count in counts:
        shares.append(max(factor for factor in divisors(count) if factor <= goal))
        goal //= shares[-1]
    return tuple(shares)
