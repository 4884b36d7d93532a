"""Service noise drawn once for all rates and policies of a seed: common random numbers, at no cost anew."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

# Beyond so many queries a run draws for itself: to remember would take more memory than it saves time.
MOST_REMEMBERED = 20_000


class SharedDraws:
    """What a generator of random integers gave, to be given again from the first draw on."""

    def __init__(self, make: Callable[[], np.random.Generator]) -> None:
        """`make` returns the generator, in the same state each time."""
        self.make = make
        self.rng = make()
        self.drawn: list[tuple[tuple[int, int], NDArray[np.int64]]] = []

    def stream(self) -> "Stream":
        """Return a reader of the same draws as a fresh generator would give."""
        return Stream(self)


class Stream:
    """As much of a generator as the simulator uses, which gives what `SharedDraws` knows."""

    def __init__(self, shared: SharedDraws) -> None:
        self._shared = shared
        self._given = 0
        self._own: np.random.Generator | None = None

    def integers(self, high: int, /, *, size: int) -> NDArray[np.int64]:
        """Return `size` integers in [0, high), as the generator's next draw."""
        asked = (high, size)
        if self._own is not None:
            return self._own.integers(high, size=size)
        drawn = self._shared.drawn
        if self._given == len(drawn) < MOST_REMEMBERED:
            drawn.append((asked, self._shared.rng.integers(high, size=size)))
        if self._given < len(drawn) and drawn[self._given][0] == asked:
            self._given += 1
            return drawn[self._given - 1][1]
        self._own = self._generator()
        return self._own.integers(high, size=size)

    def _generator(self) -> np.random.Generator:
        """Return a generator that has drawn what this stream has given."""
        shared = self._shared
        if self._given == len(shared.drawn):
            return deepcopy(shared.rng)
        rng = shared.make()
        for (high, size), _ in shared.drawn[: self._given]:
            rng.integers(high, size=size)
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
