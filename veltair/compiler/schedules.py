"""Schedules of our own for layers that are one sum of products: the first candidates of every search.

A convolution or matrix product is computed in tiles whose sums stay in vector registers over the whole
reduction, as hand-written GEMM kernels do: Goto and van de Geijn, ACM TOMS 34(3), 2008. Which tiles fit is
arithmetic, so that a few dozen such schedules hold better candidates than as many random ones. Their tile
sizes are sampling instructions, so the evolutionary search changes them like those of any other candidate.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from typing import Any

from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir.meta_schedule.postproc import RewriteLayout
from tvm.target.codegen import target_has_features

from veltair.compiler.evolution import REFUSED, module_of

# Accumulators of 1024 bytes and more are put on the heap by TVM's lowering, out of the registers' reach.
ACCUMULATOR_BYTES = 1023
FLOAT_BYTES = 4
FMA_LATENCY_CYCLES = 4
FMAS_PER_CYCLE = 2  # and as many loads: x86 cores since Haswell and Zen 2
PARALLEL_GOALS = (64, 16, 256, 1024)
UNROLLED_STEPS = 25  # a depthwise 5 x 5: inputs stay in registers from step to step


@dataclass(frozen=True, slots=True)
class Registers:
    """The vector registers of a CPU: float32 lanes of each, and how many there are."""

    lanes: int
    count: int


@dataclass(frozen=True, slots=True)
class RegisterTile:
    """Sums kept in registers: `rows` of each row loop (outermost first) by `columns` of the vector loop."""

    rows: tuple[int, ...]
    columns: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a layer is tiled: each row loop and the vector loop into (parallel, serial, register) factors.

    `weights_stay`: the serial loop over columns is outside those over rows. `unroll`: how many steps of the
    innermost reduction loop are unrolled. `pad_inside`: an input that must be computed first (padding) is
    computed by each parallel share for itself, not by all before.
    """

    rows: tuple[tuple[int, int, int], ...]
    columns: tuple[int, int, int]
    weights_stay: bool
    unroll: int
    pad_inside: bool


AVX2 = Registers(lanes=8, count=16)
AVX512 = Registers(lanes=16, count=32)


def efficiency(tile: RegisterTile, registers: Registers) -> float:
    """Return the share of a core's peak that a register tile allows, 0 if it does not fit the registers.

    Counted for one step of the reduction: its multiply-adds against its loads (a vector of each column group,
    a broadcast of each row) and against the latency of a multiply-add, which each sum waits for.
    """
    rows, groups = prod(tile.rows), tile.columns // registers.lanes
    sums = rows * groups
    if sums + min(groups, rows) + 1 > registers.count:
        return 0.0
    if rows * tile.columns * FLOAT_BYTES > ACCUMULATOR_BYTES:
        return 0.0
    cycles = max(sums, groups + rows, FMA_LATENCY_CYCLES * FMAS_PER_CYCLE) / FMAS_PER_CYCLE
    return sums / FMAS_PER_CYCLE / cycles


def register_tiles(rows: tuple[int, ...], columns: int, registers: Registers) -> list[RegisterTile]:
    """Return the tiles that divide the loops and fit the registers, the most efficient first."""
    # LLVM splits vectors of other widths into single lanes.
    widths = [width for power in range(4) if columns % (width := registers.lanes << power) == 0]
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
    rows: tuple[int, ...], columns: int, reduction: int, registers: Registers, *, padded: bool
) -> Iterator[Plan]:
    """Yield ways to tile a layer, the most promising first."""
    tiles = register_tiles(rows, columns, registers)[:4]
    unrolls = [factor for factor in (4, 2, 3, 1) if reduction % factor == 0][:2]
    for goal, (place, tile), weights_stay in product(PARALLEL_GOALS, enumerate(tiles), (True, False)):
        counts = tuple(extent // size for extent, size in zip(rows, tile.rows, strict=True))
        row_shares, column_share = split_parallel(counts, columns // tile.columns, goal)
        # Alternate what matters less, so that each choice meets each tile.
        step = place + PARALLEL_GOALS.index(goal)
        yield Plan(
            tuple(
                (share, count // share, size)
                for share, count, size in zip(row_shares, counts, tile.rows, strict=True)
            ),
            (column_share, columns // tile.columns // column_share, tile.columns),
            weights_stay,
            unrolls[step % 3 == 2 and len(unrolls) > 1],
            pad_inside=padded and step % 2 == 1,
        )


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


def own_schedules(function: Any, target: Any, count: int = 32) -> list[Any]:
    """Return at most `count` schedules of a layer, complete and in no need of another step.

    Returns none if the layer is not one sum of products, followed by elementwise work at most.
    """
    schedule = _fresh(function)
    main = _main_block(schedule)
    if main is None:
        return []
    spatial, reduction = _extents(schedule, main)
    registers = AVX512 if target_has_features("avx512f", target) else AVX2
    padded = bool(_materialised(schedule, main))
    found = []
    every = dict.fromkeys(plans(spatial[:-1], spatial[-1], reduction[-1], registers, padded=padded))
    for plan in islice(every, count):
        try:
            found.append(_packed(_apply(_fresh(function), plan)))
        except REFUSED:
            continue  # a schedule that does not apply is no candidate
    return found


def _packed(schedule: Any) -> Any:
    """Add the layout of the weights that fits the schedule, as the search's own last step does."""
    schedule.enter_postproc()
    if not RewriteLayout().apply(schedule):
        raise ValueError("the weights' layout does not follow the schedule")
    return schedule


def _fresh(function: Any) -> Any:
    return s_tir.Schedule(module_of(function), debug_mask="none", seed=1)


def _main_block(schedule: Any) -> Any:
    """Return the block of the one sum of products; None if there is none or more than one."""
    blocks = [block for block in _blocks(schedule) if _has_reduction(schedule, block)]
    if len(blocks) != 1:
        return None
    kinds = [int(loop.iter_type) for loop in schedule.get(blocks[0]).iter_vars]
    order = sorted(kinds)
    return blocks[0] if kinds == order and kinds.count(0) >= 2 and _is_mac(schedule.get(blocks[0])) else None


def _is_mac(block: Any) -> bool:
    value = block.body.value
    return isinstance(value, tirx.Add) and isinstance(value.b, tirx.Mul)


def _blocks(schedule: Any) -> list[Any]:
    root = schedule.get_sblock("root")
    return list(schedule.get_child_blocks(root))


def _has_reduction(schedule: Any, block: Any) -> bool:
    return any(int(loop.iter_type) == 2 for loop in schedule.get(block).iter_vars)


def _extents(schedule: Any, block: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    loops = schedule.get(block).iter_vars
    return (
        tuple(int(loop.dom.extent) for loop in loops if int(loop.iter_type) == 0),
        tuple(int(loop.dom.extent) for loop in loops if int(loop.iter_type) == 2),
    )


def _materialised(schedule: Any, main: Any) -> list[Any]:
    """Inline the inputs that are only copies; return those that compute (padding, scaling)."""
    kept = []
    for producer in schedule.get_producers(main):
        if isinstance(schedule.get(producer).body.value, TensorLoad):
            schedule.compute_inline(producer)
        else:
            for before in schedule.get_producers(producer):
                schedule.compute_inline(before)
            kept.append(producer)
    return kept


def _ending(schedule: Any, main: Any) -> tuple[Any, list[Any]]:
    """Inline what follows the sum, element by element, into one block; return it, or None if none follows.

    The second result are the blocks after it that are larger than the sum, for they repeat its elements.
    """
    size = _size(schedule, main)
    larger = []
    while consumers := schedule.get_consumers(main):
        if any(_size(schedule, block) != size for block in consumers):
            raise ValueError("a sum that is repeated as it is has no schedule of ours")
        following = {block: schedule.get_consumers(block) for block in consumers}
        larger = [one for blocks in following.values() for one in blocks if _size(schedule, one) != size]
        between = [block for block, blocks in following.items() if blocks and not larger]
        if between:
            schedule.compute_inline(between[0])
        elif len(consumers) == 1:
            return consumers[0], larger
        else:
            raise ValueError("a sum that several outputs read has no schedule of ours")
    return None, larger


def _size(schedule: Any, block: Any) -> int:
    """Return how many elements a block computes."""
    return prod(_extents(schedule, block)[0])


def _apply(schedule: Any, plan: Plan) -> Any:
    main = _main_block(schedule)
    producers = _materialised(schedule, main)
    last, larger = _ending(schedule, main)
    shared, serial, registers, reductions = _nest(schedule, main, plan)
    if last is not None:
        schedule.reverse_compute_at(last, serial[-1], preserve_unit_loops=True)
        _in_registers(schedule, schedule.get_loops(last)[-len(registers) :])
    parallel = schedule.fuse(*shared)
    schedule.parallel(parallel)
    for block in producers:
        _prepare(schedule, block, parallel if plan.pad_inside else None)
    for block in larger:
        _prepare(schedule, block, None)
    short = prod(_extents(schedule, main)[1]) <= UNROLLED_STEPS
    for loop in reductions if short else reductions[-1:]:
        schedule.unroll(loop)
    _in_registers(schedule, registers)
    init = schedule.decompose_reduction(main, reductions[0])
    _in_registers(schedule, schedule.get_loops(init)[-len(registers) :])
    return schedule


def _nest(schedule: Any, main: Any, plan: Plan) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Tile and order the loops of the sum; return the parallel, serial, register and reduction loops."""
    loops = schedule.get_loops(main)
    count = len(plan.rows)
    rows = [_tile(schedule, loop, factors) for loop, factors in zip(loops[:count], plan.rows, strict=True)]
    column = _tile(schedule, loops[count], plan.columns)
    extent = int(schedule.get(loops[-1]).extent)
    reductions = [
        *loops[count + 1 : -1],
        *_tile(schedule, loops[-1], (extent // plan.unroll, plan.unroll)),
    ]
    order = [column, *rows] if plan.weights_stay else [*rows, column]
    shared, serial = [loop[0] for loop in order], [loop[1] for loop in order]
    registers = [loop[2] for loop in [*rows, column]]
    schedule.reorder(*shared, *serial, *reductions, *registers)
    return shared, serial, registers, reductions


def _tile(schedule: Any, loop: Any, factors: Iterable[int]) -> list[Any]:
    factors = [int(factor) for factor in factors]
    sampled = schedule.sample_perfect_tile(loop, len(factors), max_innermost_factor=64, decision=factors)
    return list(schedule.split(loop, sampled, preserve_unit_iters=True))


def _in_registers(schedule: Any, loops: list[Any]) -> None:
    for loop in loops[:-1]:
        schedule.unroll(loop)
    schedule.vectorize(loops[-1])


def _prepare(schedule: Any, producer: Any, parallel: Any) -> None:
    """Compute an input of the sum: inside each parallel share, or before all of them, in parallel too."""
    if parallel is not None:
        schedule.compute_at(producer, parallel, preserve_unit_loops=True)
        inner = schedule.get_loops(producer)[-1]
    else:
        loops = schedule.get_loops(producer)
        schedule.parallel(schedule.fuse(*loops[:-1]))
        inner = loops[-1]
    extent = int(schedule.get(inner).extent)
    width = max(factor for factor in divisors(extent) if factor <= 64)
    schedule.vectorize(schedule.split(inner, [None, width])[1])
