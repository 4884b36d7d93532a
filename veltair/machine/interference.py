"""From what running blocks show to a pressure in [0, 1]."""

from dataclasses import dataclass
from typing import Protocol

# The weight of the newest block in the average: a few blocks, so a change shows within one query or two.
NEWEST = 0.25
# Below this slowdown at full pressure the tables cannot tell a level from noise.
LEAST_EFFECT = 1.02


class InterferenceSource(Protocol):
    """Says under what pressure the machine is."""

    name: str

    def observe(self, measured_s: float, alone_s: float, pressed_s: float) -> None:
        """Learn from a block: its time, and its profiled times alone and at full pressure."""

    def pressure(self) -> float:
        """Return the pressure in [0, 1]."""


@dataclass(slots=True)
class ObservedSlowdown:
    """The proxy that needs no counters: how much longer blocks took than profiled alone, averaged.

    A block's slowdown is placed between those of the profile alone (pressure 0) and at its highest level (1).
    """

    name: str = "observed slowdown"
    _average: float = 0.0

    def observe(self, measured_s: float, alone_s: float, pressed_s: float) -> None:
        """Learn from a block. One whose profile shows no effect of pressure teaches nothing."""
        if alone_s <= 0 or pressed_s < LEAST_EFFECT * alone_s:
            return
        place = (measured_s - alone_s) / (pressed_s - alone_s)
        self._average += NEWEST * (min(1.0, max(0.0, place)) - self._average)

    def pressure(self) -> float:
        """Return the average place of the last blocks between alone and full pressure."""
        return self._average
