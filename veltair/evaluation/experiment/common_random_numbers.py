"""Service noise drawn once for all rates and policies of a seed: common random numbers, at no cost anew."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

# Beyond so many draws (each of a part of a trace) a run draws for itself: to remember would take more memory
# than it saves time.
MOST_REMEMBERED = 40


class SharedDraws:
    """What a generator of random integers gave, to be given again from the first draw on."""

    def __init__(self, make: Callable[[], np.random.Generator]) -> None:
        """`make` returns the generator, in the same state each time."""
        self.make = make
        self.rng = make()
        self.drawn: list[tuple[NDArray[np.uint32], NDArray[np.uint32]]] = []

    def stream(self) -> "Stream":
        """Return a reader of the same draws as a fresh generator would give."""
        return Stream(self)


class Stream:
    """As much of a generator as the simulator uses, which gives what `SharedDraws` knows."""

    def __init__(self, shared: SharedDraws) -> None:
        self._shared = shared
        self._given = 0
        self._own: np.random.Generator | None = None

    def integers(self, high: NDArray[np.int64], /) -> NDArray[np.uint32]:
        """Return an integer in [0, bound) for each bound up to 2^32 - 1, as the generator's next draws."""
        if self._own is not None:
            return _draw(self._own, high)
        drawn = self._shared.drawn
        if self._given == len(drawn) < MOST_REMEMBERED:
            drawn.append((high.astype(np.uint32), _draw(self._shared.rng, high)))
        if self._given < len(drawn) and np.array_equal(drawn[self._given][0], high):
            self._given += 1
            return drawn[self._given - 1][1]
        self._own = self._generator()
        return _draw(self._own, high)

    def _generator(self) -> np.random.Generator:
        """Return a generator that has drawn what this stream has given."""
        shared = self._shared
        if self._given == len(shared.drawn):
            return deepcopy(shared.rng)
        rng = shared.make()
        for high, _ in shared.drawn[: self._given]:
            rng.integers(high.astype(np.int64))
        return rng


class Draws:
    """The shared draws of a site, by seed."""

    def __init__(self) -> None:
        self._by_seed: dict[int, SharedDraws] = {}

    def stream(self, seed: int, make: Callable[[], np.random.Generator]) -> Stream:
        """Return a reader of the draws of a seed."""
        if seed not in self._by_seed:
            self._by_seed[seed] = SharedDraws(make)
        return self._by_seed[seed].stream()


def _draw(rng: np.random.Generator, high: NDArray[np.int64]) -> NDArray[np.uint32]:
    return rng.integers(high).astype(np.uint32)
