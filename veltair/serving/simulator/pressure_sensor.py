"""What policies are told of pressure, where a source of interference would not read it exactly."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DRAWN_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class SensorError:
    """The error of a source of interference, as measured or as assumed. The defaults are an exact one.

    What is told is pressure x (1 + `relative_sigma` x a) + `sigma` x b, with a and b standard normal and new
    at each event, rounded to a multiple of `step` (0: not rounded) and clipped to [0, 1]. `sigma` and `step`
    are in units of pressure: levels that are 0.25 apart make 0.25 an error of one level.
    """

    sigma: float = 0.0
    relative_sigma: float = 0.0
    step: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sigma", "relative_sigma", "step"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"ProxyError: {name} is {getattr(self, name)}; give a finite number, 0 or more"
                )


class NoisyPressure:
    """Tells pressure with an error, from a random stream of its own: other streams do not feel it."""

    def __init__(self, error: SensorError) -> None:
        """Begin with the first event's errors."""
        self._error = error
        self._rng = np.random.default_rng(error.seed)
        self._drawn: list[list[float]] = []
        self.next_event()

    def next_errors(self) -> NDArray[np.float64]:
        """Return what `next_event` would draw for the events to come, shape (events, 2), as if it had."""
        errors = np.array(self._drawn or self._draw())[::-1]
        self._drawn = []
        return np.ascontiguousarray(errors)

    def next_event(self) -> None:
        """Draw the errors of the next event: within one, the same pressure is told the same."""
        if not self._drawn:
            self._drawn = self._draw()
        self._relative, self._absolute = self._drawn.pop()

    def _draw(self) -> list[list[float]]:
        drawn: list[list[float]] = self._rng.standard_normal((_DRAWN_AT_ONCE, 2)).tolist()
        return drawn

    def tell(self, pressure: float) -> float:
        """Return what is told of a pressure in [0, 1]."""
        error = self._error
        told = pressure * (1.0 + error.relative_sigma * self._relative) + error.sigma * self._absolute
        if error.step:
            told = round(told / error.step) * error.step
        return min(1.0, max(0.0, told))
