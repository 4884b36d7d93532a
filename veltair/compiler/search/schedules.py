"""Schedules of our own for layers with one reduction or none: the first candidates of every search.

A convolution, matrix product or pooling is computed in tiles whose sums stay in vector registers over the
whole reduction, as hand-written GEMM kernels do. Which tiles fit is arithmetic (`register_tiles.py`), so that
a few dozen such schedules hold better candidates than as many random ones. Their tile sizes are sampling
instructions, so the evolutionary search changes them like those of any other candidate.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from math import prod
from typing import Any

from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir.meta_schedule.postproc import RewriteLayout
from tvm.target.codegen import target_has_features

from veltair.compiler.registers import AVX2, AVX512
from veltair.compiler.search.evolution import REFUSED, module_of
from veltair.compiler.search.register_tiles import PARALLEL_GOALS, Plan, divisors, plans

UNROLLED_STEPS = 25  # a depthwise 5 x 5: inputs stay in registers from step to step
COPY_WIDTHS = (64, 32, 16, 8)  # lanes that a layer without a reduction handles at once
MOST_SCHEDULES = 48


@dataclass(frozen=True, slots=True)
class Nest:
    """The loops of a tiled sum, from the outside in; `blocks` is the one over blocks of the reduction."""

    shared: list[Any]
    serial: list[Any]
    blocks: Any
    reductions: list[Any]
    registers: list[Any]


def own_schedules(function: Any, target: Any, count: int = MOST_SCHEDULES) -> list[Any]:
    """Return at most `count` schedules of a layer, complete and in no need of another step.

    Returns none if the layer has more than one reduction, or one that is neither a sum nor a maximum.
    """
    found = []
    for apply in islice(_ways(function, target), count):
        try:
            found.append(_packed(apply(_fresh(function))))
        except REFUSED:
            continue  # a schedule that does not apply is no candidate
    return found


def count_schedules(function: Any, target: Any) -> tuple[int, bool]:
    """Return about how many schedules `own_schedules` makes of a layer, and whether it has a reduction.

    None is made, so that this takes no time; of those counted a few may not apply.
    """
    schedule = _fresh(function)
    blocks = _blocks(schedule)
    if any(_has_reduction(schedule, block) for block in blocks):
        return sum(1 for _ in islice(_ways(function, target), MOST_SCHEDULES)), True
    loops = schedule.get_loops(blocks[-1])
    inner = int(schedule.get(loops[-1]).extent) if loops else 1
    return len(PARALLEL_GOALS) * sum(inner % width == 0 for width in COPY_WIDTHS), False


def _ways(function: Any, target: Any) -> Iterator[Callable[[Any], Any]]:
    """Yield what turns a fresh schedule of a layer into one of ours."""
    schedule = _fresh(function)
    if not any(_has_reduction(schedule, block) for block in _blocks(schedule)):
        for goal, width in product(PARALLEL_GOALS, COPY_WIDTHS):
            yield partial(_apply_to_copy, width=width, goal=goal)
    elif (main := _main_block(schedule)) is not None:
        spatial, reduction = _extents(schedule, main)
        registers = AVX512 if target_has_features("avx512f", target) else AVX2
        padded, dense = bool(_materialised(schedule, main)), _is_dense(schedule, main)
        every = plans(spatial[:-1], spatial[-1], reduction[-1], registers, padded=padded, dense=dense)
        for plan in dict.fromkeys(every):
            yield partial(_apply, plan=plan)


def _apply_to_copy(schedule: Any, width: int, goal: int) -> Any:
    """Schedule a layer without a reduction: one loop over runs of `width` elements, in parallel shares.

    Where parts of an output come from several inputs, runs that end where a part ends are copied whole.
    """
    *before, last = _blocks(schedule)
    for block in before:
        schedule.compute_inline(block)
    *outer, inner = schedule.get_loops(last)
    if int(schedule.get(inner).extent) % width:
        raise ValueError(f"{schedule.get(inner).extent} elements are no runs of {width}")
    runs, run = schedule.split(inner, [None, width])
    fused = schedule.fuse(*outer, runs)
    shares = max(factor for factor in divisors(int(schedule.get(fused).extent)) if factor <= goal)
    parallel, _ = schedule.split(fused, [shares, None])
    schedule.parallel(parallel)
    schedule.vectorize(run)
    return schedule


def _packed(schedule: Any) -> Any:
    """Add the layout of the weights that fits the schedule, as the search's own last step does."""
    schedule.enter_postproc()
    if not RewriteLayout().apply(schedule):
        raise ValueError("the weights' layout does not follow the schedule")
    return schedule


def _fresh(function: Any) -> Any:
    return s_tir.Schedule(module_of(function), debug_mask="none", seed=1)


def _main_block(schedule: Any) -> Any:
    """Return the block of the one sum or maximum; None if there is none or more than one."""
    blocks = [block for block in _blocks(schedule) if _has_reduction(schedule, block)]
    if len(blocks) != 1:
        return None
    kinds = [int(loop.iter_type) for loop in schedule.get(blocks[0]).iter_vars]
    value = schedule.get(blocks[0]).body.value
    fits = kinds == sorted(kinds) and kinds.count(0) >= 2 and isinstance(value, tirx.Add | tirx.Max)
    return blocks[0] if fits else None


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


def _is_dense(schedule: Any, main: Any) -> bool:
    """Tell whether the last index of the first input is the last reduction loop itself: a channel."""
    block = schedule.get(main)
    return bool(block.reads[0].region[-1].min.same_as(block.iter_vars[-1].var))


def _apply(schedule: Any, plan: Plan) -> Any:
    main = _main_block(schedule)
    producers = _materialised(schedule, main)
    if plan.packed:
        producers = _pack_input(schedule, main, producers, plan)
    last, larger = _ending(schedule, main)
    nest = _nest(schedule, main, plan)
    if last is not None and not plan.blocked:
        schedule.reverse_compute_at(last, nest.serial[-1], preserve_unit_loops=True)
        _in_registers(schedule, schedule.get_loops(last)[-len(nest.registers) :])
    parallel = schedule.fuse(*nest.shared)
    schedule.parallel(parallel)
    if last is not None and plan.blocked:
        schedule.reverse_compute_at(last, parallel, preserve_unit_loops=True)
        _vectorise(schedule, schedule.get_loops(last)[-1])
    for block in producers:
        _prepare(schedule, block, parallel if plan.pad_inside else None)
    for block in larger:
        _prepare(schedule, block, None)
    short = prod(_extents(schedule, main)[1]) <= UNROLLED_STEPS
    for loop in nest.reductions if short else nest.reductions[-1:]:
        schedule.unroll(loop)
    _in_registers(schedule, nest.registers)
    init = schedule.decompose_reduction(main, nest.blocks)
    _in_registers(schedule, schedule.get_loops(init)[-len(nest.registers) :])
    return schedule


def _pack_input(schedule: Any, main: Any, producers: list[Any], plan: Plan) -> list[Any]:
    """Lay the input out in blocks of channels: rows of many channels would meet in few sets of the L1."""
    if not producers:
        producers = [schedule.cache_read(main, 0, "global")]
    source = schedule.get(main).reads[0].source
    (packed,) = (one for one in producers if schedule.get(one).writes[0].source.same_as(source))
    size = plan.reduction[1] * plan.reduction[2]
    outer = 1 if len(source.shape) > 2 else 0  # a batch stays outside

    def blocks(*index: Any) -> tuple[Any, ...]:
        *rows, channel = index
        return (*rows[:outer], channel // size, *rows[outer:], channel % size)

    schedule.transform_layout(packed, ("write", 0), blocks)
    return producers


def _nest(schedule: Any, main: Any, plan: Plan) -> Nest:
    """Tile and order the loops of the sum."""
    loops = schedule.get_loops(main)
    count = len(plan.rows)
    rows = [_tile(schedule, loop, factors) for loop, factors in zip(loops[:count], plan.rows, strict=True)]
    column = _tile(schedule, loops[count], plan.columns)
    blocks, *steps = _tile(schedule, loops[-1], plan.reduction)
    reductions = [*loops[count + 1 : -1], *steps]
    order = [column, *rows] if plan.weights_stay else [*rows, column]
    shared, serial = [loop[0] for loop in order], [loop[1] for loop in order]
    registers = [loop[2] for loop in [*rows, column]]
    middle = [blocks, *serial] if plan.blocked else [*serial, blocks]
    schedule.reorder(*shared, *middle, *reductions, *registers)
    return Nest(shared, serial, blocks, reductions, registers)


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
    _vectorise(schedule, inner)


def _vectorise(schedule: Any, loop: Any) -> None:
    extent = int(schedule.get(loop).extent)
    width = max(factor for factor in divisors(extent) if factor <= 64)
    schedule.vectorize(schedule.split(loop, [None, width])[1])
