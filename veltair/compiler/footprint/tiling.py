"""Scheduled TIR -> parallelism, blocking bytes, compulsory bytes; and the traffic of one core's caches.

Pure: functions of a loop nest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import tvm
from tvm import s_tir, tirx

from veltair.compiler.footprint.nest import Box, Leaf, Loop, Nest, leaves_of, merge, read_nest
from veltair.compiler.footprint.traffic import CACHE_BYTES, Tiling

# TVM's kMaxStackAlloca: a buffer of so many bytes, or more, is in memory; a smaller one is on the stack, and
# LLVM keeps it in registers if it can.
STACK_BYTES = 1024


def read_tiling(function: Any) -> Tiling:
    """Return the tiling of a scheduled function."""
    return tiling_of(read_nest(function))


def analyse(function: Any) -> tuple[Tiling, tuple[int, ...]]:
    """Return the tiling of a scheduled function, and its bytes of traffic for each of `CACHE_BYTES`."""
    nest = read_nest(function)
    return tiling_of(nest), nest_traffic_bytes(nest, CACHE_BYTES)


def tiling_of(nest: Nest) -> Tiling:
    """Return the tiling of a loop nest: of its parallel part that has most work.

    A buffer counts by the box that is touched of it. One iteration is the middle one: those at the border
    read less because of padding. Packing of weights does not count, for it happens before. What an iteration
    makes and uses itself, its padded or packed input say, counts in its blocking where registers and stack do
    not hold it, but never as compulsory: it is overwritten in place and need not come from memory.
    """
    parts: dict[int, list[Leaf]] = {}
    for leaf in (leaf for leaf in nest.leaves if not leaf.prepacked):
        parallel = (position for position, number in enumerate(leaf.path) if nest.loops[number].parallel)
        parts.setdefault(next((leaf.path[position] for position in parallel), -1), []).append(leaf)
    number, part = max(parts.items(), key=lambda item: sum(leaf.work for leaf in item[1]))
    # What only this part touches and is no argument is a temporary of one iteration.
    others = (leaf for leaf in nest.leaves if leaf not in part)
    lasting = nest.arguments.union(buffer for leaf in others for buffer in leaf.boxes[0])
    inside = nest.loops[number].parts if number >= 0 else 0
    one = merge(leaf.boxes[leaf.path.index(number) + inside if number >= 0 else 0] for leaf in part)
    work_space = (nest.bytes_of({buffer: box}) for buffer, box in one.items() if buffer not in lasting)
    return Tiling(
        parallelism=nest.loops[number].iterations if number >= 0 else 1,
        blocking_bytes=_lasting_bytes(nest, one, lasting)
        + sum(size for size in work_space if size >= STACK_BYTES),
        compulsory_bytes=_lasting_bytes(nest, merge(leaf.boxes[0] for leaf in part), lasting),
    )


def work_space_bytes(nest: Nest) -> int:
    """Return the bytes of the temporaries of a loop nest that its parallel loops share.

    Those of one iteration are overwritten in place; these are written by one loop and read by another.
    """
    users: dict[int, list[Leaf]] = {}
    for leaf in nest.leaves:
        for buffer in leaf.boxes[0].keys() - nest.arguments:
            users.setdefault(buffer, []).append(leaf)
    sizes = (_shared_bytes(nest, buffer, leaves) for buffer, leaves in users.items())
    return sum(size for size in sizes if size >= STACK_BYTES)


def _shared_bytes(nest: Nest, buffer: int, leaves: Sequence[Leaf]) -> int:
    depth = 0
    for loops in zip(*(leaf.path for leaf in leaves), strict=False):
        if len(set(loops)) > 1:
            break
        if nest.loops[loops[0]].parallel:
            return 0
        depth += 1
    return nest.bytes_of(merge({buffer: leaf.boxes[depth][buffer]} for leaf in leaves))


def nest_traffic_bytes(nest: Nest, caches_bytes: Sequence[float]) -> tuple[int, ...]:
    """Return the bytes that one core fetches into caches of some sizes while it runs a loop nest.

    A part of the nest whose bytes fit fetches each once; a loop whose body fits fetches what all its
    iterations touch once, for neighbours share through the cache; any other loop fetches what its body does,
    each time. A loop into which several axes were fused is one for each. Caches are taken as fully
    associative, least recently used out first, in numbers, not lines; writing back is not counted, nor is
    packing of weights, which happens before. Loops inside a block are not seen: what the block touches, its
    work space too, counts once for each of its iterations, which is too little where a cache holds less than
    that. Source: the footprints of Wolf and Lam, PLDI 1991, section 3.
    """
    body = [node for node in nest.body if not all(leaf.prepacked for leaf in leaves_of([node]))]
    return tuple(round(amount) for amount in _Traffic(nest, tuple(caches_bytes)).of_sequence(body, 0))


def looks_up(function: Any) -> bool:
    """Return whether a function indexes a buffer by numbers that it reads, as embeddings do.

    Of such a buffer it may touch anything, so that no bytes of traffic follow from the loops.
    """
    return any(_looks_up(block.body, indexing=False) for block in _blocks(function.body))


def of_lookup(function: Any, tiling: Tiling) -> Tiling:
    """Return the tiling of a function that looks rows up, as it is told from its loops, but for these rows.

    Of a buffer that is indexed by what was read, no more is touched than there are results; each iteration
    has its part of them.
    """
    first_output = len(function.params) - count_outputs(function)
    sizes = [_argument_bytes(parameter) for parameter in function.params]
    made = sum(sizes[first_output:])
    found = {source for block in _blocks(function.body) for source in _looked_up(block.body)}
    touched = sum(
        min(size, made) if parameter in found else size
        for parameter, size in zip(function.params, sizes, strict=True)
    )
    compulsory = min(tiling.compulsory_bytes, touched)
    blocking = min(tiling.blocking_bytes, -(-compulsory // tiling.parallelism))
    return replace(tiling, blocking_bytes=blocking, compulsory_bytes=compulsory)


def count_macs(function: Any) -> int:
    """Return the multiply-accumulates of an unscheduled function: iterations of blocks that sum products."""
    return sum(
        prod(int(axis.dom.extent) for axis in block.iter_vars)
        for block in _blocks(function.body)
        if block.init is not None and _has_product(block.body)
    )


def count_outputs(function: Any) -> int:
    """Return how many of a function's arguments it writes; they are its last ones."""
    written = {region.source for block in _blocks(function.body) for region in block.writes}
    return sum(parameter in written for parameter in function.params)


@dataclass(frozen=True, slots=True)
class _Traffic:
    """The traffic of parts of a nest, a number for each cache; `depth` counts the loops around a part."""

    nest: Nest
    caches_bytes: tuple[float, ...]

    def of_sequence(self, nodes: Sequence[Loop | Leaf], depth: int) -> list[float]:
        parts = [self._of(node, depth) for node in nodes]
        if len(parts) == 1:
            return parts[0]
        apart = [sum(amounts) for amounts in zip(*parts, strict=True)] or [0.0] * len(self.caches_bytes)
        together = self._touched(nodes, depth)
        return self._least_where(together, apart, together)

    def _of(self, node: Loop | Leaf, depth: int) -> list[float]:
        if isinstance(node, Leaf):
            return [self._touched([node], depth)] * len(self.caches_bytes)
        body = self.of_sequence(node.body, depth + 1)
        if node.extent == 1:
            return body
        repeated = [node.extent * amount for amount in body]
        return self._least_where(self._touched(node.body, depth + 1), repeated, self._touched([node], depth))

    def _least_where(self, needed: float, amounts: list[float], other: float) -> list[float]:
        """Return the lesser of an amount and the other one for those caches that hold what is needed."""
        return [
            min(amount, other) if needed <= cache else amount
            for cache, amount in zip(self.caches_bytes, amounts, strict=True)
        ]

    def _touched(self, nodes: Sequence[Loop | Leaf], depth: int) -> float:
        return self.nest.bytes_of(merge(leaf.boxes[depth] for leaf in leaves_of(nodes)))


def _lasting_bytes(nest: Nest, boxes: dict[int, Box], lasting: frozenset[int]) -> int:
    return nest.bytes_of({buffer: box for buffer, box in boxes.items() if buffer in lasting})


def _blocks(node: Any) -> Iterator[Any]:
    """Yield the blocks without blocks inside."""
    if isinstance(node, tirx.For):
        yield from _blocks(node.body)
    elif isinstance(node, tirx.SeqStmt):
        for child in node:
            yield from _blocks(child)
    elif isinstance(node, tirx.IfThenElse):
        yield from _blocks(node.then_case)
        if node.else_case is not None:
            yield from _blocks(node.else_case)
    elif isinstance(node, s_tir.SBlockRealize):
        yield from list(_blocks(node.block.body)) or [node.block]


def _has_product(node: Any) -> bool:
    return isinstance(node, tirx.Mul) or any(map(_has_product, _operands(node)))


def _looks_up(node: Any, indexing: bool) -> bool:
    if indexing and isinstance(node, tvm.ir.expr.TensorLoad):
        return True
    return any(_looks_up(index, indexing=True) for index in getattr(node, "indices", ())) or any(
        _looks_up(operand, indexing) for operand in _operands(node)
    )


def _looked_up(node: Any) -> Iterator[Any]:
    """Yield the buffers that are indexed by numbers that are read."""
    if any(_looks_up(index, indexing=True) for index in getattr(node, "indices", ())):
        yield node.source
    for operand in _operands(node):
        yield from _looked_up(operand)


def _argument_bytes(parameter: Any) -> int:
    shape = prod(int(extent) for extent in parameter.ty.shape)
    return shape * int(tvm.DataType(str(parameter.ty.dtype)).bits) // 8


def _operands(node: Any) -> list[Any]:
    """Return the expressions that a node of TIR is made of, but for indices of buffers."""
    names = ("value", "a", "b", "condition", "true_value", "false_value")
    operands = [*(getattr(node, name, None) for name in names), *getattr(node, "args", ())]
    return [operand for operand in operands if isinstance(operand, tvm.ir.Expr)]
