"""Two networks' latencies, side by side: blocks of runs in turn, so that both meet the same disturbances.

Each network lives in a process of its own. Two thread pools in one process disturb each other: ONNX Runtime's
threads spin for a while after each run, on cores that ours then need. So only one process is awake at a
time, after a pause in which the other's threads have gone to sleep, and who goes first alternates. What error
is left shows when a network is compared with itself: its ratio should be 1.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Protocol

BLOCK_S = 0.1
MOST_RUNS = 20  # of a block
MINIMUM_ROUNDS, MOST_ROUNDS = 5, 41
SETTLE_S = 0.02
WARM_S = 1.0


class Timed(Protocol):
    """What can be compared; see `TimedProcess`."""

    def time(self, runs: int) -> list[float]:
        """Return the seconds of so many runs."""


@dataclass(frozen=True, slots=True)
class PairedLatencies:
    """The latencies of two networks: for each round the median of a block of each, in seconds."""

    ours_s: tuple[float, ...]
    theirs_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.ours_s or len(self.ours_s) != len(self.theirs_s):
            raise ValueError(
                f"Comparison: {len(self.ours_s)} and {len(self.theirs_s)} rounds; give both equally many"
            )
        if min(*self.ours_s, *self.theirs_s) <= 0:
            raise ValueError("Comparison: a latency is not above 0; give seconds")

    @property
    def ratios(self) -> tuple[float, ...]:
        """Theirs ÷ ours of each round: above 1 where ours is faster."""
        return tuple(b / a for a, b in zip(self.ours_s, self.theirs_s, strict=True))

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return median(self.ratios)


def compare(
    ours: Timed, theirs: Timed, budget_s: float, sleep: Callable[[float], None] = time.sleep
) -> PairedLatencies:
    """Run both in turn for about `budget_s`, in at least 5 rounds and at most 41.

    Both run for a second first, unmeasured. The first run of a block finds the caches as the other left them,
    so it does not count where a block has room for more.
    """
    run_s = max(warm_up(ours), warm_up(theirs))
    runs = block_runs(run_s)
    rounds = rounds_within(budget_s, 2 * (runs * run_s + SETTLE_S))
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        pair = ((0, ours), (1, theirs))
        for index, network in pair if number % 2 == 0 else pair[::-1]:
            sleep(SETTLE_S)
            block = network.time(runs)
            seconds[index].append(median(block[1:] or block))
    return PairedLatencies(tuple(seconds[0]), tuple(seconds[1]))


def block_runs(run_s: float) -> int:
    """Return the runs of a block: as many as fill 0.1 s, from 1 to 20."""
    return max(1, min(MOST_RUNS, round(BLOCK_S / run_s)))


def rounds_within(budget_s: float, round_s: float) -> int:
    """Return the rounds that fit a budget, from 5 to 41."""
    return max(MINIMUM_ROUNDS, min(MOST_ROUNDS, int(budget_s / round_s)))


def warm_up(network: Timed) -> float:
    """Return the seconds of a run, once the network ran for a second."""
    seconds = network.time(1)
    while sum(seconds) < WARM_S:
        seconds = [*seconds, *network.time(max(1, round((WARM_S - sum(seconds)) / seconds[-1])))]
    return seconds[-1]
