"""Which rates are measured in which order: all servers in turn, round by round, each rate with one schedule.

What disturbs the machine for minutes meets all servers of a round alike, and the order is drawn anew for each
rate, so that nobody always comes after the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Slot:
    """One rate in one round: what is offered to every server, with the same arrivals.

    `share` is that of the sequential rate, and `seed` that of LoadGen's schedule, of no other slot.
    """

    round: int
    share: float
    qps: float
    seed: int

    def __str__(self) -> str:
        """Return how progress names it."""
        return f"round {self.round}, {self.share:g} of the sequential rate ({self.qps:.4g} QPS)"


@dataclass(frozen=True, slots=True)
class Grid:
    """The rates that all servers are measured at: ascending shares of the sequential rate, in queries/s."""

    shares: tuple[float, ...]
    sequential_qps: float
    seed: int

    def __post_init__(self) -> None:
        ascending = all(low < high for low, high in zip(self.shares, self.shares[1:], strict=False))
        if not (self.shares and ascending and self.shares[0] * self.sequential_qps > 0.0):
            raise ValueError(
                f"Grid: shares {list(self.shares)} of {self.sequential_qps} QPS; give ascending ones above 0"
            )

    def round(self, number: int, servers: Sequence[str]) -> list[tuple[Slot, list[str]]]:
        """Return the slots of a round in the order in which they are served, each with its order of servers.

        Orders and schedules depend on the grid's seed and the number of the round only.
        """
        generator = np.random.default_rng([self.seed, number])
        found = []
        for index in generator.permutation(len(self.shares)).tolist():
            share = self.shares[index]
            (seed,) = np.random.SeedSequence([self.seed, number, index]).generate_state(1)
            slot = Slot(number, share, share * self.sequential_qps, int(seed))
            found.append((slot, [servers[place] for place in generator.permutation(len(servers))]))
        return found
