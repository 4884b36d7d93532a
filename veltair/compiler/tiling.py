"""Scheduled TIR -> parallelism, blocking bytes, compulsory bytes; and traffic at a cache size.

Pure: functions of a loop nest and of numbers. The loop nest is read with TVM's own bound analysis.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import tvm
from tvm import s_tir, sym, tirx


@dataclass(frozen=True, slots=True)
class Tiling:
    """What a loop nest does to caches and cores.

    `parallelism` is the extent of its fused parallel loop (1: none), `blocking_bytes` what one parallel
    iteration touches of inputs, weights and outputs, `compulsory_bytes` what all of them touch together. Of
    several parallel nests in a layer, the one with most iterations counts.
    """

    parallelism: int
    blocking_bytes: int
    compulsory_bytes: int

    def __post_init__(self) -> None:
        if self.parallelism < 1 or self.blocking_bytes < 0 or self.compulsory_bytes < 0:
            raise ValueError(f"{self}: parallelism is at least 1 and bytes are not negative")


def traffic_bytes(tiling: Tiling, cores: int, cache_bytes: float) -> float:
    """Return the DRAM bytes of a layer whose cores share a cache of `cache_bytes`.

    All data fits: each byte comes once. Else each parallel iteration fetches its own block; and where the
    blocks of the iterations at work do not fit either, they re-fetch with the square root of what is missing,
    as blocked matrix products do (Hong and Kung, STOC 1981).
    """
    if tiling.compulsory_bytes <= cache_bytes:
        return float(tiling.compulsory_bytes)
    at_work = tiling.blocking_bytes * min(cores, tiling.parallelism)
    refetch = max(1.0, sqrt(at_work / cache_bytes)) if cache_bytes > 0 else float(at_work)
    return max(float(tiling.compulsory_bytes), tiling.parallelism * tiling.blocking_bytes * refetch)


def count_macs(function: Any) -> int:
    """Return the multiply-accumulates of an unscheduled function: iterations of blocks that sum products."""
    return sum(
        prod(int(axis.dom.extent) for axis in leaf.block.iter_vars)
        for leaf in _leaves(function.body, ())
        if leaf.block.init is not None and _has_product(leaf.block.body)
    )


def read_tiling(function: Any) -> Tiling:
    """Return the tiling of a scheduled function."""
    nests: dict[int, list[_Leaf]] = {}
    for leaf in _leaves(function.body, ()):
        place = leaf.parallel_place
        key = -1 if place is None else hash(leaf.loops[place].loop_var)
        nests.setdefault(key, []).append(leaf)
    nest = max(nests.values(), key=lambda leaves: sum(leaf.iterations for leaf in leaves))
    place = nest[0].parallel_place
    # What only this nest touches and is no argument is a temporary of one iteration.
    others = (leaf for leaves in nests.values() if leaves is not nest for leaf in leaves)
    lasting = set(function.params).union(region.source for leaf in others for region in leaf.regions)
    return Tiling(
        parallelism=1 if place is None else int(nest[0].loops[place].extent),
        blocking_bytes=_touched_bytes(nest, lasting, one_iteration=True),
        compulsory_bytes=_touched_bytes(nest, lasting, one_iteration=False),
    )


def count_outputs(function: Any) -> int:
    """Return how many of a function's arguments it writes; they are its last ones."""
    written = {region.source for leaf in _leaves(function.body, ()) for region in leaf.block.writes}
    return sum(parameter in written for parameter in function.params)


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A block without blocks inside, its realisation and the loops around it, outermost first."""

    block: Any
    iter_values: tuple[Any, ...]
    loops: tuple[Any, ...]

    @property
    def parallel_place(self) -> int | None:
        """Which of the loops is parallel."""
        kinds = (place for place, loop in enumerate(self.loops) if loop.kind == tirx.ForKind.PARALLEL)
        return next(kinds, None)

    @property
    def regions(self) -> tuple[Any, ...]:
        """What the block reads and writes."""
        return (*self.block.reads, *self.block.writes)

    @property
    def iterations(self) -> int:
        """How often the block runs."""
        return prod(int(loop.extent) for loop in self.loops)


def _leaves(node: Any, loops: tuple[Any, ...]) -> Iterator[_Leaf]:
    if isinstance(node, tirx.For):
        yield from _leaves(node.body, (*loops, node))
    elif isinstance(node, tirx.SeqStmt):
        for child in node:
            yield from _leaves(child, loops)
    elif isinstance(node, tirx.IfThenElse):
        yield from _leaves(node.then_case, loops)
        if node.else_case is not None:
            yield from _leaves(node.else_case, loops)
    elif isinstance(node, s_tir.SBlockRealize):
        inner = list(_leaves(node.block.body, loops))
        yield from inner or [_Leaf(node.block, tuple(node.iter_values), loops)]


def _touched_bytes(nest: list[_Leaf], lasting: set[Any], one_iteration: bool) -> int:
    """Return the bytes of the lasting buffers, by the box that the nest touches of each.

    One iteration is the middle one: those at the border read less because of padding.
    """
    boxes: dict[Any, list[tuple[int, int]]] = {}
    for leaf in nest:
        analyzer = _bind(leaf, one_iteration)
        for region in leaf.regions:
            if region.source in lasting:
                box = _box(analyzer, region)
                known = boxes.get(region.source, box)
                boxes[region.source] = [
                    (min(a, c), max(b, d)) for (a, b), (c, d) in zip(known, box, strict=True)
                ]
    return sum(_bytes(buffer, box) for buffer, box in boxes.items())


def _bind(leaf: _Leaf, one_iteration: bool) -> Any:
    analyzer = sym.Analyzer()
    parallel = leaf.parallel_place
    for place, loop in enumerate(leaf.loops):
        extent = int(loop.extent)
        first = 0
        if one_iteration and parallel is not None and place <= parallel:
            first, extent = extent // 2, 1
        analyzer.bind(loop.loop_var, _range(loop.loop_var, first, extent))
    for axis, value in zip(leaf.block.iter_vars, leaf.iter_values, strict=True):
        bound = analyzer.const_int_bound(value)
        analyzer.bind(axis.var, _range(axis.var, bound.min_value, bound.max_value - bound.min_value + 1))
    return analyzer


def _range(variable: Any, first: int, extent: int) -> Any:
    kind = str(variable.ty.dtype)
    return tvm.ir.Range.from_min_extent(tirx.const(first, kind), tirx.const(extent, kind))


def _box(analyzer: Any, region: Any) -> list[tuple[int, int]]:
    """Return the first and last index touched in each dimension, within the buffer."""
    box = []
    for interval, size in zip(region.region, region.source.ty.shape, strict=True):
        low = analyzer.const_int_bound(interval.min).min_value
        high = analyzer.const_int_bound(interval.min + interval.extent - 1).max_value
        box.append((max(0, low), min(int(size) - 1, high)))
    return box


def _bytes(buffer: Any, box: list[tuple[int, int]]) -> int:
    bits = int(tvm.DataType(str(buffer.ty.dtype)).bits)
    return prod(max(0, high - low + 1) for low, high in box) * bits // 8


def _has_product(node: Any) -> bool:
    if isinstance(node, tirx.Mul):
        return True
    children = [getattr(node, name, None) for name in ("value", "a", "b", "true_value", "false_value")]
    children.extend(getattr(node, "args", ()))
    return any(_has_product(child) for child in children if isinstance(child, tvm.ir.Expr))
