"""Where the activations of a query lie in one piece of memory. Pure.

Those whose lives do not overlap share bytes, so that a network works in as little of the caches as it can.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# A cache line, which is also what kernels want of their arguments.
ALIGNMENT_BYTES = 64

# Where each activation begins, in bytes, and the bytes of all together.
Placed = tuple[list[int], int]


@dataclass(frozen=True, slots=True)
class Life:
    """An activation of some bytes: written by layer `first`, read by layer `last` at the latest."""

    first: int
    last: int
    nbytes: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last or self.nbytes < 0:
            raise ValueError(
                f"{self}: give layers from 0 on, the first not after the last, and no negative size"
            )

    def meets(self, other: "Life") -> bool:
        """Tell whether both are needed at once: a kernel may write before it has read all."""
        return self.first <= other.last and other.first <= self.last


def place(lives: Sequence[Life]) -> Placed:
    """Return where each activation begins, in bytes, and the bytes of all together.

    The largest is placed first, each at the lowest place that is free as long as it lives. Source: greedy by
    size, Pisarchyk and Lee, "Efficient memory management for deep neural net inference", MLSys 2020 workshop.
    """
    offsets = [0] * len(lives)
    placed: list[int] = []
    for number in sorted(range(len(lives)), key=lambda one: -lives[one].nbytes):
        taken = sorted(
            (offsets[other], offsets[other] + whole_lines(lives[other].nbytes))
            for other in placed
            if lives[other].meets(lives[number])
        )
        offsets[number] = _first_gap(taken, whole_lines(lives[number].nbytes))
        placed.append(number)
    ends = (offset + whole_lines(life.nbytes) for offset, life in zip(offsets, lives, strict=True))
    return offsets, max(ends, default=0)


def _first_gap(taken: Sequence[tuple[int, int]], nbytes: int) -> int:
    end = 0
    for start, stop in taken:
        if start - end >= nbytes:
            return end
        end = max(end, stop)
    return end


def whole_lines(nbytes: int) -> int:
    """Return whole lines; an empty activation has one too, so that no two begin at one byte."""
    return max(1, -(-nbytes // ALIGNMENT_BYTES)) * ALIGNMENT_BYTES
