"""Measurement error of the pressure sensor, injected in simulation."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DRAWN_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class SensorError:
    """The error of a source of interference, as measured or as assumed. The default is an exact one.

    A reading is pressure + `sigma` x a standard normal number, new at each event, clipped to [0, 1]. `sigma`
    is in units of pressure: levels that are 0.25 apart make 0.25 an error of one level.
    """

    sigma: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"SensorError: sigma is {self.sigma}; give a finite number, 0 or more")


class NoisyPressure:
    """Reads pressure with an error, drawn from a random stream that nothing else uses."""

    def __init__(self, error: SensorError) -> None:
        """Begin with the first event's errors."""
        self._error = error
        self._rng = np.random.default_rng(error.seed)
        self._drawn: list[float] = []
        self.next_event()

    def next_errors(self) -> NDArray[np.float64]:
        """Return what `next_event` would draw for the events to come, shape (events,), as if it had."""
        errors = np.array(self._drawn or self._draw())[::-1]
        self._drawn = []
        return np.ascontiguousarray(errors)

    def next_event(self) -> None:
        """Draw the error of the next event: within one, the same pressure is read the same."""
        if not self._drawn:
            self._drawn = self._draw()
        self._drawn_error = self._drawn.pop()

    def read(self, pressure: float) -> float:
        """Return the reading of a pressure in [0, 1]."""
        return min(1.0, max(0.0, pressure + self._error.sigma * self._drawn_error))

    def _draw(self) -> list[float]:
        # The second number of each pair: so the shipped tables of sensitivity are repeated to the last bit.
        drawn: list[float] = self._rng.standard_normal((_DRAWN_AT_ONCE, 2))[:, 1].tolist()
        return drawn
