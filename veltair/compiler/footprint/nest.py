"""A scheduled function as a tree of loops, and which part of each buffer a part of the tree touches. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import prod
from typing import Any

import tvm
from tvm import s_tir, tirx

from veltair.compiler.footprint.bounds import Bounder, Bounds, compile_bounds
from veltair.compiler.footprint.work import allocations, count_operations

# The first and last index in each dimension of a buffer.
Box = list[tuple[int, int]]
PREPACKED = "meta_schedule.layout_rewrite_preproc"


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A block without blocks inside; there may be loops.

    `path` are the numbers of the loops around it, outermost first. `boxes[depth]` is what it touches of each
    buffer while the `depth` outermost of them stand in their middle and the others run: as it says itself
    that it reads and writes, and what it allocates. `work` counts the scalar operations of all its
    iterations, at least one each.
    """

    path: tuple[int, ...]
    boxes: tuple[dict[int, Box], ...]
    work: int
    prepacked: bool


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """A loop: its number, how often its body runs, and what is in it, in order.

    One into which several axes were fused is as many loops, one in the other: each but the outermost has a
    number of its own, and none is marked as parallel. `parts` counts them at the outermost, `iterations` are
    those of all together; both are 1 and the extent of any other loop.
    """

    number: int
    extent: int
    parallel: bool
    body: tuple["Loop | Leaf", ...]
    parts: int = 1
    iterations: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Nest:
    """The loops of a function. Buffers and loops go by number; `arguments` are the buffers given to it."""

    body: tuple[Loop | Leaf, ...]
    loops: dict[int, Loop]
    leaves: tuple[Leaf, ...]
    arguments: frozenset[int]
    element_bytes: tuple[float, ...]

    def bytes_of(self, boxes: dict[int, Box]) -> int:
        """Return how many bytes some boxes hold together."""
        total = 0.0
        for buffer, box in boxes.items():
            count = 1
            for low, high in box:
                count *= max(0, high - low + 1)
            total += count * self.element_bytes[buffer]
        return int(total)


def read_nest(function: Any) -> Nest:
    """Return the tree of loops of a function of TIR."""
    return _Reader(function).nest()


def fused_extents(loop: Any) -> tuple[int, ...]:
    """Return the extents of the axes that were fused into a loop, outermost first; its own if there was one.

    They show in how blocks below compute their axes: as quotients and remainders of the loop's variable.
    Neighbours share through the cache what one axis does not move, and another axis moves that.
    """
    extent, made = int(loop.extent), []
    divisors: set[int] = set()
    _find_divisors(loop.body, loop.loop_var, divisors)
    left = extent
    for divisor in sorted(divisors, reverse=True):
        if 1 < divisor < left and left % divisor == 0:
            made.append(left // divisor)
            left = divisor
    return (*made, left)


def _find_divisors(node: Any, variable: Any, found: set[int]) -> None:
    if isinstance(node, tirx.For):
        _find_divisors(node.body, variable, found)
    elif isinstance(node, tirx.SeqStmt):
        for child in node:
            _find_divisors(child, variable, found)
    elif isinstance(node, tirx.IfThenElse):
        _find_divisors(node.then_case, variable, found)
        if node.else_case is not None:
            _find_divisors(node.else_case, variable, found)
    elif isinstance(node, s_tir.SBlockRealize):
        for value in node.iter_values:
            _scale(value, variable, found)
        _find_divisors(node.block.body, variable, found)


def _scale(expression: Any, variable: Any, found: set[int]) -> int:
    """Return by how much a variable is divided within an expression, 0 if it is not in it; note divisors."""
    if isinstance(expression, tirx.Var):
        return int(expression.same_as(variable))
    if isinstance(expression, tirx.FloorDiv | tirx.FloorMod) and isinstance(expression.b, tirx.IntImm):
        scale = _scale(expression.a, variable, found) * int(expression.b)
        if scale:
            found.add(scale)
        return scale if isinstance(expression, tirx.FloorDiv) else scale // int(expression.b)
    operands = (getattr(expression, name, None) for name in ("a", "b", "value"))
    scales = [_scale(operand, variable, found) for operand in operands if isinstance(operand, tvm.ir.Expr)]
    return max(scales, default=0)


def leaves_of(nodes: Iterable[Loop | Leaf]) -> Iterator[Leaf]:
    """Yield the leaves of some nodes, in order."""
    for node in nodes:
        if isinstance(node, Leaf):
            yield node
        else:
            yield from leaves_of(node.body)


def merge(boxes: Iterable[dict[int, Box]]) -> dict[int, Box]:
    """Return the least box of each buffer that holds all its boxes."""
    merged: dict[int, Box] = {}
    for one in boxes:
        for buffer, box in one.items():
            known = merged.get(buffer)
            if known is None:
                merged[buffer] = box
            elif known != box:
                merged[buffer] = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(known, box, strict=True)]
    return merged


def _settle(leaves: Sequence[Leaf], arguments: frozenset[int]) -> None:
    """Give each temporary the memory of one iteration of the loops that all its uses share.

    TVM allocates it there, so that the next iteration overwrites it in place.
    """
    homes: dict[int, tuple[int, ...]] = {}
    for leaf in leaves:
        for buffer in leaf.boxes[0]:
            shared = zip(homes.get(buffer, leaf.path), leaf.path, strict=False)
            homes[buffer] = tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], shared))
    for leaf in leaves:
        for buffer in leaf.boxes[0].keys() - arguments:
            for depth in range(len(homes[buffer])):
                leaf.boxes[depth][buffer] = leaf.boxes[len(homes[buffer])][buffer]


@dataclass(frozen=True, slots=True)
class _Around:
    """A loop around a block, and its variable, of which `span` values are an iteration."""

    number: int
    extent: int
    variable: int
    span: int
    iterations: int

    @property
    def middle(self) -> Bounds:
        """The values of the variable in the middle iteration."""
        first = self.iterations // 2 // self.span * self.span
        return first, first + self.span - 1


@dataclass(frozen=True, slots=True)
class _Region:
    """A part of a buffer that a block reads or writes: bounds of first index and extent, by dimension."""

    buffer: int
    spans: tuple[tuple[Bounder, Bounder, int], ...]

    def box(self, known: Sequence[Bounds]) -> Box:
        """Return the box that it covers, within the buffer, for some bounds of the variables."""
        box = []
        for first, extent, size in self.spans:
            low, high = first(known)
            box.append((int(max(0, low)), int(min(size - 1, high + extent(known)[1] - 1))))
        return box


class _Reader:
    """Reads one function: numbers its variables, loops and buffers as they are met."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._variables: dict[Any, int] = {}
        self._buffers: dict[Any, int] = {}
        self._bytes: list[float] = []
        self._loops: dict[int, Loop] = {}
        self._leaves: list[Leaf] = []

    def nest(self) -> Nest:
        arguments = frozenset(
            self._buffer(parameter)
            for parameter in self._function.params
            if isinstance(getattr(parameter, "ty", None), tvm.ir.Type) and hasattr(parameter.ty, "shape")
        )
        body = tuple(self._read(self._function.body, (), ()))
        _settle(self._leaves, arguments)
        return Nest(body, self._loops, tuple(self._leaves), arguments, tuple(self._bytes))

    def _read(
        self, node: Any, loops: tuple[_Around, ...], axes: tuple[tuple[int, Bounder], ...]
    ) -> Iterator[Loop | Leaf]:
        """Yield the nodes below; `loops` are around them, `axes` the bounds of the blocks' axes."""
        if isinstance(node, tirx.For):
            around = self._around(node)
            body = tuple(self._read(node.body, (*loops, *around), axes))
            # A loop inside a block belongs to the leaf.
            if body:
                yield self._loop(node, around, body)
        elif isinstance(node, tirx.SeqStmt):
            for child in node:
                yield from self._read(child, loops, axes)
        elif isinstance(node, tirx.IfThenElse):
            yield from self._read(node.then_case, loops, axes)
            if node.else_case is not None:
                yield from self._read(node.else_case, loops, axes)
        elif isinstance(node, s_tir.SBlockRealize):
            bound = zip(node.block.iter_vars, node.iter_values, strict=True)
            axes = (*axes, *((self._number(axis.var), self._bounder(value)) for axis, value in bound))
            inner = list(self._read(node.block.body, loops, axes))
            yield from inner or [self._leaf(node.block, loops, axes)]

    def _around(self, node: Any) -> tuple[_Around, ...]:
        """Return a loop, or those that were fused into it, outermost first."""
        variable, extent = self._number(node.loop_var), int(node.extent)
        fused = fused_extents(node) if node.kind == tirx.ForKind.PARALLEL else (extent,)
        made, span = [], extent
        for position, part in enumerate(fused):
            span //= part
            number = self._number((node.loop_var, position)) if position else variable
            made.append(_Around(number, part, variable, span, extent))
        return tuple(made)

    def _loop(self, node: Any, around: tuple[_Around, ...], body: tuple[Loop | Leaf, ...]) -> Loop:
        outermost, *inner = around
        for part in reversed(inner):
            loop = Loop(part.number, part.extent, False, body, 1, part.extent)
            self._loops[part.number] = loop
            body = (loop,)
        is_parallel = node.kind == tirx.ForKind.PARALLEL
        loop = Loop(outermost.number, outermost.extent, is_parallel, body, len(around), outermost.iterations)
        self._loops[outermost.number] = loop
        return loop

    def _leaf(self, block: Any, loops: tuple[_Around, ...], axes: tuple[tuple[int, Bounder], ...]) -> Leaf:
        made = (*block.alloc_buffers, *allocations(block.body))
        regions = [
            *(self._region(region) for region in (*block.reads, *block.writes)),
            *(self._whole(buffer) for buffer in made),
        ]
        known: list[Bounds] = [(0, 0)] * len(self._variables)
        for loop in loops:
            known[loop.variable] = (0, loop.iterations - 1)
        boxes = [_boxes(regions, axes, known)]
        for loop in loops:
            if loop.extent > 1:
                known[loop.variable] = loop.middle
                boxes.append(_boxes(regions, axes, known))
            else:
                boxes.append(boxes[-1])
        path = tuple(loop.number for loop in loops)
        work = prod(loop.extent for loop in loops) * max(1, count_operations(block.body))
        leaf = Leaf(path, tuple(boxes), work, PREPACKED in block.annotations)
        self._leaves.append(leaf)
        return leaf

    def _region(self, region: Any) -> _Region:
        spans = tuple(
            (self._bounder(span.min), self._bounder(span.extent), int(size))
            for span, size in zip(region.region, region.source.ty.shape, strict=True)
        )
        return _Region(self._buffer(region.source), spans)

    def _whole(self, buffer: Any) -> _Region:
        spans = tuple((self._bounder(0), self._bounder(int(size)), int(size)) for size in buffer.ty.shape)
        return _Region(self._buffer(buffer), spans)

    def _bounder(self, expression: Any) -> Bounder:
        return compile_bounds(expression, self._number)

    def _number(self, variable: Any) -> int:
        return self._variables.setdefault(variable, len(self._variables))

    def _buffer(self, buffer: Any) -> int:
        if buffer not in self._buffers:
            self._buffers[buffer] = len(self._buffers)
            self._bytes.append(int(tvm.DataType(str(buffer.ty.dtype)).bits) / 8)
        return self._buffers[buffer]


def _boxes(
    regions: Sequence[_Region], axes: Sequence[tuple[int, Bounder]], known: list[Bounds]
) -> dict[int, Box]:
    for number, bounder in axes:
        known[number] = bounder(known)
    return merge({region.buffer: region.box(known)} for region in regions)
