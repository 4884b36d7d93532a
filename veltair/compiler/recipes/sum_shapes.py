"""Which tiles of sums keep a core busiest, for a product of rows by columns. Pure."""

from math import ceil

from veltair.compiler.registers import Registers

LEAST_LANES = 4
MOST_VECTORS = 4


def widest_lanes(columns: int, registers: Registers) -> int:
    """Return the widest register, or part of one, that columns fill; they are a multiple of `LEAST_LANES`."""
    widths = (registers.lanes, registers.lanes // 2, registers.lanes // 4)
    return max(width for width in widths if columns % width == 0)


def sum_shapes(rows: int, columns: int, registers: Registers) -> list[tuple[int, int, int]]:
    """Return (rows, vectors, lanes) of tiles of sums, the busiest first: one for each count of vectors."""
    lanes = widest_lanes(columns, registers)
    count = columns // lanes
    found = []
    for vectors in range(1, min(MOST_VECTORS, count) + 1):
        shapes = [
            (_worth(registers, (rows, count), (tile, vectors)), tile * vectors, (tile, vectors, lanes))
            for tile in range(1, min(registers.count, rows) + 1)
            if registers.efficiency(tile, vectors) > 0
        ]
        found.append(max(shapes))
    return [shape for *_, shape in sorted(found, reverse=True)]


def _worth(registers: Registers, counts: tuple[int, int], tile: tuple[int, int]) -> float:
    """Return the share of a core's peak that a tile may reach, rounded, for nothing is that exact."""
    (rows, vectors), (tile_rows, tile_vectors) = counts, tile
    of_rows = rows / (ceil(rows / tile_rows) * tile_rows)
    used = of_rows * vectors / (ceil(vectors / tile_vectors) * tile_vectors)
    return round(registers.efficiency(tile_rows, tile_vectors) * used, 2)
